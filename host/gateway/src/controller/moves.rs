//! The changes of one plugin's versions: push, verify, try out, activate, roll back.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    Change, ControlError, Controller, Origin, PluginStatus,
    commit::Turn,
    draft::Draft,
    history, inbox, provenance,
    release::{Check, Facts, Role, Source, TrialMode, Version},
    serving::Serving,
    verify,
};
use crate::{config::Digest, signing::Signature};

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
        let read = || Ok((inbox::read(dir, name)?, inbox::signature(dir, name)?));
        let (component, signature) = read().inspect_err(|error: &ControlError| {
            tracing::warn!(plugin = name, reason = %error, "passed over a plugin file");
        })?;
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
        let mut draft = self.draft();
        let trial = draft.release(name).trial();
        if !trial.is_some_and(|trial| trial.digest == digest && trial.mode == mode) {
            self.put_on_trial(draft, name, &digest, mode, Origin::Admin)?;
        }
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
        self.finish(name, draft, Turn::Back)?;
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
        let taken = verify::check_name(name).and_then(|()| {
            let signature = provenance::read(name, &digest, signature);
            self.take_version(name, component, &digest, signature, origin, until)
        });
        let outcome = match (&taken, until) {
            (Err(_), _) => "refused",
            (Ok(()), Until::Live) => "live",
            (Ok(()), Until::Verified) => "verified",
            (Ok(()), Until::Staged) => "staged",
        };
        // Names come from the network: those that were never taken make no series.
        if self.known(name).is_ok() {
            self.metrics.swap(name, outcome);
        }
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
        draft.releases.check_room(name)?;
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
        let is_signed_anew = arrival.signature.as_ref().is_some_and(|signature| {
            let is_new = !release.signatures(digest).contains(signature);
            release.sign(digest, signature.clone());
            is_new
        });
        if let Some((role, manifest)) = arrival.desired {
            release.desire(role, manifest, digest);
        }
        self.store.put(digest, arrival.component)?;
        if is_new {
            draft.note_version(Change::plugin(origin, name, "staged"), digest);
        } else if is_signed_anew {
            draft.note_version(Change::plugin(origin, name, "signed"), digest);
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
        if origin == Origin::File && matches!(check, Check::Failed { .. }) {
            release.file = Some(digest.to_owned());
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
        // Only now the folder's file is taken up: what is cut short before is begun anew.
        let is_file = origin == Origin::File && release.file.as_deref() != Some(digest);
        if is_file {
            release.file = Some(digest.to_owned());
        }
        if before.as_deref() == Some(digest) {
            return match release.fulfil(digest) || is_file {
                true => self.commit(draft),
                false => Ok(()),
            };
        }
        release.activate(name, digest)?;
        if let Some(before) = before {
            draft.note_version(Change::plugin(origin, name, "retired"), &before);
        }
        draft.note_version(Change::plugin(origin, name, "live"), digest);
        self.finish(name, draft, Turn::Live)
    }

    /// Lets `digest` serve beside the live version, along with what `draft` changes otherwise. With
    /// `changing` held.
    pub(super) fn put_on_trial(
        &self,
        mut draft: Draft,
        name: &str,
        digest: &str,
        mode: TrialMode,
        origin: Origin,
    ) -> Result<(), ControlError> {
        draft.release(name).try_out(name, digest, mode)?;
        let outcome = super::VersionState::Trial(mode);
        draft.note_version(Change::plugin(origin, name, outcome), digest);
        self.finish(name, draft, Turn::Trial)
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
