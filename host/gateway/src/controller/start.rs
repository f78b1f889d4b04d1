//! The first state: what was committed, the binary's own plugins, and what has come into the
//! plugin folder meanwhile.

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
    follow, history, inbox, provenance,
    release::{Check, Release, Role, Source, Version},
    serving::{Serving, Shelf},
    sources,
    store::{Kept, Store},
    verify,
};
use crate::{
    auth::Auth,
    builtin,
    config::{Config, Digest, Environment, Overrides},
    telemetry::Metrics,
};

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
        if let Some(dir) = &config.plugins.dir {
            take_files(&mut draft, dir, &config, &runtime, &store)?;
        }
        take_sources(&mut draft, &config, &runtime, &store)?;
        metrics.ledger().switch(config.plugins.ledger);
        let shelf = Shelf {
            runtime: &runtime,
            store: &store,
            ledger: metrics.ledger(),
        };
        let mut serving = load(&mut draft, &config, &shelf)?;
        let mut table = chains::build(&config, None, &serving, &draft.releases, None);
        if let Err(error) = &table
            && end_trials(&mut draft, &mut serving, error)?
        {
            // What serves alone must not suffer from what was only tried.
            table = chains::build(&config, None, &serving, &draft.releases, None);
        }
        let table = table?;
        draft.forget_old(config.plugins.keep_versions);
        store.commit(&draft.releases, &draft.changes)?;
        let mut history = kept.history;
        draft
            .changes
            .into_iter()
            .for_each(|change| history.add(change));
        let auth = Auth::new(&config);
        let controller = Self {
            runtime,
            metrics,
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

/// The binary's own plugins are what served before anything else did.
fn carry_builtins(
    draft: &mut Draft,
    runtime: &PluginRuntime,
    store: &Store,
) -> Result<(), ControlError> {
    for builtin in builtin::BUILTINS {
        let plugin = verify::load(runtime, builtin.name, builtin.bytes)?;
        store.put(plugin.digest(), builtin.bytes)?;
        draft.release(builtin.name).carry(Version {
            digest: plugin.digest().to_owned(),
            source: Source::Builtin,
            manifest: None,
            since: history::now(),
            check: Check::Passed(verify::facts(&plugin, 0)),
            withdrawn: None,
            size_bytes: builtin.bytes.len() as u64,
            signatures: Vec::new(),
        });
    }
    Ok(())
}

/// What is new in the plugin folder goes live, if it can.
fn take_files(
    draft: &mut Draft,
    dir: &Path,
    config: &Config,
    runtime: &PluginRuntime,
    store: &Store,
) -> Result<(), ControlError> {
    for name in inbox::names(dir)? {
        let component = inbox::read(dir, &name)?;
        let digest = Digest::of(&component).to_hex();
        let signature = inbox::signature(dir, &name)?;
        let signature = provenance::read(&name, &digest, signature.as_deref());
        if draft.release(&name).has_taken(&digest) {
            // The file is the same; a new key may have signed it since.
            match signature {
                Ok(Some(signature)) => draft.release(&name).sign(&digest, signature),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(plugin = name, reason = %error, "passed over a signature");
                }
            }
            continue;
        }
        let known = draft.release(&name).version(&digest);
        let known = known.map(|version| version.check.clone());
        let known_bad = draft.release(&name).file.as_deref() == Some(&digest);
        let mut signatures = draft.release(&name).signatures(&digest).to_vec();
        let found = verify::examine(runtime, &name, &component).and_then(|found| {
            signatures.extend(signature?);
            provenance::check_everywhere(config, &name, &digest, &signatures)?;
            Ok(found)
        });
        if let Err(error) = &found {
            tracing::warn!(plugin = name, reason = %error, "refused a plugin file");
        }
        match found {
            // Nobody has chosen anything else to serve in its place.
            Err(error) if chains::binds(config, &name) && !has_served(draft.release(&name)) => {
                return Err(error);
            }
            // The component passed before; only the signature beside it is not one of it.
            Err(_) if matches!(known, Some(Check::Passed(_))) => continue,
            Err(error) if known_bad && known.is_none_or(|was| was == verify::failed(&error)) => {
                continue;
            }
            Err(ControlError::Plugin { .. }) if verify::check_name(&name).is_err() => continue,
            _ => {}
        }
        store.put(&digest, &component)?;
        let release = draft.release(&name);
        release.file = Some(digest.clone());
        release.stage(Version {
            digest: digest.clone(),
            source: Source::File,
            manifest: None,
            since: history::now(),
            check: Check::Pending,
            withdrawn: None,
            size_bytes: component.len() as u64,
            signatures: Vec::new(),
        });
        for signature in signatures {
            release.sign(&digest, signature);
        }
        let change = match found {
            Ok((_, facts)) => {
                release.checked(&digest, Check::Passed(facts));
                release.activate(&name, &digest)?;
                Change::plugin(Origin::File, &name, "live")
            }
            Err(error) => {
                release.checked(&digest, verify::failed(&error));
                Change::plugin(Origin::File, &name, "refused").because(Some(error.to_string()))
            }
        };
        draft.note_version(change, &digest);
    }
    Ok(())
}

/// What a route needs, and nothing else gives, is pulled before the server starts. Everything else
/// comes while it serves.
fn take_sources(
    draft: &mut Draft,
    config: &Config,
    runtime: &PluginRuntime,
    store: &Store,
) -> Result<(), ControlError> {
    let names: Vec<String> = draft.releases.plugins.keys().cloned().collect();
    for name in names {
        sources::drop_canary(draft, config, &name);
    }
    for (name, source) in sources::missing(config, &draft.releases) {
        let pulled = sources::pull_patiently(config, name, &source.live, store)?;
        let (plugin, facts) = verify::examine(runtime, name, &pulled.component)?;
        let digest = plugin.digest();
        let signature = provenance::read(name, digest, pulled.signature.as_deref())?;
        store.put(digest, &pulled.component)?;
        let manifest = source.live.manifest.to_hex();
        let release = draft.release(name);
        release.stage(Version {
            digest: digest.to_owned(),
            source: Source::Registry,
            manifest: Some(manifest.clone()),
            since: history::now(),
            check: Check::Passed(facts),
            withdrawn: None,
            size_bytes: pulled.component.len() as u64,
            signatures: signature.into_iter().collect(),
        });
        release.desire(Role::Live, &manifest, digest);
        release.activate(name, digest)?;
        draft.note_version(Change::plugin(Origin::Registry, name, "live"), digest);
    }
    Ok(())
}

/// Ends what is on trial, for chains cannot be built with it; whether anything was.
fn end_trials(
    draft: &mut Draft,
    serving: &mut BTreeMap<String, Serving>,
    error: &ControlError,
) -> Result<bool, ControlError> {
    let mut any = false;
    for (name, serving) in serving {
        let Some(trial) = serving.trial.take() else {
            continue;
        };
        any = true;
        let (digest, reason) = (trial.plugin.digest(), Some(error.to_string()));
        tracing::warn!(plugin = name, digest, reason = %error, "ended a trial");
        let release = draft.release(name);
        release.roll_back(name, Some(digest), reason.clone())?;
        let change = Change::plugin(Origin::Guard, name, "retired").because(reason);
        draft.note_version(change, digest);
    }
    Ok(any)
}

/// Whether a version that is not part of the binary is live.
fn has_served(release: &Release) -> bool {
    let live = release.live().and_then(|digest| release.version(digest));
    live.is_some_and(|version| version.source != Source::Builtin)
}

/// Loads what serves. A trial whose version is gone ends.
fn load(
    draft: &mut Draft,
    config: &Config,
    shelf: &Shelf<'_>,
) -> Result<BTreeMap<String, Serving>, ControlError> {
    let mut serving = BTreeMap::new();
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
            Err(error) if chains::binds(config, &name) => return Err(error),
            Err(error) => {
                tracing::warn!(plugin = name, reason = %error, "cannot load a plugin that no route binds");
            }
        }
    }
    Ok(serving)
}
