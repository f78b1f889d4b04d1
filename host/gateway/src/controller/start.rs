//! The first state: what was committed, the binary's own plugins, and what has come into the
//! plugin folder meanwhile.

mod files;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, OnceLock},
};

use arc_swap::ArcSwap;
use gapura_plugin_runtime::PluginRuntime;
use tokio::sync::broadcast;

use super::{
    Change, ControlError, Controller, MAX_UNHEARD, Origin, State, chains,
    draft::Draft,
    follow, history, provenance,
    release::{Check, Role, Source, Version},
    serving::{Serving, Shelf},
    sources,
    store::{Kept, Store},
    verify,
};
use crate::{
    auth::Auth,
    builtin,
    config::{Config, Environment, Overrides},
    routing::RouteTable,
    telemetry::Metrics,
};
use files::Loaded;

impl Controller {
    /// Takes the folder of versions for this process, loads what was live, the built-in plugins
    /// and what is new in the plugin folder, and builds the routes.
    ///
    /// # Errors
    /// [`ControlError`] if the folder cannot be had, a plugin that a route needs is missing or
    /// refused, or a chain does not fit together. A bad file beside a version that served is only
    /// noted.
    pub fn start(
        config: Config,
        environment: Environment,
        flags: Overrides,
        runtime: PluginRuntime,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ControlError> {
        Self::with(config, environment, flags, runtime, metrics, Store::open)
    }

    /// [`start`](Self::start) for a look: nothing is written, and a server may run meanwhile.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn look(
        config: Config,
        environment: Environment,
        flags: Overrides,
        runtime: PluginRuntime,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ControlError> {
        Self::with(config, environment, flags, runtime, metrics, Store::look)
    }

    fn with(
        config: Config,
        environment: Environment,
        flags: Overrides,
        runtime: PluginRuntime,
        metrics: Arc<Metrics>,
        open: impl FnOnce(&Path) -> Result<(Store, Kept), ControlError>,
    ) -> Result<Self, ControlError> {
        sources::check_folder(&config)?;
        let (store, kept) = match &config.plugins.releases_dir {
            Some(dir) => open(dir)?,
            None => (Store::in_memory(), Kept::default()),
        };
        // Before anything takes its time: what changes meanwhile is read again.
        let path = config.path.as_deref();
        let config_file = path.and_then(|path| follow::digest(path).ok());
        let mut draft = Draft::of(&kept.releases);
        carry_builtins(&mut draft, &runtime, &store)?;
        metrics.ledger().switch(config.plugins.ledger);
        let shelf = Shelf {
            runtime: &runtime,
            store: &store,
            ledger: metrics.ledger(),
        };
        let files = match &config.plugins.dir {
            Some(dir) => files::take(&mut draft, dir, &config, &shelf)?,
            None => Vec::new(),
        };
        take_sources(&mut draft, &config, &shelf)?;
        let (serving, table) = bring_up(&mut draft, files, &config, &shelf)?;
        draft.forget_old(config.plugins.keep_versions);
        store.commit(&draft.releases, &draft.changes)?;
        draft.count(&metrics);
        let mut history = kept.history;
        draft
            .changes
            .into_iter()
            .for_each(|change| history.add(change));
        let auth = Auth::new(&config);
        let controller = Self {
            runtime,
            metrics,
            records: Arc::default(),
            store,
            routes: Arc::new(ArcSwap::from_pointee(table)),
            auth: Arc::new(ArcSwap::from_pointee(auth)),
            environment,
            flags,
            prefill: OnceLock::new(),
            events: broadcast::Sender::new(MAX_UNHEARD),
            changing: Mutex::new(()),
            state: Mutex::new(State {
                config: Arc::new(config),
                config_file,
                model: None,
                releases: draft.releases,
                serving,
                history,
                unwritten: Vec::new(),
            }),
            attempts: Mutex::default(),
        };
        controller.note_serving();
        Ok(controller)
    }
}

/// The binary's own plugins are what served before anything else did. Those of another binary go;
/// what that changes of what serves is noted.
fn carry_builtins(
    draft: &mut Draft,
    runtime: &PluginRuntime,
    store: &Store,
) -> Result<(), ControlError> {
    for builtin in builtin::BUILTINS {
        let plugin = verify::load(runtime, builtin.name, builtin.bytes)?;
        let digest = plugin.digest();
        store.put(digest, builtin.bytes)?;
        let name = builtin.name;
        let release = draft.release(name);
        let before = release.live().map(str::to_owned);
        let trial = release.trial().map(|trial| trial.digest.clone());
        let mut next = release.clone();
        next.carry(Version {
            digest: digest.to_owned(),
            source: Source::Builtin,
            manifest: None,
            since: history::now(),
            check: Check::Passed(verify::facts(&plugin, 0)),
            withdrawn: None,
            size_bytes: builtin.bytes.len() as u64,
            signatures: Vec::new(),
        });
        let is_other = before.is_some() && before.as_deref() != next.live();
        let change = |outcome| Change::plugin(Origin::Binary, name, outcome);
        // While what goes is still known by its version.
        for gone in before.filter(|_| is_other).iter().chain(&trial) {
            if next.version(gone).is_none() {
                let reason = "another binary of the gateway was started, without it".to_owned();
                draft.note_version(change("retired").because(Some(reason)), gone);
            }
        }
        *draft.release(name) = next;
        if is_other {
            draft.note_version(change("live"), digest);
        }
    }
    Ok(())
}

/// Loads what serves, lets `files` take its place where they may, and builds the routes.
fn bring_up(
    draft: &mut Draft,
    files: Vec<files::File>,
    config: &Config,
    shelf: &Shelf<'_>,
) -> Result<(Loaded, RouteTable), ControlError> {
    let (mut loaded, missed) = load(draft, shelf)?;
    end_unfit_trials(draft, &mut loaded, config)?;
    if !files.is_empty() {
        files::settle(files, draft, &mut loaded, config, shelf);
        end_unfit_trials(draft, &mut loaded, config)?;
    }
    for (name, error) in missed {
        if loaded.contains_key(&name) {
            continue;
        }
        if chains::binds(config, &name) {
            return Err(error);
        }
        tracing::warn!(plugin = name, reason = %error, "cannot load a plugin that no route binds");
    }
    let table = chains::build(config, None, &loaded, &draft.releases, None)?;
    Ok((loaded, table))
}

/// Ends what is on trial where chains can be built without, and not with it: what serves alone must
/// not suffer from what was only tried.
fn end_unfit_trials(
    draft: &mut Draft,
    loaded: &mut Loaded,
    config: &Config,
) -> Result<(), ControlError> {
    let build = |loaded: &Loaded| chains::build(config, None, loaded, &draft.releases, None);
    let Err(error) = build(loaded) else {
        return Ok(());
    };
    let mut alone = loaded.clone();
    let trials = alone.iter_mut().filter_map(|(name, serving)| {
        let trial = serving.trial.take()?;
        Some((name.clone(), trial.plugin.digest().to_owned()))
    });
    let trials: Vec<(String, String)> = trials.collect();
    if trials.is_empty() || build(&alone).is_err() {
        return Ok(());
    }
    for (name, digest) in trials {
        let reason = Some(error.to_string());
        tracing::warn!(plugin = name, digest, reason = %error, "ended a trial");
        let release = draft.release(&name);
        release.roll_back(&name, Some(&digest), reason.clone())?;
        let change = Change::plugin(Origin::Guard, &name, "retired").because(reason);
        draft.note_version(change, &digest);
    }
    *loaded = alone;
    Ok(())
}

/// What a route needs, and nothing else gives, is pulled before the server starts. Everything else
/// comes while it serves.
fn take_sources(draft: &mut Draft, config: &Config, shelf: &Shelf<'_>) -> Result<(), ControlError> {
    let names: Vec<String> = draft.releases.plugins.keys().cloned().collect();
    for name in names {
        sources::drop_canary(draft, config, &name);
    }
    for (name, source) in sources::missing(config, &draft.releases) {
        let pulled = sources::pull_patiently(config, name, &source.live, shelf.store)?;
        let (plugin, facts) = verify::examine(shelf.runtime, name, &pulled.component)?;
        let digest = plugin.digest();
        let signature = provenance::read(name, digest, pulled.signature.as_deref())?;
        shelf.store.put(digest, &pulled.component)?;
        let manifest = source.live.manifest.to_hex();
        draft.releases.check_room(name)?;
        let release = draft.release(name);
        let known = release.version(digest).map(|version| version.check.clone());
        release.stage(Version {
            digest: digest.to_owned(),
            source: Source::Registry,
            manifest: Some(manifest.clone()),
            since: history::now(),
            check: Check::Pending,
            withdrawn: None,
            size_bytes: pulled.component.len() as u64,
            signatures: Vec::new(),
        });
        if let Some(signature) = signature {
            release.sign(digest, signature);
        }
        release.desire(Role::Live, &manifest, digest);
        let change = |outcome| Change::plugin(Origin::Registry, name, outcome);
        if known.is_none() {
            draft.note_version(change("staged"), digest);
        }
        if !matches!(known, Some(Check::Passed(_))) {
            draft.release(name).checked(digest, Check::Passed(facts));
            draft.note_version(change("verified"), digest);
        }
        draft.release(name).activate(name, digest)?;
        draft.note_version(change("live"), digest);
    }
    Ok(())
}

/// Why plugins could not be loaded.
type Missed = BTreeMap<String, ControlError>;

/// Loads what serves. A trial whose version is gone ends.
fn load(draft: &mut Draft, shelf: &Shelf<'_>) -> Result<(Loaded, Missed), ControlError> {
    let (mut serving, mut missed) = (Loaded::new(), Missed::new());
    let names: Vec<String> = draft.releases.plugins.keys().cloned().collect();
    for name in names {
        let release = draft.release(&name);
        let mut loaded = Serving::of(&name, release, None, shelf);
        if let (Err(error), Some(trial)) = (&loaded, release.trial().cloned()) {
            let reason = Some(error.to_string());
            let release = draft.release(&name);
            release.roll_back(&name, Some(&trial.digest), reason.clone())?;
            loaded = Serving::of(&name, release, None, shelf);
            let change = Change::plugin(Origin::Guard, &name, "retired").because(reason);
            draft.note_version(change, &trial.digest);
        }
        match loaded {
            Ok(Some(loaded)) => {
                serving.insert(name, loaded);
            }
            Ok(None) => {}
            Err(error) => {
                missed.insert(name, error);
            }
        }
    }
    Ok((serving, missed))
}
