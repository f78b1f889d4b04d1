//! Golden cases: what a plugin does with a request, written down. A case is a TOML file that says
//! what comes in; below the line `[expect]` it says what the plugin made of it, as
//! `gapura plugin test --update` wrote it. Cases run on the production runtime, with everything
//! that is not the plugin scripted, so that they come out the same on any day and machine.

mod expect;
mod file;
mod http;
mod play;
mod replay;
mod script;
mod section;
mod tapes;
mod times;

pub use expect::{Difference, Expect};
pub use file::{Case, CaseError, MAX_CASE_BYTES, updated};
pub use http::Exchange;
pub use play::{CaseRunner, Measure, Outcome};
pub(crate) use replay::rehearse;
pub use script::StageUse;
pub use section::{MAX_CASES, embed, embedded};
pub use times::{CallTimes, Percentiles};
