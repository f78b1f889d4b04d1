//! The device side of the engine: memory with addresses, operations on it, and what runs them.
//!
//! A step is a list of [`Op`]s, a *launch plan*. Each is a plain parameter block that knows which
//! kernel it launches, with which grid ([`Op::launch`]), and what that kernel is to compute
//! (`Op::interpret`). So one plan runs on three devices:
//! - a GPU, by the kernels in `host/kernels/cuda`: [`CudaDevice`];
//! - this machine, by the references in Rust: [`HostDevice::interpreter`];
//! - this machine, by the kernels' own source compiled for it: [`HostDevice::emulator`].
//!
//! The last two check every address that a plan names against what was allocated.

mod cuda;
pub mod emulation;
mod error;
mod format;
mod host;
mod interpret;
mod launch;
mod memory;
mod ops;
mod sources;

pub use cuda::{CudaDevice, Finding, KernelCache, probe};
pub use error::DeviceError;
pub use format::{DeviceMatrix, MatrixFormat};
pub use host::HostDevice;
pub use launch::{Launch, Specialization, Upload};
pub use memory::{Address, Region};
pub use ops::*;

/// What a device computes activations, keys and values in. Residual stream, norms, softmax and
/// logits are float32 on every device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// bfloat16: what models are trained in, and what tensor cores multiply.
    Bf16,
    /// float32: to compare with; twice the memory, a fraction of the speed.
    F32,
}

impl Precision {
    /// Of one element.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceProperties {
    /// As its driver calls it, such as `NVIDIA H200`.
    pub name: String,
    /// Multiprocessors: how many blocks keep it busy.
    pub num_multiprocessors: u32,
    /// Major and minor, such as `(9, 0)`.
    pub compute_capability: (u32, u32),
    /// Shared memory that one block can have.
    pub shared_bytes_per_block: u32,
    /// Of the device.
    pub total_bytes: u64,
}

/// A recorded list of operations, to be replayed with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Recording(pub u32);

/// A copy to the host that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readback(pub u64);

/// Writes some rows of a [`Transfer`], given by their range, as they are to lie on the device.
pub type Fill<'a> = dyn Fn(std::ops::Range<usize>, &mut [u8]) + Send + Sync + 'a;

/// Rows of host data on their way into a device's memory.
pub struct Transfer<'a> {
    /// `rows * row_bytes` bytes.
    pub to: Region,
    /// Rows, of which a device takes as many at once as it has staging memory for.
    pub rows: usize,
    /// Bytes of one row on the device.
    pub row_bytes: usize,
    /// Called by several threads.
    pub fill: Box<Fill<'a>>,
}

/// A device with its own memory and one queue of work. Whatever is put into the queue happens in
/// that order. What waits for the device:
/// - [`wait`](Self::wait) and [`time`](Self::time), for the work up to what they ask for;
/// - [`transfer`](Self::transfer), for all queued work, as its copies are queued behind it;
/// - [`free`](Self::free), for all queued work, since it may use the memory;
/// - [`write`](Self::write) where it finds all its buffers under way, for the oldest of them: a
///   caller that keeps few steps queued never does.
pub trait Device: Send {
    /// What it is.
    fn properties(&self) -> &DeviceProperties;

    /// Bytes that [`allocate`](Self::allocate) could still give.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    fn free_bytes(&self) -> Result<u64, DeviceError>;

    /// Takes memory, aligned to 256 bytes, of any content.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn allocate(&mut self, bytes: u64) -> Result<Region, DeviceError>;

    /// Waits until all queued work is done, and gives memory back.
    ///
    /// # Errors
    /// [`DeviceError::Driver`]; [`DeviceError::Outside`] where it was not allocated so.
    fn free(&mut self, region: Region) -> Result<(), DeviceError>;

    /// Fills regions from host data through staging buffers, by several threads, and returns
    /// when all is there: behind all that was queued before. `progress` gets the bytes done so far.
    ///
    /// # Errors
    /// [`DeviceError::Driver`], [`DeviceError::Outside`]; [`DeviceError::Refused`] without memory
    /// for the buffers.
    fn transfer(
        &mut self,
        transfers: &[Transfer<'_>],
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), DeviceError>;

    /// Queues a copy of `bytes`, which are taken before it returns, to the beginning of `to`. Takes
    /// one of a few buffers, or several in turn if `bytes` are very many; where its last copy is
    /// still under way, waits for that and so for the work queued before it.
    ///
    /// # Errors
    /// [`DeviceError::Driver`], [`DeviceError::Outside`]; [`DeviceError::Refused`] without memory
    /// for a buffer.
    fn write(&mut self, to: Region, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Queues operations.
    ///
    /// # Errors
    /// [`DeviceError::Driver`], [`DeviceError::Launch`], [`DeviceError::Outside`];
    /// [`DeviceError::Compile`] and [`DeviceError::Refused`] where something has no kernel: then
    /// nothing is queued.
    fn run(&mut self, ops: &[Op]) -> Result<(), DeviceError>;

    /// Prepares operations for [`replay`](Self::replay): a CUDA graph. Runs nothing.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`DeviceError::Refused`] also for want of memory.
    fn record(&mut self, ops: &[Op]) -> Result<Recording, DeviceError>;

    /// Queues what was recorded.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn replay(&mut self, recording: Recording) -> Result<(), DeviceError>;

    /// Queues a copy of `from` to the host.
    ///
    /// # Errors
    /// [`DeviceError::Driver`], [`DeviceError::Outside`]; [`DeviceError::Refused`] without memory
    /// for a buffer.
    fn read_back(&mut self, from: Region) -> Result<Readback, DeviceError>;

    /// Waits for such a copy, not for work queued after it, and gives its bytes. Each can be had
    /// once.
    ///
    /// # Errors
    /// [`DeviceError::Driver`]: also what earlier queued work failed with.
    fn wait(&mut self, readback: Readback) -> Result<Vec<u8>, DeviceError>;

    /// Seconds that the device took for `ops`, repeated `times`, by its own clock; waits for them.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn time(&mut self, ops: &[Op], times: u32) -> Result<f64, DeviceError>;
}
