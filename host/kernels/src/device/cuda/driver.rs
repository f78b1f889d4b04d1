//! NVIDIA's driver: its library, its errors, one device's context with one stream.
//!
//! cudarc looks for the library when the first function is called, and panics where it or a
//! function of it is missing. So everything here goes through [`Driver::load`] first, and a
//! context is had only where [`FUNCTIONS`] are all there.

use std::ffi::{CStr, c_int, c_uint, c_void};

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute, CUevent, CUevent_flags, CUresult, CUstream,
    CUstream_flags,
};

use crate::device::{DeviceError, DeviceProperties};

/// CUDA 12.0: the first whose drivers load what NVRTC 12 compiles.
const OLDEST: c_int = 12_000;

/// What the kernels need: bfloat16, and copies from global to shared memory that wait nowhere.
const LEAST_CAPABILITY: (u32, u32) = (8, 0);

const LIBRARY: &str = "libcuda.so.1";

/// Everything that this module's neighbours call. All of it is older than [`OLDEST`].
const FUNCTIONS: [&str; 37] = [
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
];

/// `cuEventElapsedTime`, which cudarc knows only by the name that it has had since CUDA 12.8.
type ElapsedFn = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;

/// Calls a function of the driver and turns its status into a [`DeviceError`] with its name.
macro_rules! driver {
    ($function:ident($($argument:expr),* $(,)?)) => {
        $crate::device::cuda::driver::succeeded(
            stringify!($function),
            cudarc::driver::sys::$function($($argument),*),
        )
    };
}
pub(super) use driver;

/// An error names the function and has the driver's own words.
pub(super) fn succeeded(call: &'static str, status: CUresult) -> Result<(), DeviceError> {
    match status {
        CUresult::CUDA_SUCCESS => Ok(()),
        status => Err(DeviceError::Driver {
            call,
            reason: describe(status),
            is_sticky: is_sticky(status),
        }),
    }
}

/// Whether a status stays: CUDA reports it from every later call of the process. Faults of kernels
/// do, and those of the device itself.
fn is_sticky(status: CUresult) -> bool {
    matches!(
        status,
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_UNKNOWN
    )
}

fn describe(status: CUresult) -> String {
    let mut text = std::ptr::null();
    // SAFETY: the function is looked for before it is called. It stores a pointer to a text of
    // its own, or none.
    let told = has("cuGetErrorString")
        && unsafe { sys::cuGetErrorString(status, &raw mut text) } == CUresult::CUDA_SUCCESS;
    if !told || text.is_null() {
        return format!("{status:?}");
    }
    // SAFETY: the driver's texts end with a zero and stay where they are.
    let text = unsafe { CStr::from_ptr(text) };
    format!("{status:?}, {}", text.to_string_lossy())
}

/// Whether the driver, which has been loaded, has a function.
fn has(function: &str) -> bool {
    // SAFETY: the symbol is only looked for; its type plays no part.
    unsafe { sys::culib().get::<*const c_void>(function) }.is_ok()
}

/// A driver that started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Driver {
    version: c_int,
}

impl Driver {
    /// Loads and starts the driver; more than once does no harm.
    pub(super) fn load() -> Result<Self, DeviceError> {
        // SAFETY: the driver's library runs nothing but its own initialization when it is loaded.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::Library {
                library: LIBRARY,
                advice: "it comes with NVIDIA's driver, which a container gets from its host \
                         (docker: --gpus all)"
                    .to_owned(),
            });
        }
        let needed = ["cuDriverGetVersion", "cuInit", "cuDeviceGetCount"];
        Self::require(&needed)?;
        let mut version = 0;
        // SAFETY: the function is there and may be called before `cuInit`; it writes one int.
        unsafe { driver!(cuDriverGetVersion(&raw mut version)) }?;
        let driver = Self { version };
        if version < OLDEST {
            return Err(DeviceError::Unusable {
                reason: format!(
                    "NVIDIA's driver is for {driver}, and CUDA 12.0 is needed: install driver 525 \
                     or newer"
                ),
            });
        }
        // SAFETY: the function is there and takes no memory of ours.
        match unsafe { sys::cuInit(0) } {
            CUresult::CUDA_SUCCESS => Ok(driver),
            CUresult::CUDA_ERROR_NO_DEVICE => Err(no_device()),
            status => Err(DeviceError::Unusable {
                reason: format!(
                    "NVIDIA's driver does not start: {}; `nvidia-smi` tells more",
                    describe(status)
                ),
            }),
        }
    }

    fn require(functions: &[&str]) -> Result<(), DeviceError> {
        match functions.iter().find(|function| !has(function)) {
            None => Ok(()),
            Some(function) => Err(DeviceError::Unusable {
                reason: format!("{LIBRARY} has no {function}: it is not a whole driver"),
            }),
        }
    }

    /// Whether a library that was made for some major version of CUDA works with this driver: it
    /// does unless the driver is for an older one. `package` is its name without a version in
    /// Python's index.
    pub(super) fn check_library(
        self,
        found: &str,
        library_major: c_int,
        package: &str,
    ) -> Result<(), DeviceError> {
        let major = self.version / 1000;
        if library_major <= major {
            return Ok(());
        }
        let package = match major {
            12 => format!("{package}-cu12"),
            _ => format!("{package}=={major}.*"),
        };
        Err(DeviceError::Unusable {
            reason: format!(
                "{found} needs a driver for CUDA {library_major}, and NVIDIA's driver is for \
                 {self}: install the library of CUDA {major} (`pip install \"{package}\"`) and set \
                 LD_LIBRARY_PATH to its folder, or install a newer driver"
            ),
        })
    }

    /// How many devices there are.
    pub(super) fn count(self) -> Result<u32, DeviceError> {
        let mut count = 0;
        // SAFETY: the driver has started; it writes one int.
        unsafe { driver!(cuDeviceGetCount(&raw mut count)) }?;
        match u32::try_from(count) {
            Ok(count @ 1..) => Ok(count),
            _ => Err(no_device()),
        }
    }

    /// The device with this number, whether it can be used or not.
    pub(super) fn gpu(self, ordinal: u32) -> Result<Gpu, DeviceError> {
        Self::require(&FUNCTIONS)?;
        let count = self.count()?;
        if ordinal >= count {
            return Err(DeviceError::Unusable {
                reason: format!("there is no GPU {ordinal}: there are {count}, counted from 0"),
            });
        }
        let mut device = 0;
        // SAFETY: the driver has started and has such a device; it writes one int.
        unsafe { driver!(cuDeviceGet(&raw mut device, ordinal as c_int)) }?;
        Gpu::describe(device)
    }
}

impl std::fmt::Display for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "CUDA {}.{}",
            self.version / 1000,
            self.version % 1000 / 10
        )
    }
}

fn no_device() -> DeviceError {
    DeviceError::Unusable {
        reason: "NVIDIA's driver finds no GPU: `nvidia-smi` and CUDA_VISIBLE_DEVICES tell why, \
                 and a container must be given one (docker: --gpus all)"
            .to_owned(),
    }
}

/// A device before anything is done with it.
pub(super) struct Gpu {
    device: CUdevice,
    pub(super) properties: DeviceProperties,
}

impl Gpu {
    fn describe(device: CUdevice) -> Result<Self, DeviceError> {
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: the device is the driver's own; it writes one int.
            unsafe { driver!(cuDeviceGetAttribute(&raw mut value, which, device)) }?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let mut name = [0_u8; 128];
        // SAFETY: the driver writes at most the given number of bytes, a zero among them.
        unsafe {
            driver!(cuDeviceGetName(
                name.as_mut_ptr().cast(),
                name.len() as c_int,
                device
            ))
        }?;
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
        let mut total = 0;
        // SAFETY: as for attributes.
        unsafe { driver!(cuDeviceTotalMem_v2(&raw mut total, device)) }?;
        let properties = DeviceProperties {
            name: name.to_string_lossy().into_owned(),
            num_multiprocessors: attribute(
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            )?,
            compute_capability: (
                attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            shared_bytes_per_block: attribute(
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            total_bytes: total as u64,
        };
        Ok(Self { device, properties })
    }

    /// Whether the kernels run on it.
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        let (major, minor) = self.properties.compute_capability;
        if (major, minor) >= LEAST_CAPABILITY {
            return Ok(());
        }
        Err(DeviceError::Unusable {
            reason: format!(
                "{} has compute capability {major}.{minor}, and the kernels need 8.0 for bfloat16: \
                 run the model on the CPU, best as a GGUF, or use an Ampere (A10, A100, RTX 30) or \
                 newer GPU",
                self.properties.name
            ),
        })
    }

    /// Takes the device's primary context and makes it this thread's.
    pub(super) fn context(&self) -> Result<Context, DeviceError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the device is the driver's own; it stores a handle.
        unsafe { driver!(cuDevicePrimaryCtxRetain(&raw mut raw, self.device)) }?;
        let context = Context {
            device: self.device,
            raw,
        };
        context.enter()?;
        Ok(context)
    }
}

/// A device's primary context. Every call that needs one is made after [`enter`](Self::enter), by
/// the same thread.
pub(super) struct Context {
    device: CUdevice,
    raw: CUcontext,
}

impl Context {
    /// Makes it the calling thread's.
    pub(super) fn enter(&self) -> Result<(), DeviceError> {
        // SAFETY: the context is held until `self` is dropped.
        unsafe { driver!(cuCtxSetCurrent(self.raw)) }
    }

    /// Bytes that are free, and all.
    #[expect(
        clippy::unused_self,
        reason = "there is an answer only within a context"
    )]
    pub(super) fn free_and_total_bytes(&self) -> Result<(u64, u64), DeviceError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the driver writes two numbers.
        unsafe { driver!(cuMemGetInfo_v2(&raw mut free, &raw mut total)) }?;
        Ok((free as u64, total as u64))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once by `Gpu::context`, and all that was made in it is gone. What fails
        // here has failed before.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// A queue of work, of its own: it does not wait for other users of the context.
pub(super) struct Stream(CUstream);

impl Stream {
    pub(super) fn new() -> Result<Self, DeviceError> {
        let mut raw = std::ptr::null_mut();
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
        // SAFETY: the driver stores a handle.
        unsafe { driver!(cuStreamCreate(&raw mut raw, flags)) }?;
        Ok(Self(raw))
    }

    /// For calls that put work into it.
    pub(super) fn raw(&self) -> CUstream {
        self.0
    }

    /// Waits until all queued work is done.
    pub(super) fn synchronize(&self) -> Result<(), DeviceError> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { driver!(cuStreamSynchronize(self.0)) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and not used afterwards. What fails here has failed before.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.0) };
    }
}

/// A place in a stream's work.
pub(super) struct Event(CUevent);

impl Event {
    /// To wait for.
    pub(super) fn new() -> Result<Self, DeviceError> {
        Self::with(CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// To take the time between two.
    pub(super) fn timed() -> Result<Self, DeviceError> {
        Self::with(CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn with(flags: CUevent_flags) -> Result<Self, DeviceError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the driver stores a handle.
        unsafe { driver!(cuEventCreate(&raw mut raw, flags as c_uint)) }?;
        Ok(Self(raw))
    }

    /// Puts it behind the work that is queued now.
    pub(super) fn record(&self, stream: &Stream) -> Result<(), DeviceError> {
        // SAFETY: both live as long as their borrows.
        unsafe { driver!(cuEventRecord(self.0, stream.0)) }
    }

    /// Waits until the work before it is done.
    pub(super) fn wait(&self) -> Result<(), DeviceError> {
        // SAFETY: the event lives as long as `self`.
        unsafe { driver!(cuEventSynchronize(self.0)) }
    }

    /// Seconds from `self` to `later`, both passed.
    pub(super) fn seconds_until(&self, later: &Self) -> Result<f64, DeviceError> {
        let call = "cuEventElapsedTime";
        // SAFETY: every driver has the symbol, with this signature.
        let elapsed = unsafe { sys::culib().get::<ElapsedFn>(call) };
        let elapsed = elapsed.map_err(|error| DeviceError::Driver {
            call,
            reason: error.to_string(),
            is_sticky: false,
        })?;
        let mut milliseconds = 0.0;
        // SAFETY: both events live; the driver writes one float.
        let status = unsafe { elapsed(&raw mut milliseconds, self.0, later.0) };
        succeeded(call, status)?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `with`, and not used afterwards. What fails here has failed before.
        let _ = unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}
