//! [`KernelLibrary`]: the kernels' own source, compiled for this machine.

use std::{
    ffi::{CString, c_char, c_void},
    path::Path,
};

use libloading::Library;

use crate::device::{DeviceError, Launch};

/// `gapura_launch` of `emulation.cpp`: kernel, grid, block, dynamic shared memory, parameter block
/// and its size, order of threads, and where a message may be left. 0 if it ran.
type LaunchFn = unsafe extern "C" fn(
    *const c_char,
    *const u32,
    u32,
    u32,
    *const c_void,
    u64,
    u32,
    *mut c_char,
    u64,
) -> i32;

/// Room for a message.
const MESSAGE_BYTES: usize = 512;

pub(super) struct KernelLibrary {
    library: Library,
    pub(super) order: u32,
}

impl KernelLibrary {
    pub(super) fn open(path: &Path) -> Result<Self, DeviceError> {
        // SAFETY: the library is built of this crate's sources and runs nothing when it is loaded.
        let library = unsafe { Library::new(path) };
        let library = library.map_err(|error| DeviceError::Library {
            library: "the kernels compiled for this machine",
            advice: error.to_string(),
        })?;
        Ok(Self { library, order: 0 })
    }

    pub(super) fn run(&self, op: &'static str, launch: &Launch) -> Result<(), DeviceError> {
        let failed = |reason: String| DeviceError::Driver {
            call: op,
            reason: format!("{}: {reason}", launch.kernel),
            is_sticky: false,
        };
        // SAFETY: `emulation.cpp` defines the symbol with this signature.
        let run = unsafe { self.library.get::<LaunchFn>(b"gapura_launch\0") };
        let run = run.map_err(|error| failed(error.to_string()))?;
        let kernel =
            CString::new(launch.kernel.as_str()).map_err(|error| failed(error.to_string()))?;
        let mut message = [0_u8; MESSAGE_BYTES];
        // SAFETY: all pointers are valid for the sizes that go along with them, and the parameter
        // block is the kernel's own, whose size the callee compares. The addresses in it are this
        // arena's; that a kernel stays within them is what emulation is for: borders are checked
        // after the call, and what goes further wrong ends the test.
        let status = unsafe {
            run(
                kernel.as_ptr(),
                launch.grid.as_ptr(),
                launch.block,
                launch.shared_bytes,
                launch.params.as_ptr().cast(),
                launch.params.len() as u64,
                self.order,
                message.as_mut_ptr().cast(),
                MESSAGE_BYTES as u64,
            )
        };
        if status == 0 {
            return Ok(());
        }
        let end = message.iter().position(|&byte| byte == 0).unwrap_or(0);
        Err(failed(
            String::from_utf8_lossy(&message[..end]).into_owned(),
        ))
    }
}
