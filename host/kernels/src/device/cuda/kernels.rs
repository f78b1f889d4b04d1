//! [`Kernels`]: the compiled modules in a context, and how their functions are launched.

use std::{
    collections::HashMap,
    ffi::{CString, c_int},
};

use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute, CUmodule};

use super::{
    cache::Cubin,
    driver::{Driver, Stream, driver},
};
use crate::device::{DeviceError, Launch};

/// Dynamic shared memory that a function may have without asking.
const DEFAULT_SHARED_BYTES: u32 = 48 << 10;

/// Every module, loaded.
pub(super) struct Kernels(Vec<Module>);

struct Module {
    name: &'static str,
    raw: CUmodule,
    functions: HashMap<String, Function>,
}

#[derive(Clone, Copy)]
struct Function {
    raw: CUfunction,
    shared_bytes: u32,
}

impl Kernels {
    /// Loads the modules into this thread's context.
    pub(super) fn load(cubins: Vec<Cubin>, driver: Driver) -> Result<Self, DeviceError> {
        let modules = cubins
            .into_iter()
            .map(|cubin| Module::load(cubin, driver))
            .collect::<Result<_, _>>()?;
        Ok(Self(modules))
    }

    /// Looks up what a launch needs, so that the launch itself only launches.
    pub(super) fn prepare(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        self.function(launch).map(|_| ())
    }

    /// Queues a launch.
    pub(super) fn launch(&mut self, launch: &Launch, stream: &Stream) -> Result<(), DeviceError> {
        let function = self.function(launch)?;
        let [x, y, z] = launch.grid;
        // A launch without blocks is an error to the driver.
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let mut params = [launch.params.as_ptr().cast_mut().cast()];
        let extra = std::ptr::null_mut();
        // SAFETY: the function belongs to a module that is loaded. Its only parameter is the
        // operation's block, as which `ops.cuh` declares the same fields, and the driver copies it
        // before it returns. What the kernel does with the addresses in it happens on the device,
        // where none of this process's memory is but pinned buffers, which no plan names.
        let launched = unsafe {
            driver!(cuLaunchKernel(
                function.raw,
                x,
                y,
                z,
                launch.block,
                1,
                1,
                launch.shared_bytes,
                stream.raw(),
                params.as_mut_ptr(),
                extra,
            ))
        };
        launched.map_err(|error| with_kernel(error, &launch.kernel))
    }

    fn function(&mut self, launch: &Launch) -> Result<Function, DeviceError> {
        let Some(module) = self
            .0
            .iter_mut()
            .find(|module| module.name == launch.module)
        else {
            return Err(DeviceError::Compile {
                module: launch.module.to_owned(),
                reason: "there is no such source".to_owned(),
            });
        };
        match module.functions.get(&launch.kernel) {
            Some(function) if function.shared_bytes >= launch.shared_bytes => Ok(*function),
            _ => module.look_up(launch),
        }
    }
}

fn with_kernel(error: DeviceError, kernel: &str) -> DeviceError {
    match error {
        DeviceError::Driver {
            call,
            reason,
            is_sticky,
        } => DeviceError::Driver {
            call,
            reason: format!("{kernel}: {reason}"),
            is_sticky,
        },
        other => other,
    }
}

impl Module {
    fn load(cubin: Cubin, driver: Driver) -> Result<Self, DeviceError> {
        let Cubin {
            module: name,
            mut image,
            path,
        } = cubin;
        // The driver takes an image without a length: it finds an end in what is no cubin, too.
        image.push(0);
        let mut raw = std::ptr::null_mut();
        // SAFETY: the image is the compiler's, whole (files appear in the cache only when they
        // are), and the driver copies what it needs.
        let loaded = unsafe { driver!(cuModuleLoadData(&raw mut raw, image.as_ptr().cast())) };
        loaded.map_err(|error| DeviceError::Compile {
            module: name.to_owned(),
            reason: format!(
                "{error}: {} is broken, or was compiled for a newer driver than this one for \
                 {driver}; delete it to have it compiled again, by NVRTC of that CUDA or an older",
                path.display()
            ),
        })?;
        Ok(Self {
            name,
            raw,
            functions: HashMap::new(),
        })
    }

    fn look_up(&mut self, launch: &Launch) -> Result<Function, DeviceError> {
        let failed = |error: String| DeviceError::Compile {
            module: self.name.to_owned(),
            reason: format!("{}: {error}", launch.kernel),
        };
        // A device that is gone is no fault of the kernel's.
        let refused = |error: DeviceError| match error.into_refusal() {
            refusal @ DeviceError::Refused { .. } => failed(refusal.to_string()),
            other => other,
        };
        let name =
            CString::new(launch.kernel.as_str()).map_err(|error| failed(error.to_string()))?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the module is loaded, the name ends with a zero; the driver stores a handle.
        unsafe { driver!(cuModuleGetFunction(&raw mut raw, self.raw, name.as_ptr())) }
            .map_err(refused)?;
        let shared_bytes = launch.shared_bytes.max(DEFAULT_SHARED_BYTES);
        if shared_bytes > DEFAULT_SHARED_BYTES {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is the module's.
            unsafe { driver!(cuFuncSetAttribute(raw, attribute, shared_bytes as c_int)) }
                .map_err(refused)?;
        }
        let function = Function { raw, shared_bytes };
        self.functions.insert(launch.kernel.clone(), function);
        Ok(function)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded by `load`; whoever drops it has waited for all launches. What fails here
        // has failed before.
        let _ = unsafe { sys::cuModuleUnload(self.raw) };
    }
}
