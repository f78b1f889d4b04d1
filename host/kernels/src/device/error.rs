//! [`DeviceError`].

use thiserror::Error;

/// A device refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A library that the device needs is not there.
    #[error("{library} cannot be loaded: {advice}")]
    Library {
        /// Such as `libcuda.so.1`.
        library: &'static str,
        /// Where it comes from.
        advice: String,
    },
    /// There is no such device, or it cannot do what is needed.
    #[error("{reason}")]
    Unusable {
        /// What is missing, and what would do.
        reason: String,
    },
    /// A call of the driver or of a library failed, or work that was queued before it did: what
    /// is on the device cannot be relied on.
    #[error("{call} failed: {reason}")]
    Driver {
        /// The function.
        call: &'static str,
        /// The library's own words.
        reason: String,
        /// Every later call of this process fails too: only a new process can use the device.
        is_sticky: bool,
    },
    /// A call that runs nothing was not answered as hoped, such as for want of memory. The device
    /// goes on, with all that is on it.
    #[error("{call} refused: {reason}")]
    Refused {
        /// The function.
        call: &'static str,
        /// The library's own words.
        reason: String,
    },
    /// A kernel does not compile or load.
    #[error("kernel module `{module}` cannot be built: {reason}")]
    Compile {
        /// The source.
        module: String,
        /// The compiler's log.
        reason: String,
    },
    /// An operation's sizes have no kernel.
    #[error("{op}: {what} is {value}, which must be {requirement}")]
    Launch {
        /// The operation.
        op: &'static str,
        /// The parameter.
        what: &'static str,
        /// What was given.
        value: u64,
        /// What would be right.
        requirement: &'static str,
    },
    /// More memory was asked for than there is.
    #[error("{required} bytes of device memory are not to be had, {available} are free")]
    OutOfMemory {
        /// Asked for.
        required: u64,
        /// Free when it was.
        available: u64,
    },
    /// An address and a length leave what was allocated.
    #[error("{what}: {bytes} bytes at {address:#x} are not within one allocation")]
    Outside {
        /// The operation or parameter.
        what: &'static str,
        /// The first byte.
        address: u64,
        /// How many.
        bytes: u64,
    },
}

impl DeviceError {
    /// There is no usable device here, rather than one that fails.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        matches!(self, Self::Library { .. } | Self::Unusable { .. })
    }

    /// Nothing that is on the device can be relied on any more.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Driver { .. })
    }

    /// What a failure means where the call that failed runs nothing on the device: a refusal,
    /// unless it only reports that the device is gone.
    pub(super) fn into_refusal(self) -> Self {
        match self {
            Self::Driver {
                call,
                reason,
                is_sticky: false,
            } => Self::Refused { call, reason },
            other => other,
        }
    }
}
