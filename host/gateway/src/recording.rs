//! Recording: what a route's chain needs to be run again, kept for requests of routes that ask for
//! it. In memory, bounded by count and bytes, redacted unless the route says otherwise; API keys
//! are never part of it. `gapura plugin replay` plays a record with another version of a plugin.

mod record;
mod recorder;
mod redact;
mod store;

pub use record::{Binding, Bytes, Cost, Outcome, Record, Responded, Tape};
pub(crate) use recorder::{Keep, Recorder};
pub use store::{Records, Summary};
