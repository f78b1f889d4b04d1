//! Values that outlive a request, of this plugin on this route: for all its instances and
//! versions, until the gateway ends. Needs the grant `kv`.
//!
//! The memory is bounded by the route; at the bound those values go that were not used for
//! longest. A value may be gone at any time, so keep what can be made again.
//!
//! ```
//! use core::time::Duration;
//! use gapura_plugin_sdk::{kv, testing};
//!
//! kv::set_for("greeting", b"Halo!", Duration::from_secs(60))?;
//! assert_eq!(kv::get("greeting"), Some(b"Halo!".to_vec()));
//! testing::advance(Duration::from_secs(60));
//! assert_eq!(kv::get("greeting"), None);
//! # Ok::<(), kv::KvError>(())
//! ```

use core::time::Duration;

pub use crate::bindings::KvError;
use crate::host;

/// The value of `key`; none once its time is over.
pub fn get(key: &str) -> Option<Vec<u8>> {
    host::kv_get(key)
}

/// Puts `value` in place of what is there, for as long as there is room.
///
/// # Errors
/// [`KvError::TooLarge`] with the most bytes that key and value may have together.
pub fn set(key: &str, value: &[u8]) -> Result<(), KvError> {
    host::kv_set(key, value, None)
}

/// The same for `ttl` at most, in whole milliseconds.
///
/// # Errors
/// As [`set`].
pub fn set_for(key: &str, value: &[u8], ttl: Duration) -> Result<(), KvError> {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    host::kv_set(key, value, Some(ttl_ms))
}

/// Forgets `key`; true if it was there.
pub fn delete(key: &str) -> bool {
    host::kv_delete(key)
}
