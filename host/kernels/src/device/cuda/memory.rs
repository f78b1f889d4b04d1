//! Memory of the device, and pinned memory of the host by which it is filled and read.

use std::{collections::BTreeMap, ptr::NonNull};

use cudarc::driver::sys::{self, CUresult};
use rayon::prelude::*;

use super::driver::{Context, Event, Stream, driver, succeeded};
use crate::device::{Address, DeviceError, Readback, Region, Transfer};

/// Of each of the two buffers that [`Staging`] fills in turn.
const STAGING_BYTES: usize = 32 << 20;

/// Threads that fill one of them.
const STAGING_THREADS: usize = 8;

/// The most that one buffer of [`WriteRing`] grows to; longer writes take several.
const WRITE_BYTES: usize = 4 << 20;

/// Writes that can be under way before the next one waits for the oldest.
const WRITES: usize = 4;

/// A part of the device's memory. `cuMemAlloc` aligns to 256 bytes at least.
pub(super) struct DeviceMemory {
    address: u64,
    bytes: u64,
}

impl DeviceMemory {
    pub(super) fn new(context: &Context, bytes: u64) -> Result<Self, DeviceError> {
        let mut address = 0;
        // The driver refuses to allocate nothing.
        let size = usize::try_from(bytes.max(1)).unwrap_or(usize::MAX);
        // SAFETY: the driver stores an address.
        match unsafe { sys::cuMemAlloc_v2(&raw mut address, size) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(DeviceError::OutOfMemory {
                required: bytes,
                available: context.free_and_total_bytes()?.0,
            }),
            status => {
                succeeded("cuMemAlloc", status)?;
                Ok(Self { address, bytes })
            }
        }
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`; whoever drops it has waited for the work that uses it. What
        // fails here has failed before.
        let _ = unsafe { sys::cuMemFree_v2(self.address) };
    }
}

/// What was allocated, by address.
#[derive(Default)]
pub(super) struct Allocations(BTreeMap<u64, DeviceMemory>);

impl Allocations {
    pub(super) fn allocate(
        &mut self,
        context: &Context,
        bytes: u64,
    ) -> Result<Region, DeviceError> {
        let memory = DeviceMemory::new(context, bytes)?;
        let address = memory.address;
        self.0.insert(address, memory);
        Ok(Region {
            address: Address(address),
            bytes,
        })
    }

    pub(super) fn free(&mut self, region: Region, stream: &Stream) -> Result<(), DeviceError> {
        let address = region.address.0;
        if self
            .0
            .get(&address)
            .is_none_or(|memory| memory.bytes != region.bytes)
        {
            return Err(outside("free", region.address, region.bytes));
        }
        stream.synchronize()?;
        self.0.remove(&address);
        Ok(())
    }

    /// Whether so many bytes at `address` are within one allocation.
    pub(super) fn check(
        &self,
        what: &'static str,
        address: Address,
        bytes: u64,
    ) -> Result<(), DeviceError> {
        let memory = self.0.range(..=address.0).next_back();
        let is_within = memory.is_some_and(|(start, memory)| {
            let end = (address.0 - start).checked_add(bytes);
            end.is_some_and(|end| end <= memory.bytes)
        });
        if is_within {
            Ok(())
        } else {
            Err(outside(what, address, bytes))
        }
    }

    /// Whether `bytes` fit into `region`, and it is within one allocation.
    pub(super) fn check_fits(
        &self,
        what: &'static str,
        region: Region,
        bytes: u64,
    ) -> Result<(), DeviceError> {
        if bytes > region.bytes {
            return Err(outside(what, region.address, bytes));
        }
        self.check(what, region.address, bytes)
    }
}

fn outside(what: &'static str, address: Address, bytes: u64) -> DeviceError {
    DeviceError::Outside {
        what,
        address: address.0,
        bytes,
    }
}

/// Page-locked memory of the host, which the device reads and writes by itself.
struct Pinned {
    start: NonNull<u8>,
    bytes: usize,
}

impl Pinned {
    fn new(bytes: usize) -> Result<Self, DeviceError> {
        let mut start = std::ptr::null_mut();
        // SAFETY: the driver stores a pointer to so many bytes.
        unsafe { driver!(cuMemHostAlloc(&raw mut start, bytes, 0)) }
            .map_err(DeviceError::into_refusal)?;
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(|| DeviceError::Refused {
            call: "cuMemHostAlloc",
            reason: "it gave no memory".to_owned(),
        })?;
        // SAFETY: `start` is the beginning of `bytes` bytes that nobody else has. The driver does
        // not say what they hold, and Rust wants to know.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Self { start, bytes })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated and initialized by `new`, borrowed as `self` is; `CopyBuffer` borrows
        // only while no copy is under way.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`; `CopyBuffer` has waited for the last copy. What fails here
        // has failed before.
        let _ = unsafe { sys::cuMemFreeHost(self.start.as_ptr().cast()) };
    }
}

/// Pinned memory with at most one copy from or to it under way.
struct CopyBuffer {
    memory: Pinned,
    copied: Event,
    under_way: bool,
}

impl CopyBuffer {
    /// Of `bytes`, rounded up so that buffers fit again.
    fn new(bytes: usize) -> Result<Self, DeviceError> {
        let copied = Event::new().map_err(DeviceError::into_refusal)?;
        let memory = Pinned::new(bytes.max(4096).next_power_of_two())?;
        Ok(Self {
            memory,
            copied,
            under_way: false,
        })
    }

    /// Waits for the copy under way.
    fn settle(&mut self) -> Result<(), DeviceError> {
        if self.under_way {
            self.copied.wait()?;
            self.under_way = false;
        }
        Ok(())
    }

    /// The first `bytes` bytes, once they are free and there.
    fn bytes(&mut self, bytes: usize) -> Result<&mut [u8], DeviceError> {
        self.settle()?;
        if self.memory.bytes < bytes {
            self.memory = Pinned::new(bytes.next_power_of_two())?;
        }
        Ok(&mut self.memory.bytes()[..bytes])
    }

    /// Queues a copy of the first `bytes` bytes to the device.
    ///
    /// `to` must be so many bytes of the device's memory.
    fn upload(&mut self, to: u64, bytes: usize, stream: &Stream) -> Result<(), DeviceError> {
        self.settle()?;
        let from = self.memory.bytes()[..bytes].as_ptr().cast();
        // SAFETY: `from` are `bytes` bytes, which stay and are not written before `copied` has
        // passed; the caller has checked `to`.
        unsafe { driver!(cuMemcpyHtoDAsync_v2(to, from, bytes, stream.raw())) }?;
        self.mark(stream)
    }

    /// Queues a copy of `bytes` bytes of the device's memory, which `from` must be, to the
    /// beginning.
    fn download(&mut self, from: u64, bytes: usize, stream: &Stream) -> Result<(), DeviceError> {
        self.settle()?;
        let to = self.memory.bytes()[..bytes].as_mut_ptr().cast();
        // SAFETY: `to` are `bytes` bytes, which stay and are not looked at before `copied` has
        // passed; the caller has checked `from`.
        unsafe { driver!(cuMemcpyDtoHAsync_v2(to, from, bytes, stream.raw())) }?;
        self.mark(stream)
    }

    fn mark(&mut self, stream: &Stream) -> Result<(), DeviceError> {
        let marked = self.copied.record(stream);
        if marked.is_err() {
            // Nothing tells when the copy is done but the end of all work.
            stream.synchronize()?;
        } else {
            self.under_way = true;
        }
        marked
    }
}

impl Drop for CopyBuffer {
    fn drop(&mut self) {
        // Where this fails the context is lost, and nothing is copied any more.
        let _ = self.settle();
    }
}

/// Two buffers: while one is copied to the device, threads fill the other.
#[derive(Default)]
pub(super) struct Staging(Option<[CopyBuffer; 2]>);

impl Staging {
    /// As [`Device::transfer`](crate::device::Device::transfer). The regions must have been
    /// checked.
    pub(super) fn transfer(
        &mut self,
        transfers: &[Transfer<'_>],
        stream: &Stream,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), DeviceError> {
        let buffers = match &mut self.0 {
            Some(buffers) => buffers,
            none => none.insert([
                CopyBuffer::new(STAGING_BYTES)?,
                CopyBuffer::new(STAGING_BYTES)?,
            ]),
        };
        let mut done = 0;
        let mut next = 0;
        for transfer in transfers.iter().filter(|transfer| transfer.row_bytes > 0) {
            // A single row that is longer makes its buffer grow.
            let rows_at_once = (STAGING_BYTES / transfer.row_bytes).max(1);
            for first in (0..transfer.rows).step_by(rows_at_once) {
                let rows = rows_at_once.min(transfer.rows - first);
                let bytes = rows * transfer.row_bytes;
                let buffer = &mut buffers[next];
                next = 1 - next;
                fill(transfer, first, buffer.bytes(bytes)?);
                let to = transfer.to.address.0 + (first * transfer.row_bytes) as u64;
                buffer.upload(to, bytes, stream)?;
                done += bytes as u64;
                progress(done);
            }
        }
        buffers.iter_mut().try_for_each(CopyBuffer::settle)
    }
}

/// Fills `out` with rows from `first` on, each thread a run of them.
fn fill(transfer: &Transfer<'_>, first: usize, out: &mut [u8]) {
    let rows = out.len() / transfer.row_bytes;
    let rows_per_thread = rows.div_ceil(STAGING_THREADS);
    out.par_chunks_mut(rows_per_thread * transfer.row_bytes)
        .enumerate()
        .for_each(|(part, out)| {
            let first = first + part * rows_per_thread;
            let rows = out.len() / transfer.row_bytes;
            (transfer.fill)(first..first + rows, out);
        });
}

/// Buffers for small uploads, used in turn.
#[derive(Default)]
pub(super) struct WriteRing {
    buffers: Vec<CopyBuffer>,
    next: usize,
}

impl WriteRing {
    /// Queues a copy of `bytes` to the device's memory at `to`, which must have been checked.
    pub(super) fn write(
        &mut self,
        to: u64,
        bytes: &[u8],
        stream: &Stream,
    ) -> Result<(), DeviceError> {
        for (index, part) in bytes.chunks(WRITE_BYTES).enumerate() {
            if self.buffers.len() < WRITES {
                self.next = self.buffers.len();
                self.buffers.push(CopyBuffer::new(part.len())?);
            }
            let buffer = &mut self.buffers[self.next];
            self.next = (self.next + 1) % WRITES;
            buffer.bytes(part.len())?.copy_from_slice(part);
            buffer.upload(to + (index * WRITE_BYTES) as u64, part.len(), stream)?;
        }
        Ok(())
    }
}

/// Copies to the host that nobody has asked for yet, and buffers that wait for the next.
#[derive(Default)]
pub(super) struct Readbacks {
    under_way: BTreeMap<u64, (CopyBuffer, usize)>,
    idle: Vec<CopyBuffer>,
    issued: u64,
}

impl Readbacks {
    /// Queues a copy of `from`, which must have been checked.
    pub(super) fn start(&mut self, from: Region, stream: &Stream) -> Result<Readback, DeviceError> {
        let bytes = from.bytes as usize;
        let fitting = self
            .idle
            .iter()
            .position(|buffer| buffer.memory.bytes >= bytes);
        let mut buffer = match fitting {
            Some(index) => self.idle.swap_remove(index),
            None => CopyBuffer::new(bytes)?,
        };
        if bytes > 0 {
            buffer.download(from.address.0, bytes, stream)?;
        }
        let id = self.issued;
        self.issued += 1;
        self.under_way.insert(id, (buffer, bytes));
        Ok(Readback(id))
    }

    /// The bytes of one of them, once they are there.
    pub(super) fn finish(&mut self, readback: Readback) -> Result<Vec<u8>, DeviceError> {
        let Some((mut buffer, bytes)) = self.under_way.remove(&readback.0) else {
            return Err(DeviceError::Driver {
                call: "wait",
                reason: format!("there is no readback {}", readback.0),
                is_sticky: false,
            });
        };
        let bytes = buffer.bytes(bytes)?.to_vec();
        self.idle.push(buffer);
        Ok(bytes)
    }
}
