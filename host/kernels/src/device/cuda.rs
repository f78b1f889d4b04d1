//! [`CudaDevice`]: an NVIDIA GPU, by its driver's own interface.
//!
//! Nothing of CUDA is linked: driver, cuBLASLt and NVRTC are looked for when they are first
//! needed, and whatever is missing is an error that says where it comes from.

mod cache;
mod driver;
mod gemm;
mod graphs;
mod kernels;
mod memory;
mod nvrtc;
mod probe;

pub use cache::KernelCache;
use driver::{Context, Driver, Event, Stream};
use gemm::GemmLibrary;
use graphs::Graphs;
use kernels::Kernels;
use memory::{Allocations, Readbacks, Staging, WriteRing};
pub use probe::{Finding, probe};

use super::{
    Device, DeviceError, DeviceProperties, Gemm, Launch, Op, Readback, Recording, Region, Transfer,
    launch::Specialization,
};

/// A GPU with one stream of work in its primary context.
///
/// Dropping it waits for all work and gives back all memory.
pub struct CudaDevice {
    // In the order in which they must go: what uses something before what it uses.
    graphs: Graphs,
    kernels: Kernels,
    gemm: GemmLibrary,
    staging: Staging,
    writes: WriteRing,
    readbacks: Readbacks,
    allocations: Allocations,
    started: Event,
    ended: Event,
    stream: Stream,
    context: Context,
    properties: DeviceProperties,
    specialization: Specialization,
}

// SAFETY: what keeps it from being `Send` are the handles of driver and libraries, which any thread
// may use, one at a time, once the context is its own: every method begins with `Context::enter`.
unsafe impl Send for CudaDevice {}

impl CudaDevice {
    /// Takes GPU number `ordinal`, as the driver counts them from 0, with kernels from `cache` or
    /// compiled into it.
    ///
    /// # Errors
    /// The first of these that is not there: a driver for CUDA 12 or newer, the GPU, compute
    /// capability 8.0, kernels or NVRTC to compile them, cuBLASLt, neither library of a later CUDA
    /// than the driver's. [`DeviceError::Library`] where
    /// it can be installed, [`DeviceError::Unusable`] where it cannot be used;
    /// [`DeviceError::Launch`] where `specialization` has no kernels; [`DeviceError::Compile`];
    /// [`DeviceError::Driver`].
    pub fn open(
        ordinal: u32,
        specialization: Specialization,
        cache: &KernelCache,
    ) -> Result<Self, DeviceError> {
        specialization.check()?;
        let driver = Driver::load()?;
        let gpu = driver.gpu(ordinal)?;
        gpu.check()?;
        let cubins = cache.cubins(
            gpu.properties.compute_capability,
            specialization,
            Some(driver),
        )?;
        gemm::load_for(driver)?;
        let context = gpu.context()?;
        let stream = Stream::new()?;
        Ok(Self {
            graphs: Graphs::default(),
            kernels: Kernels::load(cubins, driver)?,
            gemm: GemmLibrary::new(&context, specialization.precision)?,
            staging: Staging::default(),
            writes: WriteRing::default(),
            readbacks: Readbacks::default(),
            allocations: Allocations::default(),
            started: Event::timed()?,
            ended: Event::timed()?,
            stream,
            context,
            properties: gpu.properties,
            specialization,
        })
    }

    /// Checks all operations and looks up what they need, so that nothing is queued of a list that
    /// cannot be queued whole.
    fn prepare<'a>(&mut self, ops: &'a [Op]) -> Result<Vec<Step<'a>>, DeviceError> {
        let mut steps = Vec::with_capacity(ops.len());
        for op in ops {
            op.check(self.specialization)?;
            if let Op::Gemm(gemm) = op {
                self.gemm.prepare(gemm)?;
                steps.push(Step::Gemm(gemm));
            } else if let Some(launch) = op.launch(self.specialization) {
                self.kernels.prepare(&launch)?;
                steps.push(Step::Launch(launch));
            }
        }
        Ok(steps)
    }
}

/// An operation that is ready to be queued.
enum Step<'a> {
    Launch(Launch),
    Gemm(&'a Gemm),
}

fn queue(
    steps: &[Step<'_>],
    kernels: &mut Kernels,
    gemm: &mut GemmLibrary,
    stream: &Stream,
) -> Result<(), DeviceError> {
    steps.iter().try_for_each(|step| match step {
        Step::Launch(launch) => kernels.launch(launch, stream),
        Step::Gemm(product) => gemm.queue(product, stream),
    })
}

impl Device for CudaDevice {
    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        self.context.enter()?;
        Ok(self.context.free_and_total_bytes()?.0)
    }

    fn allocate(&mut self, bytes: u64) -> Result<Region, DeviceError> {
        self.context.enter()?;
        self.allocations.allocate(&self.context, bytes)
    }

    fn free(&mut self, region: Region) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.allocations.free(region, &self.stream)
    }

    fn transfer(
        &mut self,
        transfers: &[Transfer<'_>],
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), DeviceError> {
        self.context.enter()?;
        for transfer in transfers {
            let bytes = (transfer.rows as u64).saturating_mul(transfer.row_bytes as u64);
            self.allocations
                .check_fits("transfer", transfer.to, bytes)?;
        }
        self.staging.transfer(transfers, &self.stream, progress)
    }

    fn write(&mut self, to: Region, bytes: &[u8]) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.allocations
            .check_fits("write", to, bytes.len() as u64)?;
        self.writes.write(to.address.0, bytes, &self.stream)
    }

    fn run(&mut self, ops: &[Op]) -> Result<(), DeviceError> {
        self.context.enter()?;
        let steps = self.prepare(ops)?;
        queue(&steps, &mut self.kernels, &mut self.gemm, &self.stream)
    }

    fn record(&mut self, ops: &[Op]) -> Result<Recording, DeviceError> {
        self.context.enter()?;
        let steps = self.prepare(ops)?;
        self.graphs.record(&self.stream, || {
            queue(&steps, &mut self.kernels, &mut self.gemm, &self.stream)
        })
    }

    fn replay(&mut self, recording: Recording) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.graphs.replay(recording, &self.stream)
    }

    fn read_back(&mut self, from: Region) -> Result<Readback, DeviceError> {
        self.context.enter()?;
        self.allocations
            .check("read back", from.address, from.bytes)?;
        self.readbacks.start(from, &self.stream)
    }

    fn wait(&mut self, readback: Readback) -> Result<Vec<u8>, DeviceError> {
        self.context.enter()?;
        self.readbacks.finish(readback)
    }

    fn time(&mut self, ops: &[Op], times: u32) -> Result<f64, DeviceError> {
        self.context.enter()?;
        let steps = self.prepare(ops)?;
        self.started.record(&self.stream)?;
        for _ in 0..times {
            queue(&steps, &mut self.kernels, &mut self.gemm, &self.stream)?;
        }
        self.ended.record(&self.stream)?;
        self.ended.wait()?;
        self.started.seconds_until(&self.ended)
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // A context that is lost fails here, and has nothing left to wait for.
        let _ = self.context.enter();
        let _ = self.stream.synchronize();
    }
}
