//! [`Gpu`]: the first GPU, opened once a specialization.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use gapura_kernels::device::{
    CudaDevice, Device, DeviceError, DeviceProperties, KernelCache, Op, Readback, Recording,
    Region, Specialization, Transfer,
};

/// Devices that no test holds. One that was opened stays until the process ends: hundreds of cases
/// would open hundreds of contexts.
static IDLE: Mutex<Option<HashMap<Specialization, CudaDevice>>> = Mutex::new(None);

/// A device that gives back what was allocated of it, and itself, when it is dropped.
pub(crate) struct Gpu {
    specialization: Specialization,
    /// There until it is dropped.
    device: Option<CudaDevice>,
    properties: DeviceProperties,
    regions: Vec<Region>,
}

impl Gpu {
    pub(crate) fn take(specialization: Specialization) -> Self {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_or_insert_default().remove(&specialization);
        let device = kept.unwrap_or_else(|| {
            let cache = KernelCache::new(std::env::var_os("GAPURA_KERNEL_CACHE").unwrap().into());
            CudaDevice::open(0, specialization, &cache).unwrap_or_else(|error| panic!("{error}"))
        });
        Self {
            specialization,
            properties: device.properties().clone(),
            device: Some(device),
            regions: Vec::new(),
        }
    }

    fn device(&mut self) -> &mut CudaDevice {
        self.device.as_mut().unwrap()
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        let Some(mut device) = self.device.take() else {
            return;
        };
        let mut regions = self.regions.iter();
        // One that fails is not kept: the test that made it fail has its own message.
        if regions.all(|region| device.free(*region).is_ok()) {
            let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
            idle.get_or_insert_default()
                .insert(self.specialization, device);
        }
    }
}

impl Device for Gpu {
    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        self.device.as_ref().unwrap().free_bytes()
    }

    fn allocate(&mut self, bytes: u64) -> Result<Region, DeviceError> {
        let region = self.device().allocate(bytes)?;
        self.regions.push(region);
        Ok(region)
    }

    fn free(&mut self, region: Region) -> Result<(), DeviceError> {
        self.regions.retain(|other| *other != region);
        self.device().free(region)
    }

    fn transfer(
        &mut self,
        transfers: &[Transfer<'_>],
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), DeviceError> {
        self.device().transfer(transfers, progress)
    }

    fn write(&mut self, to: Region, bytes: &[u8]) -> Result<(), DeviceError> {
        self.device().write(to, bytes)
    }

    fn run(&mut self, ops: &[Op]) -> Result<(), DeviceError> {
        self.device().run(ops)
    }

    fn record(&mut self, ops: &[Op]) -> Result<Recording, DeviceError> {
        self.device().record(ops)
    }

    fn replay(&mut self, recording: Recording) -> Result<(), DeviceError> {
        self.device().replay(recording)
    }

    fn read_back(&mut self, from: Region) -> Result<Readback, DeviceError> {
        self.device().read_back(from)
    }

    fn wait(&mut self, readback: Readback) -> Result<Vec<u8>, DeviceError> {
        self.device().wait(readback)
    }

    fn time(&mut self, ops: &[Op], times: u32) -> Result<f64, DeviceError> {
        self.device().time(ops, times)
    }
}
