//! Random numbers, good enough for secrets. Needs the grant `random`.
//!
//! ```
//! use gapura_plugin_sdk::{random, testing};
//!
//! let mut token = [0; 16];
//! random::fill(&mut token);
//! // In a test the same numbers come each time.
//! testing::set_seed(0);
//! let mut again = [0; 16];
//! random::fill(&mut again);
//! assert_eq!(token, again);
//! assert_ne!(random::bits(), random::bits());
//! ```

use crate::host;

/// Most bytes of one call of the host.
const MAX_BYTES: usize = 4096;

/// Fills `bytes`.
pub fn fill(bytes: &mut [u8]) {
    for part in bytes.chunks_mut(MAX_BYTES) {
        host::fill_random(part);
    }
}

/// 64 random bits.
pub fn bits() -> u64 {
    host::random_bits()
}
