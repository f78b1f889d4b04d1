//! Who may change what the server does while it runs. Pushed plugins, changed files and a
//! reloaded configuration all come here, one after the other; each is checked whole, off the
//! request path, and takes effect by one atomic swap of the route table, or not at all.
//! Requests that are under way keep the chain that they began with; what only they still use
//! is freed with the last of them.

mod chains;
mod commit;
mod draft;
mod error;
mod follow;
mod granted;
mod guard;
mod history;
mod inbox;
mod moves;
mod provenance;
mod registry;
mod release;
mod reload;
mod serving;
mod sources;
mod start;
mod store;
mod verify;
mod watch;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use gapura_engine::ModelInfo;
use gapura_plugin_runtime::PluginRuntime;
use tokio::sync::broadcast;

pub use error::ControlError;
pub use granted::Granted;
pub use guard::Guard;
pub use history::{Change, Origin};
pub use moves::Until;
pub use registry::{
    BindingStatus, Limits, PluginStatus, Refusal, RouteStatus, TrialStatus, VersionStatus,
    WatchStatus,
};
pub use release::{Check, Facts, MoveError, Source, TrialMode, Version, VersionState};
pub use sources::{SourceState, SourceStatus};
pub use watch::Watch;

use crate::{
    auth::Auth,
    config::{Config, Digest, Environment, Overrides},
    pipeline::Prefill,
    recording::Records,
    routing::{Route, RouteTable},
    telemetry::{Ledger, Metrics},
};
use history::History;
use release::Releases;
use serving::Serving;
use sources::Attempts;
use store::Store;

/// Longest time that a change waits for the prefixes of its routes to be computed.
const PREFILL_TIME: Duration = Duration::from_secs(10);
/// Changes that a listener may be behind before it misses some.
const MAX_UNHEARD: usize = 256;

/// Serialises every change. Its methods that change something compile and touch files: call
/// them where blocking is allowed.
pub struct Controller {
    runtime: PluginRuntime,
    metrics: Arc<Metrics>,
    records: Arc<Records>,
    store: Store,
    routes: Arc<ArcSwap<RouteTable>>,
    auth: Arc<ArcSwap<Auth>>,
    environment: Environment,
    flags: Overrides,
    /// What routes begin every prompt with is computed before they serve, once there is a model.
    prefill: OnceLock<Prefill>,
    events: broadcast::Sender<Change>,
    /// Held through a whole change, but for the verification of what is new.
    changing: Mutex<()>,
    /// Held for moments only, so that status answers while something changes.
    state: Mutex<State>,
    /// What becomes of plugins by reference. Held for moments only, and never with `state`.
    attempts: Mutex<Attempts>,
}

/// What the controller knows.
struct State {
    config: Arc<Config>,
    /// What its file held when it was last read, good or bad.
    config_file: Option<Digest>,
    /// The loaded model, once there is one.
    model: Option<ModelInfo>,
    releases: Releases,
    /// What names stand for when chains are built.
    serving: BTreeMap<String, Serving>,
    history: History,
    /// What the guard did while the folder of versions could not be written. The next change writes
    /// it too.
    unwritten: Vec<Change>,
}

impl Controller {
    /// The routes, for whoever serves requests.
    pub fn routes(&self) -> Arc<ArcSwap<RouteTable>> {
        Arc::clone(&self.routes)
    }

    /// The keys, for whoever serves requests.
    pub fn auth(&self) -> Arc<ArcSwap<Auth>> {
        Arc::clone(&self.auth)
    }

    /// Every series of the process.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// The requests that can be run again.
    pub fn records(&self) -> Arc<Records> {
        Arc::clone(&self.records)
    }

    /// What plugins cost.
    pub fn ledger(&self) -> &Ledger {
        self.metrics.ledger()
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.state().config)
    }

    /// What the configuration's file held when it was last read.
    fn config_file(&self) -> Option<Digest> {
        self.state().config_file
    }

    /// Takes notice of the model: its name becomes that of the default route, and the built-in
    /// route gets the template of its architecture.
    ///
    /// # Errors
    /// [`ControlError`] if that template does not fit; the routes stay as they are.
    pub fn model_known(&self, model: &ModelInfo) -> Result<(), ControlError> {
        let _changing = self.begin();
        let (config, serving, releases) = self.inputs();
        let config = Arc::new(chains::fit_template(&config, &model.architecture));
        let table = chains::build(&config, Some(model), &serving, &releases, None)?;
        let mut state = self.state();
        state.config = config;
        state.model = Some(model.clone());
        drop(state);
        self.swap(table);
        Ok(())
    }

    /// From here on the prefixes of changed routes are computed before they serve; those of the
    /// routes in force are computed now. Takes ten seconds at most.
    pub fn prefill_with(&self, prefill: Prefill) {
        let _changing = self.begin();
        let prefill = self.prefill.get_or_init(|| prefill);
        let table = self.routes.load_full();
        prefill.routes(table.iter().map(Arc::as_ref), PREFILL_TIME);
    }

    /// Computes the prefixes of the routes that bind `name`; those of the others are there.
    fn prefill(&self, table: &RouteTable, name: &str) {
        let Some(prefill) = self.prefill.get() else {
            return;
        };
        let binds = |route: &&Route| {
            let mut bindings = route.chain.bindings().iter();
            bindings.any(|binding| binding.plugin.name() == name)
        };
        let changed = table.iter().map(Arc::as_ref).filter(binds);
        let versions = changed.flat_map(|route| {
            let canary = route.canary().map(|trial| &*trial.route);
            std::iter::once(route).chain(canary)
        });
        prefill.routes(versions, PREFILL_TIME);
    }

    /// What changes from here on, as it is committed.
    pub fn events(&self) -> broadcast::Receiver<Change> {
        self.events.subscribe()
    }

    fn swap(&self, table: RouteTable) {
        self.routes.store(Arc::new(table));
        self.note_serving();
    }

    /// Shows the serving versions in the metrics, and lets go what routes do not record any more.
    fn note_serving(&self) {
        let table = self.routes.load();
        let recording = table
            .iter()
            .filter_map(|route| Some((route.name.clone(), route.record?)));
        self.records.keep_within(recording.collect());
        let serving = table.iter().flat_map(|route| {
            route.chain.bindings().iter().map(|binding| {
                let plugin = &binding.plugin;
                [
                    route.name.as_str(),
                    plugin.name(),
                    plugin.version(),
                    plugin.digest(),
                ]
            })
        });
        self.metrics.plugins_serving(serving);
    }

    fn inputs(&self) -> (Arc<Config>, BTreeMap<String, Serving>, Releases) {
        let state = self.state();
        let (serving, releases) = (state.serving.clone(), state.releases.clone());
        (Arc::clone(&state.config), serving, releases)
    }

    /// A panic in an earlier change has left the tables whole: each is replaced at once.
    fn begin(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
