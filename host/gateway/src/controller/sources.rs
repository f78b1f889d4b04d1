//! Plugins that the configuration names by reference: carried from the registry to serving, one
//! step after the other, each of them in the history. What serves is never disturbed by it: a
//! registry that fails is asked again, after growing pauses, and a version that may not serve
//! stays staged.

mod attempts;

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    ControlError, Controller, Origin,
    moves::Arrival,
    provenance,
    release::{Standing, TrialMode},
    store::Store,
};
use crate::{
    config::{Config, SourceConfig},
    oci::{Client, OciError},
};
pub(super) use attempts::{Attempts, pause};

/// Before the server starts, a registry that does not answer is asked again after these.
const PATIENCE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// A plugin that the configuration names by reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceStatus {
    /// The plugin.
    pub name: String,
    /// As the configuration has it.
    pub reference: String,
    /// How far it has come.
    pub state: SourceState,
    /// Why it does not serve.
    pub reason: Option<String>,
    /// Seconds until the registry is asked again.
    pub next_try_s: Option<u64>,
}

/// How far a plugin by reference has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// The version serves, be it on trial.
    Current,
    /// It is being pulled and verified, or about to be.
    Pulling,
    /// The registry, or verification, has failed.
    Failed,
    /// It was taken out of service here, and stays so until the reference changes.
    Withdrawn,
}

impl SourceState {
    /// Its name in status and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Pulling => "pulling",
            Self::Failed => "failed",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// What a registry had.
pub(super) struct Pulled {
    pub(super) component: Arc<[u8]>,
    /// The signature that was published with it, as it is.
    pub(super) signature: Option<String>,
}

impl Controller {
    /// The plugins that the configuration names by reference.
    pub fn sources(&self) -> Vec<SourceStatus> {
        let config = self.config();
        let sources = config.plugins.sources.iter();
        sources
            .map(|(name, source)| self.source_status(name, source))
            .collect()
    }

    fn source_status(&self, name: &str, source: &SourceConfig) -> SourceStatus {
        let (failure, next_try) = self.attempts().failure(name, source);
        let (state, reason, next_try) = match self.standing(name, source) {
            Standing::Serving => (SourceState::Current, None, None),
            Standing::Withdrawn(reason) => (SourceState::Withdrawn, Some(reason), None),
            Standing::Refused(reason) => (SourceState::Failed, Some(reason), None),
            Standing::New(_) | Standing::Staged(_) | Standing::Verified(_) => match failure {
                Some(reason) => (SourceState::Failed, Some(reason), next_try),
                None => (SourceState::Pulling, None, None),
            },
        };
        SourceStatus {
            name: name.to_owned(),
            reference: source.reference.to_string(),
            state,
            reason,
            next_try_s: next_try.map(|pause| pause.as_secs_f64().ceil() as u64),
        }
    }

    /// Begins what is due, each plugin on a thread of its own.
    pub(super) fn follow_sources(self: &Arc<Self>) {
        let config = self.config();
        self.attempts().keep(&config.plugins.sources);
        for (name, source) in &config.plugins.sources {
            let is_waiting = matches!(
                self.standing(name, source),
                Standing::New(_) | Standing::Staged(_) | Standing::Verified(_)
            );
            if !is_waiting || !self.attempts().begin(name, source) {
                continue;
            }
            let (controller, plugin, source) = (Arc::clone(self), name.clone(), source.clone());
            let work = move || {
                // Also where it panics, the next look may begin anew.
                let attempt = attempts::Running::new(&controller, &plugin, &source);
                attempt.ended(controller.advance(&plugin, &source));
            };
            let started = std::thread::Builder::new()
                .name("gapura-pull".to_owned())
                .spawn(work);
            if let Err(error) = started {
                let reason = format!("no thread to pull it: {error}");
                self.attempts().end(name, Some(reason));
            }
        }
        self.show_sources();
    }

    /// Shows in the metrics how the sources stand, if that has changed.
    fn show_sources(&self) {
        let sources = self.sources().into_iter();
        let states: Vec<_> = sources
            .map(|source| (source.name, source.state.as_str()))
            .collect();
        if self.attempts().show(&states) {
            let states = states.iter().map(|(name, state)| (name.as_str(), *state));
            self.metrics.sources(states);
        }
    }

    /// Lets the plugins serve that routes of `config` bind, that are not there, and that it names
    /// by reference. Whoever asks waits for it.
    pub(super) fn bring_missing(&self, config: &Config) -> Result<(), ControlError> {
        for (name, source) in missing(config, |name| {
            let state = self.state();
            let release = state.releases.plugins.get(name);
            release.is_some_and(|release| release.live().is_some())
        }) {
            if let Some(component) = self.prepare(config, name, source)? {
                self.put_in_service(name, source, &component)?;
            }
        }
        Ok(())
    }

    /// Carries the version from where it stands until it serves.
    pub(super) fn advance(&self, name: &str, source: &SourceConfig) -> Result<(), ControlError> {
        let Some(component) = self.prepare(&self.config(), name, source)? else {
            return Ok(());
        };
        // It may want something else by now.
        match self.config().plugins.sources.get(name) == Some(source) {
            true => self.put_in_service(name, source, &component),
            false => Ok(()),
        }
    }

    /// The digest of the version's component, which is there and verified; `None` where it has
    /// served, or may not.
    fn prepare(
        &self,
        config: &Config,
        name: &str,
        source: &SourceConfig,
    ) -> Result<Option<String>, ControlError> {
        let (component, is_verified) = match self.standing(name, source) {
            Standing::New(known) => {
                let known = known.and_then(|digest| self.component(&digest));
                let pulled = match known {
                    Some(component) => Pulled {
                        component,
                        signature: None,
                    },
                    None => self.pull(config, name, source)?,
                };
                (self.keep(name, source, &pulled)?, false)
            }
            Standing::Staged(component) => (component, false),
            Standing::Verified(component) => (component, true),
            Standing::Refused(_) | Standing::Serving | Standing::Withdrawn(_) => return Ok(None),
        };
        if !is_verified {
            let verified = self.verify_version(name, &component, Origin::Registry);
            verified.inspect_err(|_| self.metrics.swap(name, "refused"))?;
        }
        Ok(Some(component))
    }

    fn put_in_service(
        &self,
        name: &str,
        source: &SourceConfig,
        component: &str,
    ) -> Result<(), ControlError> {
        let _changing = self.begin();
        let state = self.state();
        let release = state.releases.plugins.get(name);
        let is_first = release.is_none_or(|release| release.live().is_none());
        drop(state);
        match source.canary {
            // Nothing is there that it could be compared with.
            Some(percent) if !is_first => {
                let mode = TrialMode::Canary(percent);
                self.put_on_trial(name, component, mode, Origin::Registry)?;
                self.metrics.swap(name, "canary");
            }
            _ => {
                self.make_live(name, component, Origin::Registry)?;
                self.metrics.swap(name, "live");
            }
        }
        let reference = &source.reference;
        tracing::info!(plugin = name, digest = component, %reference, "took a plugin from a registry");
        Ok(())
    }

    fn pull(
        &self,
        config: &Config,
        name: &str,
        source: &SourceConfig,
    ) -> Result<Pulled, ControlError> {
        let pulled = pull(config, name, source, &self.store);
        let outcome = if pulled.is_ok() { "pulled" } else { "failed" };
        self.metrics.pull(name, outcome);
        pulled
    }

    /// Stages what was `pulled` as what is wanted; returns its digest.
    fn keep(
        &self,
        name: &str,
        source: &SourceConfig,
        pulled: &Pulled,
    ) -> Result<String, ControlError> {
        let digest = crate::config::Digest::of(&pulled.component).to_hex();
        let arrival = Arrival {
            component: &pulled.component,
            digest: &digest,
            signature: provenance::read(name, &digest, pulled.signature.as_deref())?,
            origin: Origin::Registry,
            manifest: Some(&source.manifest.to_hex()),
        };
        self.stage(name, &arrival)?;
        Ok(digest)
    }

    fn standing(&self, name: &str, source: &SourceConfig) -> Standing {
        let state = self.state();
        let release = state.releases.plugins.get(name);
        release.map_or(Standing::New(None), |release| {
            release.standing(&source.manifest.to_hex())
        })
    }
}

/// The sources of plugins that a route of `config` binds and that are not live.
pub(super) fn missing(
    config: &Config,
    is_live: impl Fn(&str) -> bool,
) -> impl Iterator<Item = (&str, &SourceConfig)> {
    let sources = config.plugins.sources.iter();
    sources
        .filter(move |(name, _)| super::chains::binds(config, name) && !is_live(name))
        .map(|(name, source)| (name.as_str(), source))
}

/// [`pull`], for whoever cannot do without.
pub(super) fn pull_patiently(
    config: &Config,
    name: &str,
    source: &SourceConfig,
    store: &Store,
) -> Result<Pulled, ControlError> {
    let mut pauses = PATIENCE.iter();
    loop {
        match (pull(config, name, source, store), pauses.next()) {
            (Err(ControlError::Registry { reason, .. }), Some(pause)) if reason.is_transient() => {
                std::thread::sleep(*pause);
            }
            (pulled, _) => return pulled,
        }
    }
}

/// The component that `source` names: from `store`, if it is there under another name.
fn pull(
    config: &Config,
    name: &str,
    source: &SourceConfig,
    store: &Store,
) -> Result<Pulled, ControlError> {
    let client = Client::new(&source.reference, &config.registries);
    let pull = || -> Result<Pulled, OciError> {
        let artefact = client.resolve(config.admin.max_plugin_bytes as u64)?;
        let component = match store.get(&artefact.component.to_hex()) {
            Ok(component) => component,
            Err(_) => client.component(&artefact).map(Arc::from)?,
        };
        Ok(Pulled {
            component,
            signature: artefact.signature,
        })
    };
    pull().map_err(|reason| ControlError::Registry {
        name: name.to_owned(),
        reason,
    })
}
