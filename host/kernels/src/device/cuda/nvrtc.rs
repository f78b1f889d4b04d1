//! The run-time compiler: kernel source to machine code of one architecture. It needs neither a
//! device nor a driver.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use cudarc::nvrtc::sys::{self, nvrtcProgram, nvrtcResult};

use super::driver::Driver;
use crate::device::DeviceError;

const LIBRARY: &str = "libnvrtc.so";

/// Everything that is called here. cudarc panics where one is missing.
const FUNCTIONS: [&str; 9] = [
    "nvrtcCompileProgram",
    "nvrtcCreateProgram",
    "nvrtcDestroyProgram",
    "nvrtcGetCUBIN",
    "nvrtcGetCUBINSize",
    "nvrtcGetErrorString",
    "nvrtcGetProgramLog",
    "nvrtcGetProgramLogSize",
    "nvrtcVersion",
];

/// A compiler that was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nvrtc {
    version: (c_int, c_int),
}

impl Nvrtc {
    pub(super) fn load() -> Result<Self, DeviceError> {
        // SAFETY: the library runs nothing but its own initialization when it is loaded.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::Library {
                library: LIBRARY,
                advice: "it comes with the CUDA toolkit, or by `pip install nvidia-cuda-nvrtc`; \
                         its folder must be in LD_LIBRARY_PATH"
                    .to_owned(),
            });
        }
        // SAFETY: the symbols are only looked for; their type plays no part.
        let has = |name: &str| unsafe { sys::culib().get::<*const c_void>(name) }.is_ok();
        let unusable = |reason| Err(DeviceError::Unusable { reason });
        if let Some(name) = FUNCTIONS.into_iter().find(|name| !has(name)) {
            return unusable(format!("{LIBRARY} has no {name}: NVRTC 12.0 is needed"));
        }
        let mut version = (0, 0);
        // SAFETY: the compiler writes two ints.
        let status = unsafe { sys::nvrtcVersion(&raw mut version.0, &raw mut version.1) };
        succeeded("nvrtcVersion", status)?;
        let found = Self { version };
        if version.0 < 12 {
            return unusable(format!("{LIBRARY} is {found}, and NVRTC 12.0 is needed"));
        }
        Ok(found)
    }

    /// Whether a driver loads what it compiles.
    pub(super) fn check_runs_with(self, driver: Driver) -> Result<(), DeviceError> {
        driver.check_library(&self.to_string(), self.version.0, "nvidia-cuda-nvrtc")
    }

    /// Compiles `source` to a cubin. Several threads may do so at once.
    #[expect(
        clippy::unused_self,
        reason = "only a compiler that was found can be asked"
    )]
    pub(super) fn compile(
        self,
        module: &str,
        source: &str,
        headers: &[(&str, &str)],
        options: &[String],
    ) -> Result<Vec<u8>, DeviceError> {
        let failed = |reason: String| DeviceError::Compile {
            module: module.to_owned(),
            reason,
        };
        let text = |text: &str| CString::new(text).map_err(|error| failed(error.to_string()));
        let program = Program::new(
            &text(source)?,
            &text(&format!("{module}.cu"))?,
            &headers
                .iter()
                .map(|header| text(header.1))
                .collect::<Result<Vec<_>, _>>()?,
            &headers
                .iter()
                .map(|header| text(header.0))
                .collect::<Result<Vec<_>, _>>()?,
        )?;
        let options = options
            .iter()
            .map(|option| text(option))
            .collect::<Result<Vec<_>, _>>()?;
        let options = pointers(&options);
        // SAFETY: the program lives, and the pointers are as many as the count says.
        let status = unsafe {
            sys::nvrtcCompileProgram(program.0, options.len() as c_int, options.as_ptr())
        };
        if status == nvrtcResult::NVRTC_ERROR_COMPILATION {
            return Err(failed(program.log()?));
        }
        succeeded("nvrtcCompileProgram", status)
            .map_err(|error| failed(format!("{error}; {}", program.log().unwrap_or_default())))?;
        program.cubin()
    }
}

impl std::fmt::Display for Nvrtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NVRTC {}.{}", self.version.0, self.version.1)
    }
}

/// Valid as long as the texts are.
fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).collect()
}

fn succeeded(call: &'static str, status: nvrtcResult) -> Result<(), DeviceError> {
    if status == nvrtcResult::NVRTC_SUCCESS {
        return Ok(());
    }
    // SAFETY: `load` has looked for the function; it gives a text of the compiler's own.
    let text = unsafe { sys::nvrtcGetErrorString(status) };
    let reason = if text.is_null() {
        format!("{status:?}")
    } else {
        // SAFETY: the text ends with a zero and stays where it is.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    };
    Err(DeviceError::Refused { call, reason })
}

struct Program(nvrtcProgram);

impl Program {
    fn new(
        source: &CStr,
        name: &CStr,
        headers: &[CString],
        header_names: &[CString],
    ) -> Result<Self, DeviceError> {
        let mut program = std::ptr::null_mut();
        let (texts, names) = (pointers(headers), pointers(header_names));
        // SAFETY: all texts end with a zero, and both lists are as long as the count says. The
        // compiler keeps copies.
        let status = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program,
                source.as_ptr(),
                name.as_ptr(),
                texts.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        succeeded("nvrtcCreateProgram", status)?;
        Ok(Self(program))
    }

    /// What the compiler says of it.
    fn log(&self) -> Result<String, DeviceError> {
        let mut bytes = 0;
        // SAFETY: the program lives; the compiler writes one number.
        let status = unsafe { sys::nvrtcGetProgramLogSize(self.0, &raw mut bytes) };
        succeeded("nvrtcGetProgramLogSize", status)?;
        let mut log = vec![0_u8; bytes];
        // SAFETY: the compiler writes as many bytes as it just said, a zero at the end.
        let status = unsafe { sys::nvrtcGetProgramLog(self.0, log.as_mut_ptr().cast()) };
        succeeded("nvrtcGetProgramLog", status)?;
        let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
        Ok(String::from_utf8_lossy(&log[..end]).trim().to_owned())
    }

    fn cubin(&self) -> Result<Vec<u8>, DeviceError> {
        let mut bytes = 0;
        // SAFETY: the program lives and was compiled; the compiler writes one number.
        let status = unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut bytes) };
        succeeded("nvrtcGetCUBINSize", status)?;
        let mut cubin = vec![0_u8; bytes];
        // SAFETY: the compiler writes as many bytes as it just said.
        let status = unsafe { sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast()) };
        succeeded("nvrtcGetCUBIN", status)?;
        Ok(cubin)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and not used afterwards. There is nothing to be done if it fails.
        let _ = unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}
