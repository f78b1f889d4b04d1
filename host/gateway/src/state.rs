//! What every handler sees: the loaded model, the routes, the keys, the limits. Built once by
//! `main` or by a test; what may change while running sits behind an atomic pointer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use gapura_engine::{Engine, GrammarCompiler, Tokenizer};
use gapura_plugin_runtime::{Clock, Kv, Random, SystemClock, SystemRandom};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::auth::{Auth, RateLimiter};
use crate::config::ServerConfig;
use crate::controller::Controller;
use crate::error::ApiError;
use crate::outbound::Outbound;
use crate::pipeline::{Observations, Shadows};
use crate::recording::Records;
use crate::routing::RouteTable;
use crate::telemetry::{Metrics, RequestRecord};

/// The state of one server.
pub struct AppState {
    /// Empty while the model loads.
    pub model: ModelSlot,
    /// Which chain answers; whole tables are swapped.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// Who may ask; swapped with the configuration.
    pub auth: Arc<ArcSwap<Auth>>,
    /// The rate of each key. Survives swaps of `auth`.
    pub rate: RateLimiter,
    /// Every series of the process.
    pub metrics: Arc<Metrics>,
    /// Ends of answers that observers are yet to hear of.
    pub observations: Arc<Observations>,
    /// Requests that versions on trial are yet to see.
    pub shadows: Arc<Shadows>,
    /// Requests that can be run again.
    pub records: Arc<Records>,
    /// What plugins are lent beside the model.
    pub lent: Lent,
    /// Limits of bodies and times.
    pub server: ServerConfig,
    /// When the server started.
    pub started: SystemTime,
    /// The requests under way. Closed once, when the server begins to shut down.
    requests: TaskTracker,
    /// Cancelled at that moment.
    draining: CancellationToken,
}

/// What plugins are lent for as long as the process lives.
#[derive(Clone)]
pub struct Lent {
    /// What they remember.
    pub kv: Arc<Kv>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub random: Arc<dyn Random>,
    /// The network.
    pub outbound: Arc<Outbound>,
}

impl Default for Lent {
    /// Nothing remembered yet; the machine's time and random numbers.
    fn default() -> Self {
        Self {
            kv: Arc::default(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            outbound: Arc::default(),
        }
    }
}

/// A model that answers.
pub struct LoadedModel {
    /// The running engine.
    pub engine: Engine,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Grammars for this vocabulary.
    pub grammars: GrammarCompiler,
}

impl LoadedModel {
    /// A running engine and the tokenizer of its model.
    pub fn new(engine: Engine, tokenizer: Tokenizer) -> Self {
        Self {
            grammars: GrammarCompiler::new(&tokenizer, &engine.model().eos_token_ids),
            engine,
            tokenizer,
        }
    }
}

/// The place of the loaded model: empty, then filled once, or failed for good.
#[derive(Default)]
pub struct ModelSlot {
    loaded: ArcSwapOption<LoadedModel>,
    failed: AtomicBool,
}

impl ModelSlot {
    /// The model answers from now on.
    pub fn fill(&self, model: LoadedModel) {
        self.loaded.store(Some(Arc::new(model)));
    }

    /// There will be no model; why is in the log.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Whether loading has failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// The model, if it is loaded.
    pub fn get(&self) -> Option<Arc<LoadedModel>> {
        self.loaded.load_full()
    }
}

impl AppState {
    /// A server without a model yet, whose routes and keys `controller` changes.
    pub fn new(server: ServerConfig, controller: &Controller) -> Self {
        Self {
            model: ModelSlot::default(),
            routes: controller.routes(),
            auth: controller.auth(),
            rate: RateLimiter::default(),
            metrics: controller.metrics(),
            shadows: Arc::default(),
            records: controller.records(),
            lent: Lent::default(),
            observations: Arc::default(),
            server,
            started: SystemTime::now(),
            requests: TaskTracker::new(),
            draining: CancellationToken::new(),
        }
    }

    /// The model, for a request that needs it.
    ///
    /// # Errors
    /// 503 while it loads, when it cannot be loaded, and while the server drains.
    pub fn ready_model(&self) -> Result<Arc<LoadedModel>, ApiError> {
        if self.is_draining() {
            return Err(ApiError::draining());
        }
        self.model.get().ok_or_else(|| {
            if self.model.has_failed() {
                ApiError::model_failed()
            } else {
                ApiError::loading()
            }
        })
    }

    /// The record of a request that has just arrived; it counts as under way until the record
    /// is dropped. See [`RequestRecord::new`].
    pub fn record(&self, endpoint: &'static str, request_id: &str) -> RequestRecord {
        let metrics = Arc::clone(&self.metrics);
        RequestRecord::new(metrics, self.requests.token(), endpoint, request_id)
    }

    /// Counts as a request under way until it and its clones are dropped.
    pub(crate) fn under_way(&self) -> TaskTrackerToken {
        self.requests.token()
    }

    /// New requests are refused from now on; `/readyz` says so.
    pub fn drain(&self) {
        self.requests.close();
        self.draining.cancel();
    }

    /// Ends when the server begins to shut down: for streams that have no end of their own.
    pub(crate) fn draining(&self) -> WaitForCancellationFutureOwned {
        self.draining.clone().cancelled_owned()
    }

    /// Whether the server is shutting down.
    pub fn is_draining(&self) -> bool {
        self.requests.is_closed()
    }

    /// Ends once the server drains and no request is under way any more.
    pub async fn drained(&self) {
        self.requests.wait().await;
    }
}
