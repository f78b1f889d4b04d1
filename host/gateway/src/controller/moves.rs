//! The changes of one plugin's versions: push, verify, try out, activate, roll back.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    Change, ControlError, Controller, Origin, PluginStatus, chains,
    draft::Draft,
    history, inbox, provenance,
    release::{Check, Facts, Role, Source, TrialMode, Version},
    serving::{Serving, Shelf},
    verify,
};
use crate::{config::Digest, signing::Signature, trial::Watched};

/// How far a pushed artefact is to come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Until {
    /// It is kept, and nothing more is done.
    Staged,
    /// It may serve.
    Verified,
    /// It serves.
    #[default]
    Live,
}

/// An artefact that has come.
pub(super) struct Arrival<'a> {
    pub(super) component: &'a [u8],
    /// Its SHA-256.
    pub(super) digest: &'a str,
    /// One of it that came along.
    pub(super) signature: Option<Signature>,
    pub(super) origin: Origin,
    /// What the configuration wants it for, and the SHA-256 of the manifest by which a registry has
    /// it.
    pub(super) desired: Option<(Role, &'a str)>,
}

impl Controller {
    /// Keeps `component` as the newest version of `name` and carries it as far as `until` says.
    ///
    /// # Errors
    /// [`ControlError`]; what serves is as before then. An artefact that was refused stays staged,
    /// with the reason.
    pub fn push(
        &self,
        name: &str,
        component: &[u8],
        until: Until,
    ) -> Result<PluginStatus, ControlError> {
        self.push_signed(name, component, None, until)
    }

    /// [`push`](Self::push) with the line of text that is the component's signature.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_signed(
        &self,
        name: &str,
        component: &[u8],
        signature: Option<&str>,
        until: Until,
    ) -> Result<PluginStatus, ControlError> {
        self.take(name, component, signature, Origin::Admin, until)?;
        self.status(name)
    }

    /// A file of the plugin folder that has appeared or changed, or the signature beside it, goes
    /// live. Of one that was taken up before only a new signature is taken.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn file_changed(&self, name: &str) -> Result<(), ControlError> {
        let config = self.config();
        let Some(dir) = &config.plugins.dir else {
            return Ok(());
        };
        let component = inbox::read(dir, name)?;
        let signature = inbox::signature(dir, name)?;
        let digest = Digest::of(&component).to_hex();
        let state = self.state();
        let release = state.releases.plugins.get(name);
        let has_taken = release.is_some_and(|release| release.has_taken(&digest));
        drop(state);
        if has_taken {
            return self.add_signature(name, &digest, signature.as_deref());
        }
        let signature = signature.as_deref();
        self.take(name, &component, signature, Origin::File, Until::Live)
    }

    /// A signature that came after its component.
    fn add_signature(
        &self,
        name: &str,
        digest: &str,
        text: Option<&str>,
    ) -> Result<(), ControlError> {
        let signature = provenance::read(name, digest, text).inspect_err(|error| {
            tracing::warn!(plugin = name, reason = %error, "passed over a signature");
        })?;
        let Some(signature) = signature else {
            return Ok(());
        };
        let _changing = self.begin();
        let mut draft = self.draft();
        let release = draft.release(name);
        if release.version(digest).is_none() || release.signatures(digest).contains(&signature) {
            return Ok(());
        }
        tracing::info!(plugin = name, digest, key = %signature.key(), "took a signature");
        release.sign(digest, signature);
        draft.note_version(Change::plugin(Origin::File, name, "signed"), digest);
        self.commit(draft)
    }

    /// Verifies the version whose digest begins with `digits`, or the newest that waits.
    ///
    /// # Errors
    /// [`ControlError`]: there is none, or why it may not serve.
    pub fn verify(&self, name: &str, digits: Option<&str>) -> Result<PluginStatus, ControlError> {
        let digest = self.find(name, digits, "verify")?;
        self.verify_version(name, &digest, Origin::Admin)?;
        self.status(name)
    }

    /// Lets a verified version serve beside the live one.
    ///
    /// # Errors
    /// [`ControlError`]; nothing has changed then.
    pub fn try_out(
        &self,
        name: &str,
        digits: Option<&str>,
        mode: TrialMode,
    ) -> Result<PluginStatus, ControlError> {
        let _changing = self.begin();
        let digest = self.find(name, digits, "try out")?;
        self.put_on_trial(name, &digest, mode, Origin::Admin)?;
        self.status(name)
    }

    /// Lets a verified version serve in place of the live one. What is live already stays.
    ///
    /// # Errors
    /// [`ControlError`]; nothing has changed then.
    pub fn activate(&self, name: &str, digits: Option<&str>) -> Result<PluginStatus, ControlError> {
        let _changing = self.begin();
        let digest = self.find(name, digits, "activate")?;
        self.make_live(name, &digest, Origin::Admin)?;
        self.status(name)
    }

    /// Ends a trial, or else goes back to the version that served before. With `which`, only what
    /// takes that version out of service is done. `reason` is why, where nobody asked for it.
    ///
    /// # Errors
    /// [`ControlError`]; nothing has changed then.
    pub fn roll_back(
        &self,
        name: &str,
        origin: Origin,
        which: Option<&str>,
        reason: Option<String>,
    ) -> Result<PluginStatus, ControlError> {
        let _changing = self.begin();
        self.known(name)?;
        let mut draft = self.draft();
        let back = draft.release(name).roll_back(name, which, reason.clone())?;
        let retired = Change::plugin(origin, name, "retired").because(reason);
        draft.note_version(retired, &back.withdrawn);
        if let Some(live) = &back.live {
            draft.note_version(Change::plugin(origin, name, "live"), live);
        }
        self.finish(name, draft, false)?;
        self.status(name)
    }

    /// The component whose SHA-256 is `digest`, if a version of a plugin is it.
    pub fn component(&self, digest: &str) -> Option<Arc<[u8]>> {
        let is_named = self
            .state()
            .releases
            .plugins
            .values()
            .any(|release| release.version(digest).is_some());
        // A digest that nobody named is a path that nobody should choose.
        is_named.then(|| self.store.get(digest).ok()).flatten()
    }

    fn take(
        &self,
        name: &str,
        component: &[u8],
        signature: Option<&str>,
        origin: Origin,
        until: Until,
    ) -> Result<(), ControlError> {
        let digest = Digest::of(component).to_hex();
        let signature = provenance::read(name, &digest, signature);
        let taken = self.take_version(name, component, &digest, signature, origin, until);
        let outcome = match (&taken, until) {
            (Err(_), _) => "refused",
            (Ok(()), Until::Live) => "live",
            (Ok(()), Until::Verified) => "verified",
            (Ok(()), Until::Staged) => "staged",
        };
        self.metrics.swap(name, outcome);
        match &taken {
            Ok(()) => tracing::info!(plugin = name, digest, %origin, outcome, "took a plugin"),
            Err(error) => {
                tracing::warn!(plugin = name, digest, %origin, reason = %error, "refused a plugin");
            }
        }
        taken
    }

    fn take_version(
        &self,
        name: &str,
        component: &[u8],
        digest: &str,
        signature: Result<Option<Signature>, ControlError>,
        origin: Origin,
        until: Until,
    ) -> Result<(), ControlError> {
        verify::check_name(name)?;
        let (signature, refusal) = match signature {
            Ok(signature) => (signature, None),
            Err(error) => (None, Some(error)),
        };
        self.stage(
            name,
            &Arrival {
                component,
                digest,
                signature,
                origin,
                desired: None,
            },
        )?;
        if let Some(error) = refusal {
            let _changing = self.begin();
            self.note_check(name, digest, origin, Err(&error))?;
            return Err(error);
        }
        if until == Until::Staged {
            return Ok(());
        }
        self.verify_version(name, digest, origin)?;
        if until == Until::Verified {
            return Ok(());
        }
        let _changing = self.begin();
        self.make_live(name, digest, origin)
    }

    fn stage(&self, name: &str, arrival: &Arrival<'_>) -> Result<(), ControlError> {
        let _changing = self.begin();
        self.stage_held(name, arrival)
    }

    /// With `changing` held.
    pub(super) fn stage_held(&self, name: &str, arrival: &Arrival<'_>) -> Result<(), ControlError> {
        let Arrival { digest, origin, .. } = *arrival;
        let mut draft = self.draft();
        let release = draft.release(name);
        let is_new = release.version(digest).is_none();
        release.stage(Version {
            digest: digest.to_owned(),
            source: match origin {
                Origin::File => Source::File,
                Origin::Registry => Source::Registry,
                _ => Source::Pushed,
            },
            manifest: arrival.desired.map(|(_, manifest)| manifest.to_owned()),
            since: history::now(),
            check: Check::Pending,
            withdrawn: None,
            size_bytes: arrival.component.len() as u64,
            signatures: Vec::new(),
        });
        if let Some(signature) = &arrival.signature {
            release.sign(digest, signature.clone());
        }
        if origin == Origin::File {
            release.file = Some(digest.to_owned());
        }
        if let Some((role, manifest)) = arrival.desired {
            release.desire(role, manifest, digest);
        }
        self.store.put(digest, arrival.component)?;
        if is_new {
            draft.note_version(Change::plugin(origin, name, "staged"), digest);
        }
        self.commit(draft)
    }

    /// Verifies a staged version; the work is done while other changes go on.
    pub(super) fn verify_version(
        &self,
        name: &str,
        digest: &str,
        origin: Origin,
    ) -> Result<(), ControlError> {
        let examined = self
            .store
            .get(digest)
            .and_then(|component| verify::examine(&self.runtime, name, &component));
        let _changing = self.begin();
        let examined = examined.and_then(|(plugin, facts)| {
            let serving = Serving {
                live: plugin,
                previous: None,
                trial: None,
                probation: None,
            };
            self.build_with(name, Some(serving)).map(|_| facts)
        });
        self.note_check(name, digest, origin, examined.as_ref())?;
        examined.map(drop)
    }

    fn note_check(
        &self,
        name: &str,
        digest: &str,
        origin: Origin,
        examined: Result<&Facts, &ControlError>,
    ) -> Result<(), ControlError> {
        let mut draft = self.draft();
        let release = draft.release(name);
        let Some(version) = release.version(digest) else {
            // Pushed versions have come meanwhile, and it was forgotten.
            return Ok(());
        };
        let was = version.check.clone();
        let (check, change) = match examined {
            Ok(facts) => {
                let change = Change::plugin(origin, name, "verified");
                (Check::Passed(facts.clone()), change)
            }
            // A version that serves has shown that it can; a route may have changed since.
            Err(_) if matches!(was, Check::Passed(_)) => return Ok(()),
            Err(error) => {
                let change = Change::plugin(origin, name, "refused");
                (
                    verify::failed(error),
                    change.because(Some(error.to_string())),
                )
            }
        };
        if check == was {
            return Ok(());
        }
        release.checked(digest, check);
        draft.note_version(change, digest);
        self.commit(draft)
    }

    /// With `changing` held.
    pub(super) fn make_live(
        &self,
        name: &str,
        digest: &str,
        origin: Origin,
    ) -> Result<(), ControlError> {
        let mut draft = self.draft();
        let release = draft.release(name);
        let before = release.live().map(str::to_owned);
        if before.as_deref() == Some(digest) {
            return match release.fulfil(digest) {
                true => self.commit(draft),
                false => Ok(()),
            };
        }
        release.activate(name, digest)?;
        if let Some(before) = before {
            draft.note_version(Change::plugin(origin, name, "retired"), &before);
        }
        draft.note_version(Change::plugin(origin, name, "live"), digest);
        self.finish(name, draft, true)
    }

    /// With `changing` held.
    pub(super) fn put_on_trial(
        &self,
        name: &str,
        digest: &str,
        mode: TrialMode,
        origin: Origin,
    ) -> Result<(), ControlError> {
        let mut draft = self.draft();
        let release = draft.release(name);
        if release
            .trial()
            .is_some_and(|trial| trial.digest == digest && trial.mode == mode)
        {
            return Ok(());
        }
        release.try_out(name, digest, mode)?;
        let outcome = super::VersionState::Trial(mode);
        draft.note_version(Change::plugin(origin, name, outcome), digest);
        self.finish(name, draft, false)
    }

    /// Loads what `draft` lets `name` serve with, builds the chains, commits and swaps. A live
    /// version that `is_new` is on probation from then on.
    pub(super) fn finish(
        &self,
        name: &str,
        draft: Draft,
        is_new: bool,
    ) -> Result<(), ControlError> {
        let old = self.state().serving.get(name).cloned();
        let ledger = self.metrics.ledger();
        let shelf = Shelf {
            runtime: &self.runtime,
            store: &self.store,
            ledger,
        };
        let release = draft.releases.plugins.get(name);
        let mut serving = match release {
            Some(release) => Serving::of(name, release, old.as_ref(), &shelf)?,
            None => None,
        };
        if let (true, Some(serving), Some(old)) = (is_new, &mut serving, &old) {
            let watched = Watched::new(ledger, old.live.id(), serving.live.id());
            serving.probation = Some(Arc::new(watched));
        }
        let table = self.build_with(name, serving.clone())?;
        self.prefill(&table, name);
        self.commit(draft)?;
        if let Some(serving) = serving {
            self.state().serving.insert(name.to_owned(), serving);
        }
        self.swap(table);
        Ok(())
    }

    /// The routes, with `serving` for `name`.
    fn build_with(
        &self,
        name: &str,
        serving: Option<Serving>,
    ) -> Result<crate::routing::RouteTable, ControlError> {
        let (config, mut all, releases) = self.inputs();
        all.extend(serving.map(|serving| (name.to_owned(), serving)));
        let model = self.state().model.clone();
        let changed = Some((&**self.routes.load(), name));
        chains::build(&config, model.as_ref(), &all, &releases, changed)
    }

    pub(super) fn draft(&self) -> Draft {
        Draft::of(&self.state().releases)
    }

    /// From here on the change has happened, whatever becomes of the process. That of the guard
    /// happens even where it cannot be written down.
    pub(super) fn commit(&self, mut draft: Draft) -> Result<(), ControlError> {
        draft.forget_old(self.config().plugins.keep_versions);
        let mut changes = self.state().unwritten.clone();
        changes.extend_from_slice(&draft.changes);
        let unwritten = match self.store.commit(&draft.releases, &changes) {
            Ok(()) => Vec::new(),
            // Nobody is there to free the disk, and clients would go on getting bad answers.
            Err(error) if draft.is_by(Origin::Guard) => {
                tracing::error!(%error, "what the guard does cannot be written down yet; it is done");
                changes
            }
            Err(error) => return Err(error),
        };
        let releases = &draft.releases.plugins;
        self.metrics.ledger().keep(|id| {
            let release = releases.get(&id.name);
            release.is_some_and(|release| release.version(&id.digest).is_some())
        });
        let mut state = self.state();
        state.releases = draft.releases;
        state.unwritten = unwritten;
        for change in draft.changes {
            if let Some(name) = change.plugin_name() {
                self.metrics
                    .transition(name, change.state(), &change.origin.to_string());
            }
            state.history.add(change.clone());
            // Nobody has to listen.
            let _ = self.events.send(change);
        }
        Ok(())
    }

    /// Tries again to write down what the guard did.
    pub(super) fn write_down(&self) {
        if self.state().unwritten.is_empty() {
            return;
        }
        let _changing = self.begin();
        if self.commit(self.draft()).is_ok() {
            tracing::info!("wrote down what the guard did");
        }
    }

    fn find(
        &self,
        name: &str,
        digits: Option<&str>,
        action: &'static str,
    ) -> Result<String, ControlError> {
        self.known(name)?;
        let state = self.state();
        let release = &state.releases.plugins[name];
        let version = match digits {
            Some(digits) => release.find(name, digits)?,
            None => release.candidate(name, action)?,
        };
        Ok(version.digest.clone())
    }

    fn known(&self, name: &str) -> Result<(), ControlError> {
        match self.state().releases.plugins.contains_key(name) {
            true => Ok(()),
            false => Err(ControlError::NotFound {
                name: name.chars().take(64).collect(),
            }),
        }
    }

    fn status(&self, name: &str) -> Result<PluginStatus, ControlError> {
        self.plugin(name).ok_or_else(|| ControlError::NotFound {
            name: name.to_owned(),
        })
    }
}
