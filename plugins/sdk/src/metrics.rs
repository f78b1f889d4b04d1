//! Numbers of this plugin in the gateway's `/metrics`, labelled with its name and the route.
//! Needs the grant `metrics`.
//!
//! A plugin has at most 32 names, of lower-case letters, digits and `_`, a letter first, 64
//! characters at most. What does not fit is dropped and counted by the gateway.
//!
//! ```
//! use gapura_plugin_sdk::{metrics, testing};
//!
//! metrics::add("refused", 1);
//! metrics::add("refused", 2);
//! metrics::observe("score", 0.7);
//! assert_eq!(testing::counted("refused"), 3);
//! assert_eq!(testing::observed("score"), [0.7]);
//! ```

use crate::host;

/// Adds `by` to the counter `name`.
pub fn add(name: &str, by: u64) {
    host::add_metric(name, by);
}

/// Puts `value` into the histogram `name`, whose buckets go by powers of ten and their halves,
/// from 0.001 to 10,000.
pub fn observe(name: &str, value: f64) {
    host::observe_metric(name, value);
}
