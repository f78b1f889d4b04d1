//! [`Arena`]: a device's memory on this machine, which knows what was allocated.

use std::{
    alloc::{Layout, alloc, dealloc},
    collections::BTreeMap,
    ptr::NonNull,
};

use crate::device::{Address, DeviceError, Precision, Region};

/// Bytes that nobody may touch, on either side of an allocation.
const BORDER: usize = 256;

/// What borders and memory that was never written hold: as float32 and as bf16 not a number.
const UNTOUCHED: u8 = 0xff;

/// Allocations by address.
pub(crate) struct Arena {
    blocks: BTreeMap<u64, Block>,
    capacity_bytes: u64,
    used_bytes: u64,
}

/// Border, memory, border.
struct Block {
    start: NonNull<u8>,
    layout: Layout,
    bytes: usize,
}

// SAFETY: a block is the only owner of its memory, and hands out borrows of it only along with
// borrows of itself.
unsafe impl Send for Block {}
// SAFETY: as above; through a shared borrow memory is only read.
unsafe impl Sync for Block {}

impl Block {
    fn new(bytes: usize) -> Option<Self> {
        let size = bytes.next_multiple_of(BORDER).checked_add(2 * BORDER)?;
        let layout = Layout::from_size_align(size, BORDER).ok()?;
        // SAFETY: the layout is of 512 bytes at least.
        let start = NonNull::new(unsafe { alloc(layout) })?;
        // SAFETY: `start` is the beginning of `size` bytes that were just allocated.
        unsafe { start.write_bytes(UNTOUCHED, size) };
        Some(Self {
            start,
            layout,
            bytes,
        })
    }

    fn all(&self) -> &[u8] {
        // SAFETY: allocated with this size, initialized by `new`, borrowed as `self` is.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    fn memory(&self) -> &[u8] {
        &self.all()[BORDER..][..self.bytes]
    }

    fn memory_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `all`, and `self` is borrowed for writing.
        let all =
            unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) };
        &mut all[BORDER..][..self.bytes]
    }

    fn address(&self) -> u64 {
        self.memory().as_ptr() as u64
    }

    fn has_whole_borders(&self) -> bool {
        let (before, rest) = self.all().split_at(BORDER);
        let is_untouched = |border: &[u8]| border.iter().all(|&byte| byte == UNTOUCHED);
        is_untouched(before) && is_untouched(&rest[self.bytes..])
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl Arena {
    pub(super) fn new(capacity_bytes: u64) -> Self {
        Self {
            blocks: BTreeMap::new(),
            capacity_bytes,
            used_bytes: 0,
        }
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity_bytes - self.used_bytes
    }

    pub(super) fn allocate(&mut self, bytes: u64) -> Result<Region, DeviceError> {
        let available = self.free_bytes();
        let block = usize::try_from(bytes)
            .ok()
            .filter(|_| bytes <= available)
            .and_then(Block::new);
        let Some(block) = block else {
            return Err(DeviceError::OutOfMemory {
                required: bytes,
                available,
            });
        };
        let address = block.address();
        self.used_bytes += bytes;
        self.blocks.insert(address, block);
        Ok(Region {
            address: Address(address),
            bytes,
        })
    }

    pub(super) fn free(&mut self, region: Region) -> Result<(), DeviceError> {
        let Some(block) = self.blocks.remove(&region.address.0) else {
            return Err(outside("free", region.address, region.bytes));
        };
        self.used_bytes -= block.bytes as u64;
        Ok(())
    }

    /// Finds what wrote past the end or before the beginning of an allocation.
    pub(super) fn check_borders(&self, what: &'static str) -> Result<(), DeviceError> {
        let broken = self
            .blocks
            .values()
            .find(|block| !block.has_whole_borders());
        match broken {
            Some(block) => Err(outside(what, Address(block.address()), block.bytes as u64)),
            None => Ok(()),
        }
    }

    pub(crate) fn read(
        &self,
        what: &'static str,
        address: Address,
        bytes: u64,
    ) -> Result<&[u8], DeviceError> {
        let (start, block) = self
            .blocks
            .range(..=address.0)
            .next_back()
            .ok_or_else(|| outside(what, address, bytes))?;
        range(address.0 - start, bytes)
            .and_then(|range| block.memory().get(range))
            .ok_or_else(|| outside(what, address, bytes))
    }

    pub(crate) fn write(
        &mut self,
        what: &'static str,
        address: Address,
        bytes: u64,
    ) -> Result<&mut [u8], DeviceError> {
        let (start, block) = self
            .blocks
            .range_mut(..=address.0)
            .next_back()
            .ok_or_else(|| outside(what, address, bytes))?;
        range(address.0 - start, bytes)
            .and_then(|range| block.memory_mut().get_mut(range))
            .ok_or_else(|| outside(what, address, bytes))
    }

    /// `count` float32 at `address`.
    pub(crate) fn f32s(
        &self,
        what: &'static str,
        address: Address,
        count: usize,
    ) -> Result<Vec<f32>, DeviceError> {
        let bytes = self.read(what, address, 4 * count as u64)?;
        let values = bytes.as_chunks().0.iter();
        Ok(values.map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// `count` u32 at `address`.
    pub(crate) fn u32s(
        &self,
        what: &'static str,
        address: Address,
        count: usize,
    ) -> Result<Vec<u32>, DeviceError> {
        let bytes = self.read(what, address, 4 * count as u64)?;
        let values = bytes.as_chunks().0.iter();
        Ok(values.map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    /// `count` activations at `address`.
    pub(crate) fn acts(
        &self,
        precision: Precision,
        what: &'static str,
        address: Address,
        count: usize,
    ) -> Result<Vec<f32>, DeviceError> {
        match precision {
            Precision::F32 => self.f32s(what, address, count),
            Precision::Bf16 => {
                let bytes = self.read(what, address, 2 * count as u64)?;
                let values = bytes.as_chunks().0.iter();
                Ok(values
                    .map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32())
                    .collect())
            }
        }
    }

    pub(crate) fn put_f32s(
        &mut self,
        what: &'static str,
        address: Address,
        values: &[f32],
    ) -> Result<(), DeviceError> {
        let to = self.write(what, address, 4 * values.len() as u64)?;
        for (to, value) in to.as_chunks_mut().0.iter_mut().zip(values) {
            *to = value.to_le_bytes();
        }
        Ok(())
    }

    pub(crate) fn put_u32s(
        &mut self,
        what: &'static str,
        address: Address,
        values: &[u32],
    ) -> Result<(), DeviceError> {
        let to = self.write(what, address, 4 * values.len() as u64)?;
        for (to, value) in to.as_chunks_mut().0.iter_mut().zip(values) {
            *to = value.to_le_bytes();
        }
        Ok(())
    }

    /// Stores activations, rounded to `precision`.
    pub(crate) fn put_acts(
        &mut self,
        precision: Precision,
        what: &'static str,
        address: Address,
        values: &[f32],
    ) -> Result<(), DeviceError> {
        match precision {
            Precision::F32 => self.put_f32s(what, address, values),
            Precision::Bf16 => {
                let to = self.write(what, address, 2 * values.len() as u64)?;
                for (to, value) in to.as_chunks_mut().0.iter_mut().zip(values) {
                    *to = half::bf16::from_f32(*value).to_le_bytes();
                }
                Ok(())
            }
        }
    }
}

fn range(offset: u64, bytes: u64) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(usize::try_from(bytes).ok()?)?)
}

fn outside(what: &'static str, address: Address, bytes: u64) -> DeviceError {
    DeviceError::Outside {
        what,
        address: address.0,
        bytes,
    }
}
