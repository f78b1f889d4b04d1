//! Plugins that the configuration names by reference: carried from the registry to serving, one
//! step after the other, each of them in the history. What serves is never disturbed by it: a
//! registry that fails is asked again, after growing pauses, and a version that may not serve
//! stays staged.

mod attempts;
mod missing;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    Change, ControlError, Controller, Origin,
    commit::Turn,
    draft::Draft,
    moves::Arrival,
    provenance,
    release::{Release, Role, Standing, TrialMode},
    store::Store,
};
use crate::{
    config::{Config, Pinned, SourceConfig},
    oci::{Client, OciError},
};
pub(super) use attempts::{Attempts, pause};
pub(super) use missing::missing;

/// Before the server starts, a registry that does not answer is asked again after these.
const PATIENCE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// A version that the configuration names by reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceStatus {
    /// The plugin.
    pub name: String,
    /// As the configuration has it.
    pub reference: String,
    /// Requests of a hundred that it is to answer as a canary; `None` for the live version.
    pub canary: Option<u8>,
    /// How far it has come.
    pub state: SourceState,
    /// Why it does not serve as it is to.
    pub reason: Option<String>,
    /// Seconds until the registry is asked again.
    pub next_try_s: Option<u64>,
}

/// How far a version by reference has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// It serves as it is to.
    Current,
    /// It is being pulled and verified, or about to be; a canary also waits for the live version.
    Pulling,
    /// The registry, or verification, has failed.
    Failed,
    /// Somebody or the guard has decided otherwise here, and it stays so until the configuration
    /// says something else.
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

/// A version that is wanted, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    version: Pinned,
    role: Role,
}

/// What is wanted of one plugin.
#[derive(Debug)]
struct Source {
    /// What says so, and how registries are reached.
    config: Arc<Config>,
    live: Wanted,
    canary: Option<Wanted>,
}

impl Source {
    fn new(config: &Arc<Config>, source: &SourceConfig) -> Self {
        let canary = source.canary.as_ref().map(|canary| Wanted {
            version: canary.version.clone(),
            role: Role::Canary(canary.percent),
        });
        Self {
            config: Arc::clone(config),
            live: Wanted {
                version: source.live.clone(),
                role: Role::Live,
            },
            canary,
        }
    }

    fn versions(&self) -> impl Iterator<Item = &Wanted> {
        std::iter::once(&self.live).chain(&self.canary)
    }
}

/// What a registry had.
pub(super) struct Pulled {
    pub(super) component: Arc<[u8]>,
    /// The signature that was published with it, as it is.
    pub(super) signature: Option<String>,
}

impl Controller {
    /// The versions that the configuration names by reference, and those that a changed file waits
    /// for; of each plugin the live one first.
    pub fn sources(&self) -> Vec<SourceStatus> {
        let mut all = Vec::new();
        for (name, source) in self.wanted() {
            all.extend(
                source
                    .versions()
                    .map(|wanted| self.source_status(&name, &source, wanted)),
            );
        }
        all
    }

    fn source_status(&self, name: &str, source: &Source, wanted: &Wanted) -> SourceStatus {
        let (failure, next_try) = self.attempts().failure(name, wanted);
        let (state, reason, next_try) = match self.standing(name, wanted) {
            Standing::Serving => (SourceState::Current, None, None),
            Standing::Withdrawn(reason) => (SourceState::Withdrawn, Some(reason), None),
            Standing::Refused(reason) => (SourceState::Failed, Some(reason), None),
            Standing::Verified(_) if !self.may_serve(name, source, wanted) => {
                let reason = "it waits for the live version".to_owned();
                (SourceState::Pulling, Some(reason), None)
            }
            Standing::New(_) | Standing::Staged(_) | Standing::Verified(_) => match failure {
                Some(reason) => (SourceState::Failed, Some(reason), next_try),
                None => (SourceState::Pulling, None, None),
            },
        };
        SourceStatus {
            name: name.to_owned(),
            reference: wanted.version.reference.to_string(),
            canary: match wanted.role {
                Role::Live => None,
                Role::Canary(percent) => Some(percent),
            },
            state,
            reason,
            next_try_s: next_try.map(|pause| pause.as_secs_f64().ceil() as u64),
        }
    }

    /// What is wanted now: by the configuration, and by a changed file that waits for it.
    fn wanted(&self) -> BTreeMap<String, Arc<Source>> {
        let config = self.config();
        let sources = config.plugins.sources.iter();
        let mut all: BTreeMap<_, _> = sources
            .map(|(name, source)| (name.clone(), Arc::new(Source::new(&config, source))))
            .collect();
        let awaited = self.attempts().awaited().clone();
        all.extend(awaited);
        all
    }

    /// Begins what is due, each version on a thread of its own.
    pub(super) fn follow_sources(self: &Arc<Self>) {
        self.drop_canaries();
        let wanted = self.wanted();
        self.attempts().keep(|name, manifest| {
            let source = wanted.get(name);
            let mut versions = source.into_iter().flat_map(|source| source.versions());
            versions.any(|wanted| wanted.version.manifest == manifest)
        });
        for (name, source) in &wanted {
            for wanted in source.versions() {
                if self.is_due(name, source, wanted) && self.attempts().begin(name, wanted) {
                    self.start_attempt(name, source, wanted);
                }
            }
        }
        self.show_sources();
    }

    fn is_due(&self, name: &str, source: &Source, wanted: &Wanted) -> bool {
        match self.standing(name, wanted) {
            Standing::New(_) | Standing::Staged(_) => true,
            Standing::Verified(_) => self.may_serve(name, source, wanted),
            Standing::Refused(_) | Standing::Serving | Standing::Withdrawn(_) => false,
        }
    }

    fn start_attempt(self: &Arc<Self>, name: &str, source: &Arc<Source>, wanted: &Wanted) {
        let (controller, plugin) = (Arc::clone(self), name.to_owned());
        let (source, version) = (Arc::clone(source), wanted.clone());
        let work = move || {
            // Also where it panics, the next look may begin anew.
            let attempt = attempts::Running::new(&controller, &plugin, &version);
            attempt.ended(controller.advance(&plugin, &source.config, &version));
        };
        let started = std::thread::Builder::new()
            .name("gapura-pull".to_owned())
            .spawn(work);
        if let Err(error) = started {
            let reason = format!("no thread to pull it: {error}");
            self.attempts().end(name, wanted, Some(reason));
        }
    }

    /// Shows in the metrics how the sources stand, if that has changed.
    fn show_sources(&self) {
        let sources = self.sources().into_iter();
        let states: Vec<_> = sources
            .map(|source| {
                let role = source.canary.map_or("live", |_| "canary");
                [
                    source.name,
                    role.to_owned(),
                    source.state.as_str().to_owned(),
                ]
            })
            .collect();
        if self.attempts().show(&states) {
            self.metrics.sources(&states);
        }
    }

    /// Ends the canaries that the configuration names no more.
    fn drop_canaries(&self) {
        let has_any = self
            .state()
            .releases
            .plugins
            .values()
            .any(Release::has_canary);
        if !has_any {
            return;
        }
        let (config, mut copy) = (self.config(), self.draft());
        let names: Vec<String> = copy.releases.plugins.keys().cloned().collect();
        for name in names {
            if !drop_canary(&mut copy, &config, &name).1 {
                continue;
            }
            if let Err(error) = self.drop_canary(&name) {
                tracing::warn!(plugin = name, %error, "cannot end a canary that is named no more");
            }
        }
    }

    fn drop_canary(&self, name: &str) -> Result<(), ControlError> {
        let _changing = self.begin();
        let mut draft = self.draft();
        match drop_canary(&mut draft, &self.config(), name) {
            (true, _) => self.finish(name, draft, Turn::Back),
            (false, true) => self.commit(draft),
            (false, false) => Ok(()),
        }
    }

    /// Carries the version from where it stands until it serves as it is to.
    fn advance(&self, name: &str, config: &Config, wanted: &Wanted) -> Result<(), ControlError> {
        match self.prepare(name, config, wanted)? {
            Some(component) => self.put_in_service(name, wanted, &component),
            None => Ok(()),
        }
    }

    /// The digest of the version's component, which is there and verified; `None` where it serves
    /// already, may not, or is wanted no more.
    fn prepare(
        &self,
        name: &str,
        config: &Config,
        wanted: &Wanted,
    ) -> Result<Option<String>, ControlError> {
        let (component, is_verified) = match self.standing(name, wanted) {
            Standing::New(known) => {
                let known = known.and_then(|digest| self.component(&digest));
                let pulled = match known {
                    Some(component) => Pulled {
                        component,
                        signature: None,
                    },
                    None => self.pull(config, name, &wanted.version)?,
                };
                match self.keep(name, wanted, &pulled)? {
                    Some(component) => (component, false),
                    None => return Ok(None),
                }
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

    /// Lets `component` serve, unless something else has been decided since it was begun.
    fn put_in_service(
        &self,
        name: &str,
        wanted: &Wanted,
        component: &str,
    ) -> Result<(), ControlError> {
        let _changing = self.begin();
        let Some(source) = self.still(name, wanted) else {
            return Ok(());
        };
        let is_ready = self.standing(name, wanted) == Standing::Verified(component.to_owned());
        // A canary whose live version is not there yet goes on at a later look.
        if !is_ready || !self.may_serve(name, &source, wanted) {
            return Ok(());
        }
        let outcome = match wanted.role {
            Role::Live => {
                self.make_live(name, component, Origin::Registry)?;
                "live"
            }
            Role::Canary(percent) => {
                let mut draft = self.draft();
                let manifest = wanted.version.manifest.to_hex();
                draft
                    .release(name)
                    .desire(wanted.role, &manifest, component);
                let mode = TrialMode::Canary(percent);
                self.put_on_trial(draft, name, component, mode, Origin::Registry)?;
                "canary"
            }
        };
        self.metrics.swap(name, outcome);
        let reference = &wanted.version.reference;
        tracing::info!(
            plugin = name, digest = component, %reference, outcome, "took a plugin from a registry"
        );
        Ok(())
    }

    /// What is wanted of the plugin, if `wanted` still is.
    fn still(&self, name: &str, wanted: &Wanted) -> Option<Arc<Source>> {
        let source = self.wanted().remove(name)?;
        let is_wanted = source.versions().any(|now| now == wanted);
        is_wanted.then_some(source)
    }

    /// Whether `wanted` may serve as far as others go: a canary has to wait until the version is
    /// there that it is to be compared with.
    fn may_serve(&self, name: &str, source: &Source, wanted: &Wanted) -> bool {
        wanted.role == Role::Live
            || matches!(
                self.standing(name, &source.live),
                Standing::Serving | Standing::Withdrawn(_)
            )
    }

    fn pull(&self, config: &Config, name: &str, version: &Pinned) -> Result<Pulled, ControlError> {
        let pulled = pull(config, name, version, &self.store);
        let outcome = if pulled.is_ok() { "pulled" } else { "failed" };
        self.metrics.pull(name, outcome);
        pulled
    }

    /// Stages what was `pulled`, if it is still wanted; returns its digest.
    fn keep(
        &self,
        name: &str,
        wanted: &Wanted,
        pulled: &Pulled,
    ) -> Result<Option<String>, ControlError> {
        let digest = crate::config::Digest::of(&pulled.component).to_hex();
        let manifest = wanted.version.manifest.to_hex();
        let arrival = Arrival {
            component: &pulled.component,
            digest: &digest,
            signature: provenance::read(name, &digest, pulled.signature.as_deref())?,
            origin: Origin::Registry,
            desired: Some((wanted.role, &manifest)),
        };
        let _changing = self.begin();
        if self.still(name, wanted).is_none() {
            return Ok(None);
        }
        self.stage_held(name, &arrival)?;
        Ok(Some(digest))
    }

    fn standing(&self, name: &str, wanted: &Wanted) -> Standing {
        let state = self.state();
        let release = state.releases.plugins.get(name);
        release.map_or(Standing::New(None), |release| {
            release.standing(wanted.role, &wanted.version.manifest.to_hex())
        })
    }
}

/// Ends the canary of `name` in `draft`, if `config` names it no more. Says whether one has served
/// until then, and whether anything has changed.
pub(super) fn drop_canary(draft: &mut Draft, config: &Config, name: &str) -> (bool, bool) {
    let source = config.plugins.sources.get(name);
    let live = source.map(|source| source.live.manifest.to_hex());
    let canary = source.and_then(|source| source.canary.as_ref());
    let canary = canary.map(|canary| canary.version.manifest.to_hex());
    let release = draft.release(name);
    let (gone, has_changed) = release.drop_canary(live.as_deref(), canary.as_deref());
    if let Some(digest) = &gone {
        let version = release.version(digest);
        let reason = version.and_then(|version| version.withdrawn.clone());
        let change = Change::plugin(Origin::Registry, name, "retired").because(reason);
        draft.note_version(change, digest);
    }
    (gone.is_some(), has_changed)
}

/// Refuses plugins by reference where what becomes of them could not be remembered.
pub(super) fn check_folder(config: &Config) -> Result<(), ControlError> {
    match config.plugins.sources.is_empty() || config.plugins.releases_dir.is_some() {
        true => Ok(()),
        false => Err(ControlError::NoReleasesDir),
    }
}

/// [`pull`], for whoever cannot do without.
pub(super) fn pull_patiently(
    config: &Config,
    name: &str,
    version: &Pinned,
    store: &Store,
) -> Result<Pulled, ControlError> {
    let mut pauses = PATIENCE.iter();
    loop {
        match (pull(config, name, version, store), pauses.next()) {
            (Err(ControlError::Registry { reason, .. }), Some(pause)) if reason.is_transient() => {
                std::thread::sleep(*pause);
            }
            (pulled, _) => return pulled,
        }
    }
}

/// The component that `version` names: from `store`, if it is there under another name.
fn pull(
    config: &Config,
    name: &str,
    version: &Pinned,
    store: &Store,
) -> Result<Pulled, ControlError> {
    let client = Client::new(&version.reference, &config.registries);
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

#[cfg(test)]
mod tests;
