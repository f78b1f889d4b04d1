//! What the operator sees: metrics (names in [`names`]), log lines, and the one guard per
//! request that writes both. Never prompts, answers or secrets.

pub(crate) mod ledger;
mod logging;
mod metrics;
pub mod names;
mod plugin_values;
mod record;
mod refused;
mod server_timing;

pub use ledger::{Ledger, Snapshot, Totals};
pub use logging::{LogError, start_logging};
pub use metrics::{EngineGauges, Metrics};
pub use record::RequestRecord;
pub(crate) use refused::{Refused, log_refusal};
