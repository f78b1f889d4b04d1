//! What the gateway lends to guests, and what it learns about their calls.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::error::FailureKind;
use crate::http::{Http, HttpError, HttpResponse, NoHttp};
use crate::kv::Kv;
use crate::limits::FailurePolicy;
use crate::model::{Model, ModelAnswer, ModelError, NoModel};
use crate::plugin::{PluginId, Stage};
use crate::random::{Random, SystemRandom};
use crate::types::Verdict;

/// The loaded model's tokenizer, as far as plugins see it.
pub trait TokenCounter: Send + Sync {
    /// How many tokens `text` is, special tokens off. Runs on the thread of the guest call and is
    /// charged to the guest's time.
    fn count(&self, text: &str) -> u32;
}

/// Takes the numbers that plugins count and measure. Names and values are the guest's own: an
/// implementation bounds them as the contract says, and counts what it drops.
pub trait PluginValues: Send + Sync {
    /// Adds `by` to the counter `name` of `plugin` on `route`.
    fn add(&self, plugin: &PluginId, route: &str, name: &str, by: u64);

    /// Puts `value` into the histogram `name`.
    fn observe(&self, plugin: &PluginId, route: &str, name: &str, value: f64);
}

/// Hears of every guest call: the ledger, metrics, tests.
pub trait CallObserver: Send + Sync {
    /// Called after each call, on its thread; must not block.
    fn observe(&self, call: &GuestCall<'_>);

    /// Called before each call, on its thread.
    fn begins(&self, _plugin: &PluginId) {}

    /// Called during a call when an import has told the guest something.
    fn told(&self, _plugin: &PluginId, _told: Told<'_>) {}

    /// Called when it is clear what a validator decides, or its failure policy in its place.
    fn judged(&self, _plugin: &PluginId, _verdict: &Verdict) {}

    /// Called for a failure that was no call: no room for an instance, an open circuit breaker, or
    /// more of an answer held back than is allowed.
    fn failed(&self, _plugin: &PluginId, _stage: Stage, _kind: FailureKind) {}

    /// Called when a request goes on in spite of a failure, as `policy` says.
    fn fell_back(&self, _plugin: &PluginId, _stage: Stage, _policy: &FailurePolicy) {}

    /// Called when an instance that has served before is taken for a request.
    fn reused(&self, _plugin: &PluginId) {}

    /// Called when an instance goes that was to serve again: it has done so as often as it may, or
    /// takes half of its memory.
    fn recycled(&self, _plugin: &PluginId) {}

    /// Called when a circuit breaker opens.
    fn breaker_opened(&self, _plugin: &PluginId, _stage: Stage) {}

    /// Called when a processor holds back more bytes of its answer than before.
    fn held(&self, _plugin: &PluginId, _bytes: u64) {}
}

/// What an import has told a guest, and another time might tell it otherwise.
#[derive(Debug, Clone, Copy)]
pub enum Told<'a> {
    /// Milliseconds since 1970.
    NowMs(u64),
    /// Nanoseconds of the clock that never goes back.
    MonotonicNs(u64),
    /// Random bytes.
    Random(&'a [u8]),
    /// How many tokens a text is.
    Tokens(u32),
    /// What it remembers under a key.
    Value {
        /// The key.
        key: &'a str,
        /// `None` where there is nothing.
        value: Option<&'a [u8]>,
    },
    /// What the model answered.
    Answer(&'a Result<ModelAnswer, ModelError>),
    /// What a server answered.
    Response(&'a Result<HttpResponse, HttpError>),
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
    /// The function: `instantiate`, `validate`, `render`, `processor`, `push`, `finish` or
    /// `completed`.
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
    /// Takes the numbers of guests.
    pub values: Arc<dyn PluginValues>,
    /// Keeps what guests remember; one for the whole process.
    pub kv: Arc<Kv>,
    /// Tells guests the time, and what they remember when it is over.
    pub clock: Arc<dyn Clock>,
    /// Makes random numbers for guests.
    pub random: Arc<dyn Random>,
    /// Answers the questions of guests.
    pub model: Arc<dyn Model>,
    /// Sends the HTTP requests of guests.
    pub http: Arc<dyn Http>,
}

impl Services {
    /// For a chain that is run for its own sake: the machine's time and random numbers, a memory
    /// of its own, no model, no network, and nobody who hears of its calls and numbers.
    pub fn detached(tokens: Arc<dyn TokenCounter>) -> Self {
        let no_request = ModelError::Failed("there is no request to ask for".to_owned());
        Self {
            tokens,
            observer: Arc::new(Nobody),
            values: Arc::new(Nobody),
            kv: Arc::default(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            model: Arc::new(NoModel(no_request)),
            http: Arc::new(NoHttp(HttpError::Connect(
                "there is no request to send it for".to_owned(),
            ))),
        }
    }
}

struct Nobody;

impl CallObserver for Nobody {
    fn observe(&self, _call: &GuestCall<'_>) {}
}

impl PluginValues for Nobody {
    fn add(&self, _plugin: &PluginId, _route: &str, _name: &str, _by: u64) {}

    fn observe(&self, _plugin: &PluginId, _route: &str, _name: &str, _value: f64) {}
}
