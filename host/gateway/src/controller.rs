//! Who may change what the server does while it runs. Pushed plugins, changed files and a
//! reloaded configuration all come here, one after the other; each is checked whole, off the
//! request path, and takes effect by one atomic swap of the route table, or not at all.
//! Requests that are under way keep the chain that they began with; what only they still use
//! is freed with the last of them.

mod chains;
mod component;
mod error;
mod history;
mod registry;
mod reload;
mod store;
mod watch;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use gapura_engine::ModelInfo;
use gapura_plugin_runtime::{Plugin, PluginRuntime};

pub use error::ControlError;
pub use history::{Change, Origin};
pub use registry::{BindingStatus, PluginState, PluginStatus, Refusal, RouteStatus, Source};
pub use watch::Watch;

use crate::{
    auth::Auth,
    builtin,
    config::{Config, Environment, Overrides},
    pipeline::Prefill,
    routing::{Route, RouteTable},
    telemetry::{Ledger, Metrics},
};
use history::History;
use registry::Entry;

/// Longest time that a change waits for the prefixes of its routes to be computed.
const PREFILL_TIME: Duration = Duration::from_secs(10);

/// Serialises every change. Its methods that change something compile and touch files: call
/// them where blocking is allowed.
pub struct Controller {
    runtime: PluginRuntime,
    metrics: Arc<Metrics>,
    routes: Arc<ArcSwap<RouteTable>>,
    auth: Arc<ArcSwap<Auth>>,
    environment: Environment,
    flags: Overrides,
    /// What routes begin every prompt with is computed before they serve, once there is a model.
    prefill: OnceLock<Prefill>,
    /// Held through a whole change, compilation included.
    changing: Mutex<()>,
    /// Held for moments only, so that status answers while something compiles.
    state: Mutex<State>,
}

/// What the controller knows.
struct State {
    config: Arc<Config>,
    /// The loaded model, once there is one.
    model: Option<ModelInfo>,
    plugins: BTreeMap<String, Entry>,
    /// Why the newest artefact of a name is not in use.
    refusals: BTreeMap<String, Refusal>,
    history: History,
}

impl Controller {
    /// Loads the built-in plugins and those of the plugin folder and builds the routes.
    ///
    /// # Errors
    /// [`ControlError`] if a plugin that a route needs is missing or refused, or a chain does
    /// not fit together. A bad file that no route needs is only noted.
    pub fn start(
        config: Config,
        environment: Environment,
        flags: Overrides,
        runtime: PluginRuntime,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ControlError> {
        let mut plugins = BTreeMap::new();
        for builtin in builtin::BUILTINS {
            let plugin = load(&runtime, builtin.name, builtin.bytes)?;
            plugins.insert(builtin.name.to_owned(), Entry::new(plugin, Source::Builtin));
        }
        let mut refusals = BTreeMap::new();
        if let Some(dir) = &config.plugins.dir {
            for name in store::names(dir)? {
                let loaded =
                    store::read(dir, &name).and_then(|bytes| load(&runtime, &name, &bytes));
                match loaded {
                    Ok(plugin) => {
                        plugins.insert(name, Entry::new(plugin, Source::File));
                    }
                    Err(error) if chains::binds(&config, &name) => return Err(error),
                    Err(error) => {
                        tracing::warn!(plugin = name, reason = %error, "refused a plugin file");
                        refusals.insert(name, Refusal::new(None, &error));
                    }
                }
            }
        }
        let table = chains::build(&config, None, &loaded(&plugins), None)?;
        metrics.ledger().switch(config.plugins.ledger);
        let auth = Auth::new(&config);
        let controller = Self {
            runtime,
            metrics,
            routes: Arc::new(ArcSwap::from_pointee(table)),
            auth: Arc::new(ArcSwap::from_pointee(auth)),
            environment,
            flags,
            prefill: OnceLock::new(),
            changing: Mutex::new(()),
            state: Mutex::new(State {
                config: Arc::new(config),
                model: None,
                plugins,
                refusals,
                history: History::default(),
            }),
        };
        controller.note_serving();
        Ok(controller)
    }

    /// The routes, for whoever serves requests.
    pub fn routes(&self) -> Arc<ArcSwap<RouteTable>> {
        Arc::clone(&self.routes)
    }

    /// The keys, for whoever serves requests.
    pub fn auth(&self) -> Arc<ArcSwap<Auth>> {
        Arc::clone(&self.auth)
    }

    /// What plugins cost.
    pub fn ledger(&self) -> &Ledger {
        self.metrics.ledger()
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.state().config)
    }

    /// Takes notice of the model: its name becomes that of the default route, and the built-in
    /// route gets the template of its architecture.
    ///
    /// # Errors
    /// [`ControlError`] if that template does not fit; the routes stay as they are.
    pub fn model_known(&self, model: &ModelInfo) -> Result<(), ControlError> {
        let _changing = self.begin();
        let (config, plugins) = self.inputs();
        let config = Arc::new(chains::fit_template(&config, &model.architecture));
        let table = chains::build(&config, Some(model), &plugins, None)?;
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

    /// Verifies `component`, rebuilds the chains that bind `name`, stores the file and swaps.
    /// A name that no route binds is kept ready for one.
    ///
    /// # Errors
    /// [`ControlError`]; nothing has changed then, and the reason stays visible in
    /// [`plugin`](Self::plugin).
    pub fn push(&self, name: &str, component: &[u8]) -> Result<PluginStatus, ControlError> {
        let _changing = self.begin();
        self.replace(name, component, Origin::Admin)
    }

    /// The same for a file of the plugin folder that has appeared or changed. A file that holds
    /// what is in use already changes nothing.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn file_changed(&self, name: &str) -> Result<(), ControlError> {
        let _changing = self.begin();
        let config = self.config();
        let Some(dir) = &config.plugins.dir else {
            return Ok(());
        };
        let component = store::read(dir, name)?;
        let digest = crate::config::Digest::of(&component).to_hex();
        if self
            .state()
            .plugins
            .get(name)
            .is_some_and(|entry| entry.plugin.digest() == digest)
        {
            self.state().refusals.remove(name);
            return Ok(());
        }
        self.replace(name, &component, Origin::File).map(drop)
    }

    /// The change itself, with `changing` held.
    fn replace(
        &self,
        name: &str,
        component: &[u8],
        origin: Origin,
    ) -> Result<PluginStatus, ControlError> {
        let digest = crate::config::Digest::of(component).to_hex();
        let result = self.verify_and_swap(name, component, origin);
        let outcome = if result.is_ok() { "live" } else { "refused" };
        self.metrics.swap(name, outcome);
        let mut state = self.state();
        match result {
            Ok(plugin) => {
                tracing::info!(plugin = name, label = plugin.label(), %origin, "swapped a plugin");
                state.refusals.remove(name);
                state.history.add(Change::plugin(origin, &plugin));
                let status = state
                    .status_of(name)
                    .expect("the plugin has just been put there");
                Ok(status)
            }
            Err(error) => {
                tracing::warn!(plugin = name, reason = %error, %origin, "refused a plugin");
                // Names come from the network: only those that mean something are remembered.
                if state.plugins.contains_key(name) || origin == Origin::File {
                    let refusal = Refusal::new(Some(digest.clone()), &error);
                    state.refusals.insert(name.to_owned(), refusal);
                }
                state
                    .history
                    .add(Change::refused(origin, name, Some(digest), &error));
                Err(error)
            }
        }
    }

    fn verify_and_swap(
        &self,
        name: &str,
        component: &[u8],
        origin: Origin,
    ) -> Result<Plugin, ControlError> {
        let plugin = load(&self.runtime, name, component)?;
        let (config, mut plugins) = self.inputs();
        plugins.insert(name.to_owned(), plugin.clone());
        let model = self.state().model.clone();
        let table = chains::build(
            &config,
            model.as_ref(),
            &plugins,
            Some((&self.routes.load(), name)),
        )?;
        self.prefill(&table, name);
        if let (Origin::Admin, Some(dir)) = (origin, &config.plugins.dir) {
            store::write(dir, name, component)?;
        }
        let source = match origin {
            Origin::File => Source::File,
            _ if config.plugins.dir.is_some() => Source::File,
            _ => Source::Pushed,
        };
        self.state()
            .plugins
            .insert(name.to_owned(), Entry::new(plugin.clone(), source));
        self.swap(table);
        Ok(plugin)
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
        prefill.routes(changed, PREFILL_TIME);
    }

    fn swap(&self, table: RouteTable) {
        self.routes.store(Arc::new(table));
        self.note_serving();
    }

    /// Shows the serving versions in the metrics.
    fn note_serving(&self) {
        let table = self.routes.load();
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

    fn inputs(&self) -> (Arc<Config>, BTreeMap<String, Plugin>) {
        let state = self.state();
        (Arc::clone(&state.config), loaded(&state.plugins))
    }

    /// A panic in an earlier change has left the tables whole: each is replaced at once.
    fn begin(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(runtime: &PluginRuntime, name: &str, component: &[u8]) -> Result<Plugin, ControlError> {
    if name == builtin::TEMPLATE {
        let name = name.to_owned();
        return Err(ControlError::ReservedName { name });
    }
    runtime
        .load(name, component)
        .map_err(|source| ControlError::refused(name, source))
}

fn loaded(plugins: &BTreeMap<String, Entry>) -> BTreeMap<String, Plugin> {
    plugins
        .iter()
        .map(|(name, entry)| (name.clone(), entry.plugin.clone()))
        .collect()
}

#[cfg(test)]
mod tests;
