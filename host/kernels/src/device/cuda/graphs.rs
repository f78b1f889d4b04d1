//! [`Graphs`]: recorded work.

use cudarc::driver::sys::{self, CUgraph, CUgraphExec, CUstreamCaptureMode};

use super::driver::{Stream, driver};
use crate::device::{DeviceError, Recording};

/// Recordings by their number.
#[derive(Default)]
pub(super) struct Graphs(Vec<Executable>);

struct Executable(CUgraphExec);

struct Graph(CUgraph);

impl Graphs {
    /// Keeps what `queue` puts into `stream`, which runs nothing meanwhile: where it fails, such as
    /// for want of memory, the device goes on.
    pub(super) fn record(
        &mut self,
        stream: &Stream,
        queue: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<Recording, DeviceError> {
        let executable = Executable::record(stream, queue).map_err(DeviceError::into_refusal)?;
        self.0.push(executable);
        Ok(Recording(self.0.len() as u32 - 1))
    }

    pub(super) fn replay(&self, recording: Recording, stream: &Stream) -> Result<(), DeviceError> {
        let Some(executable) = self.0.get(recording.0 as usize) else {
            return Err(DeviceError::Driver {
                call: "replay",
                reason: format!("there is no recording {}", recording.0),
                is_sticky: false,
            });
        };
        // SAFETY: both live, and what the recording launches stays loaded as long.
        unsafe { driver!(cuGraphLaunch(executable.0, stream.raw())) }
    }
}

impl Executable {
    fn record(
        stream: &Stream,
        queue: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<Self, DeviceError> {
        // Relaxed: while it records, the library of matrix products may load a kernel of its own,
        // and other threads may allocate.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives.
        unsafe { driver!(cuStreamBeginCapture_v2(stream.raw(), mode)) }?;
        let queued = queue();
        let mut graph = std::ptr::null_mut();
        // SAFETY: the stream records; the driver stores a handle, or none.
        let ended = unsafe { driver!(cuStreamEndCapture(stream.raw(), &raw mut graph)) };
        let graph = Graph(graph);
        // The first failure is the reason of the second.
        queued.and(ended)?;
        let mut executable = std::ptr::null_mut();
        // SAFETY: the graph is whole; the driver stores a handle.
        unsafe { driver!(cuGraphInstantiateWithFlags(&raw mut executable, graph.0, 0)) }?;
        Ok(Self(executable))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the driver's own, of which executables hold no part. What fails here has
            // failed before.
            let _ = unsafe { sys::cuGraphDestroy(self.0) };
        }
    }
}

impl Drop for Executable {
    fn drop(&mut self) {
        // SAFETY: made by `record`; whoever drops it has waited for its launches. What fails here
        // has failed before.
        let _ = unsafe { sys::cuGraphExecDestroy(self.0) };
    }
}
