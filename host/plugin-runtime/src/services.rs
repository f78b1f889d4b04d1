//! What the gateway lends to guests, and what it learns about their calls.

use std::sync::Arc;
use std::time::Duration;

use crate::error::FailureKind;
use crate::plugin::{PluginId, Stage};

/// The loaded model's tokenizer, as far as plugins see it.
pub trait TokenCounter: Send + Sync {
    /// How many tokens `text` is, special tokens off. Runs on the thread of the guest call and is
    /// charged to the guest's time.
    fn count(&self, text: &str) -> u32;
}

/// Hears of every guest call: the ledger, metrics, tests.
pub trait CallObserver: Send + Sync {
    /// Called after each call, on its thread; must not block.
    fn observe(&self, call: &GuestCall<'_>);
}

/// One call of a guest, after it ended.
#[derive(Debug, Clone, Copy)]
pub struct GuestCall<'a> {
    /// Which plugin.
    pub plugin: &'a PluginId,
    /// The route whose chain called it.
    pub route: &'a str,
    /// The stage.
    pub stage: Stage,
    /// The function: `instantiate`, `validate`, `render`, `processor`, `push` or `finish`.
    pub function: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// Wall time, waiting for other guests included.
    pub duration: Duration,
    /// The most linear memory that the instance has had so far.
    pub memory_bytes: u64,
    /// What the guest executed, in wasmtime's fuel (about one per instruction), where
    /// [`RuntimeConfig::count_fuel`](crate::RuntimeConfig::count_fuel) is set. The same work of the
    /// same component is always the same fuel.
    pub fuel: Option<u64>,
}

/// How a guest call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It did its work.
    Answered,
    /// It refused the request or cut the answer: its verdict, not a failure.
    Refused,
    /// It failed.
    Failed(FailureKind),
}

impl Outcome {
    /// The outcome as a metric label: `answered`, `refused`, or the failure's kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Failed(kind) => kind.as_str(),
        }
    }
}

/// What a run needs from its surroundings.
#[derive(Clone)]
pub struct Services {
    /// Counts tokens for guests that are granted it.
    pub tokens: Arc<dyn TokenCounter>,
    /// Hears of every guest call.
    pub observer: Arc<dyn CallObserver>,
}
