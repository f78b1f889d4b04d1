//! [`HostDevice`]: launch plans without a GPU.

mod arena;
mod library;

use std::path::Path;

pub(super) use arena::Arena;
use library::KernelLibrary;

use super::{
    Device, DeviceError, DeviceProperties, Op, Readback, Recording, Region, Transfer,
    launch::Specialization,
};

/// A device in this machine's memory. It computes when it is told to, so nothing is ever under
/// way, and it fails on the first address that a plan should not have named.
pub struct HostDevice {
    properties: DeviceProperties,
    specialization: Specialization,
    arena: Arena,
    recordings: Vec<Vec<Op>>,
    readbacks: Vec<Option<Vec<u8>>>,
    library: Option<KernelLibrary>,
}

impl HostDevice {
    /// Computes every operation by its reference.
    ///
    /// # Errors
    /// [`DeviceError::Launch`] where `specialization` has no kernels: what runs here runs there.
    pub fn interpreter(
        specialization: Specialization,
        capacity_bytes: u64,
    ) -> Result<Self, DeviceError> {
        Self::new("interpreter", specialization, capacity_bytes, None)
    }

    /// Computes every operation by its kernel, from the library that `emulation.cpp` and the
    /// kernels' sources were compiled to for this machine; what a GPU leaves to its own library
    /// ([`Op::Gemm`]) by the reference.
    ///
    /// # Errors
    /// As [`interpreter`](Self::interpreter); [`DeviceError::Library`].
    pub fn emulator(
        specialization: Specialization,
        capacity_bytes: u64,
        library: &Path,
    ) -> Result<Self, DeviceError> {
        let library = KernelLibrary::open(library)?;
        Self::new("emulator", specialization, capacity_bytes, Some(library))
    }

    fn new(
        name: &str,
        specialization: Specialization,
        capacity_bytes: u64,
        library: Option<KernelLibrary>,
    ) -> Result<Self, DeviceError> {
        specialization.check()?;
        Ok(Self {
            properties: DeviceProperties {
                name: name.to_owned(),
                // Few, so that small models too have their attention split and merged.
                num_multiprocessors: 8,
                compute_capability: (9, 0),
                shared_bytes_per_block: 99 << 10,
                total_bytes: capacity_bytes,
            },
            specialization,
            arena: Arena::new(capacity_bytes),
            recordings: Vec::new(),
            readbacks: Vec::new(),
            library,
        })
    }

    /// The order in which the emulator lets the threads of a block go on, 0 for their own. Results
    /// that depend on it betray a missing barrier.
    pub fn shuffle_threads(&mut self, seed: u32) {
        if let Some(library) = &mut self.library {
            library.order = seed;
        }
    }

    fn run_one(&mut self, op: &Op) -> Result<(), DeviceError> {
        op.check(self.specialization)?;
        match (&self.library, op.launch(self.specialization)) {
            (Some(library), Some(launch)) => {
                library.run(op.name(), &launch)?;
                self.arena.check_borders(op.name())
            }
            _ => op.interpret(self.specialization, &mut self.arena),
        }
    }
}

impl Device for HostDevice {
    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        Ok(self.arena.free_bytes())
    }

    fn allocate(&mut self, bytes: u64) -> Result<Region, DeviceError> {
        self.arena.allocate(bytes)
    }

    fn free(&mut self, region: Region) -> Result<(), DeviceError> {
        self.arena.free(region)
    }

    fn transfer(
        &mut self,
        transfers: &[Transfer<'_>],
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), DeviceError> {
        let mut done = 0;
        for transfer in transfers {
            let bytes = (transfer.rows * transfer.row_bytes) as u64;
            let to = self.arena.write("transfer", transfer.to.address, bytes)?;
            // In two parts, so that ranges that do not begin at 0 are met.
            let half = transfer.rows / 2;
            let (first, second) = to.split_at_mut(half * transfer.row_bytes);
            (transfer.fill)(0..half, first);
            (transfer.fill)(half..transfer.rows, second);
            done += bytes;
            progress(done);
        }
        Ok(())
    }

    fn write(&mut self, to: Region, bytes: &[u8]) -> Result<(), DeviceError> {
        if bytes.len() as u64 > to.bytes {
            return Err(DeviceError::Outside {
                what: "write",
                address: to.address.0,
                bytes: bytes.len() as u64,
            });
        }
        let to = self.arena.write("write", to.address, bytes.len() as u64)?;
        to.copy_from_slice(bytes);
        Ok(())
    }

    fn run(&mut self, ops: &[Op]) -> Result<(), DeviceError> {
        ops.iter().try_for_each(|op| self.run_one(op))
    }

    fn record(&mut self, ops: &[Op]) -> Result<Recording, DeviceError> {
        for op in ops {
            op.check(self.specialization)?;
        }
        self.recordings.push(ops.to_vec());
        Ok(Recording(self.recordings.len() as u32 - 1))
    }

    fn replay(&mut self, recording: Recording) -> Result<(), DeviceError> {
        let Some(ops) = self.recordings.get(recording.0 as usize).cloned() else {
            return Err(DeviceError::Driver {
                call: "replay",
                reason: format!("there is no recording {}", recording.0),
                is_sticky: false,
            });
        };
        self.run(&ops)
    }

    fn read_back(&mut self, from: Region) -> Result<Readback, DeviceError> {
        let bytes = self
            .arena
            .read("read back", from.address, from.bytes)?
            .to_vec();
        self.readbacks.push(Some(bytes));
        Ok(Readback(self.readbacks.len() as u64 - 1))
    }

    fn wait(&mut self, readback: Readback) -> Result<Vec<u8>, DeviceError> {
        let waiting = self.readbacks.get_mut(readback.0 as usize);
        let bytes = waiting.and_then(Option::take);
        bytes.ok_or_else(|| DeviceError::Driver {
            call: "wait",
            reason: format!("there is no readback {}", readback.0),
            is_sticky: false,
        })
    }

    fn time(&mut self, ops: &[Op], times: u32) -> Result<f64, DeviceError> {
        let start = std::time::Instant::now();
        for _ in 0..times {
            self.run(ops)?;
        }
        Ok(start.elapsed().as_secs_f64())
    }
}
