//! The time. Needs the grant `clock`.
//!
//! ```
//! use core::time::Duration;
//! use gapura_plugin_sdk::{clock, testing};
//!
//! testing::set_time(Duration::from_secs(1_760_000_000));
//! let started = clock::monotonic();
//! testing::advance(Duration::from_millis(5));
//! assert_eq!(clock::monotonic() - started, Duration::from_millis(5));
//! assert_eq!(clock::now(), Duration::from_millis(1_760_000_000_005));
//! ```

use core::time::Duration;

use crate::host;

/// The time since 1970-01-01 00:00 UTC, in whole milliseconds.
pub fn now() -> Duration {
    Duration::from_millis(host::now_ms())
}

/// The time since a moment that is the same for one request; never less than before.
pub fn monotonic() -> Duration {
    Duration::from_nanos(host::monotonic_ns())
}
