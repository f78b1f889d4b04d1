//! The versions of every plugin and how far each has come. Plain data: what may follow on what
//! is decided here, and nothing else.
//!
//! ```text
//! staged ─► verified ─► shadow ─► canary n % ─► live ─► retired
//!              └───────────┴──────────┴─────────▲          │ (rollback: live again)
//!                                               └──────────┘
//! ```

mod desired;
mod error;
mod version;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::signing::Signature;
use desired::Desired;
pub(super) use desired::{Role, Standing};
pub use error::MoveError;
pub(super) use version::short;
pub use version::{Check, Facts, Source, TrialMode, Version, VersionState};

/// Fewest digits of a digest that name a version.
const MIN_DIGITS: usize = 6;
/// Signatures of one version that are kept, the newest.
const MAX_SIGNATURES: usize = 8;

/// Plugins of which versions are kept, at most: names come from the network.
pub(super) const MAX_PLUGINS: usize = 1000;

/// All plugins.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Releases {
    /// The number of the newest change. Orders them, whatever the clock says.
    pub(super) sequence: u64,
    pub(super) plugins: BTreeMap<String, Release>,
}

/// One plugin's versions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Release {
    /// The newest first.
    versions: Vec<Version>,
    /// Digests of those that serve or have served, the one that serves last.
    lives: Vec<String>,
    trial: Option<Trial>,
    /// What the file of the plugin folder held when it was last taken up, good or bad.
    pub(super) file: Option<String>,
    /// What the configuration wants to be live, once it was taken up.
    #[serde(default)]
    desired: Option<Desired>,
    /// What it wants to be tried beside that, once it was taken up.
    #[serde(default)]
    canary: Option<Desired>,
}

/// A version that serves beside the live one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trial {
    pub(super) digest: String,
    pub(super) mode: TrialMode,
}

/// What a rollback takes out of service, and what serves in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RolledBack {
    pub(super) withdrawn: String,
    /// `None` where the live version serves on.
    pub(super) live: Option<String>,
}

impl Releases {
    /// Whether versions of `name` may be kept.
    ///
    /// # Errors
    /// [`MoveError::TooMany`] if it is new, and there are as many as there may be.
    pub(super) fn check_room(&self, name: &str) -> Result<(), MoveError> {
        if self.plugins.len() < MAX_PLUGINS || self.plugins.contains_key(name) {
            return Ok(());
        }
        Err(MoveError::TooMany {
            name: name.to_owned(),
            limit: MAX_PLUGINS,
        })
    }

    /// Who vouches for the version `digest` of `name`.
    pub(super) fn signatures(&self, name: &str, digest: &str) -> &[Signature] {
        let release = self.plugins.get(name);
        release.map_or(&[], |release| release.signatures(digest))
    }
}

impl Release {
    /// The versions, the newest first.
    pub(super) fn versions(&self) -> &[Version] {
        &self.versions
    }

    pub(super) fn version(&self, digest: &str) -> Option<&Version> {
        self.versions
            .iter()
            .find(|version| version.digest == digest)
    }

    /// The digest that serves.
    pub(super) fn live(&self) -> Option<&str> {
        self.lives.last().map(String::as_str)
    }

    /// The digest that served before it, and would again.
    pub(super) fn previous(&self) -> Option<&str> {
        let before = self.lives.len().checked_sub(2)?;
        self.lives.get(before).map(String::as_str)
    }

    pub(super) fn trial(&self) -> Option<&Trial> {
        self.trial.as_ref()
    }

    /// Whether the folder's file `digest` was taken up before, and could serve. It may be forgotten
    /// since.
    pub(super) fn has_taken(&self, digest: &str) -> bool {
        let passed = |version: &Version| matches!(version.check, Check::Passed(_));
        self.file.as_deref() == Some(digest) && self.version(digest).is_none_or(passed)
    }

    /// How far `version`, one of these, has come.
    pub(super) fn state(&self, version: &Version) -> VersionState {
        let digest = version.digest.as_str();
        if let Some(trial) = self.trial.as_ref().filter(|trial| trial.digest == digest) {
            return VersionState::Trial(trial.mode);
        }
        if self.live() == Some(digest) {
            return VersionState::Live;
        }
        let has_served = self.lives.iter().any(|live| live == digest);
        match &version.check {
            Check::Passed(_) if has_served || version.withdrawn.is_some() => VersionState::Retired,
            Check::Passed(_) => VersionState::Verified,
            Check::Pending | Check::Failed { .. } => VersionState::Staged,
        }
    }

    /// Puts an artefact at the top. One that is there already keeps its state; if it did not pass
    /// before, it may try again.
    pub(super) fn stage(&mut self, version: Version) {
        let known = self
            .versions
            .iter()
            .position(|known| known.digest == version.digest);
        let Some(index) = known else {
            // One artefact that may not serve is enough to look at; the folder's own is still
            // there, and may be tried again, and the one that is wanted is remembered.
            let is_file = version.source == Source::File;
            let mut versions = std::mem::take(&mut self.versions);
            versions.retain(|version| {
                !matches!(version.check, Check::Failed { .. })
                    || !is_file && self.file.as_ref() == Some(&version.digest)
                    || self.is_desired(&version.digest)
            });
            self.versions = versions;
            self.versions.insert(0, version);
            return;
        };
        let mut known = self.versions.remove(index);
        if matches!(known.check, Check::Failed { .. }) {
            known.check = Check::Pending;
        }
        self.versions.insert(0, known);
    }

    /// Adds `signature` to the version `digest`, in place of an earlier one by its key. Those of other
    /// keys stay: a route may need them.
    pub(super) fn sign(&mut self, digest: &str, signature: Signature) {
        let mut versions = self.versions.iter_mut();
        let Some(version) = versions.find(|known| known.digest == digest) else {
            return;
        };
        let signatures = &mut version.signatures;
        signatures.retain(|known| known.key() != signature.key());
        signatures.push(signature);
        let surplus = signatures.len().saturating_sub(MAX_SIGNATURES);
        signatures.drain(..surplus);
    }

    /// The signatures of the version `digest`.
    pub(super) fn signatures(&self, digest: &str) -> &[Signature] {
        let version = self.version(digest);
        version.map_or(&[], |version| &version.signatures)
    }

    /// Notes what verification of `digest` found.
    pub(super) fn checked(&mut self, digest: &str, check: Check) {
        let version = self
            .versions
            .iter_mut()
            .find(|known| known.digest == digest);
        if let Some(version) = version {
            version.check = check;
        }
    }

    /// Lets `digest` serve beside the live version.
    ///
    /// # Errors
    /// [`MoveError`] where it is not verified, is live itself, or another is on trial.
    pub(super) fn try_out(
        &mut self,
        name: &str,
        digest: &str,
        mode: TrialMode,
    ) -> Result<(), MoveError> {
        let action = match mode {
            TrialMode::Shadow => "shadow it",
            TrialMode::Canary(_) => "be its canary",
        };
        if let TrialMode::Canary(percent) = mode
            && !(1..=100).contains(&percent)
        {
            let percent = percent.into();
            return Err(MoveError::Percent { percent });
        }
        if self.live() == Some(digest) {
            let (name, label) = (name.to_owned(), short(digest));
            return Err(MoveError::IsLive {
                name,
                label,
                action,
            });
        }
        if self.lives.is_empty() {
            return Err(MoveError::Nothing {
                name: name.to_owned(),
                action: "compare with",
                advice: "none is live; activate one first".to_owned(),
            });
        }
        if let Some(other) = self.trial.as_ref().filter(|trial| trial.digest != digest) {
            return Err(MoveError::OnTrial {
                name: name.to_owned(),
                label: short(&other.digest),
                state: VersionState::Trial(other.mode).to_string(),
            });
        }
        self.check_passed(name, digest)?;
        self.clear_withdrawal(digest);
        self.fulfil_canary(digest);
        let digest = digest.to_owned();
        self.trial = Some(Trial { digest, mode });
        Ok(())
    }

    /// Lets `digest` serve. A trial of it ends; that of another goes on beside it.
    ///
    /// # Errors
    /// [`MoveError::NotVerified`].
    pub(super) fn activate(&mut self, name: &str, digest: &str) -> Result<(), MoveError> {
        self.check_passed(name, digest)?;
        self.clear_withdrawal(digest);
        self.trial.take_if(|trial| trial.digest == digest);
        self.lives.retain(|live| live != digest);
        self.lives.push(digest.to_owned());
        self.fulfil(digest);
        Ok(())
    }

    /// Ends the trial if there is one, else goes back to the version that served before. With
    /// `which`, only what takes that version out of service is done. `reason` is why, where nobody
    /// asked for it.
    ///
    /// # Errors
    /// [`MoveError::Nothing`] where nothing served before, or `which` serves no more.
    pub(super) fn roll_back(
        &mut self,
        name: &str,
        which: Option<&str>,
        reason: Option<String>,
    ) -> Result<RolledBack, MoveError> {
        let is_meant = |trial: &mut Trial| which.is_none_or(|digest| trial.digest == digest);
        if let Some(trial) = self.trial.take_if(is_meant) {
            self.withdraw(&trial.digest, reason);
            return Ok(RolledBack {
                withdrawn: trial.digest,
                live: None,
            });
        }
        if let Some(digest) = which.filter(|digest| self.live() != Some(digest)) {
            return Err(MoveError::Nothing {
                name: name.to_owned(),
                action: "roll back",
                advice: format!("{} serves no more", short(digest)),
            });
        }
        let Some(previous) = self.previous().map(str::to_owned) else {
            return Err(MoveError::Nothing {
                name: name.to_owned(),
                action: "go back to",
                advice: "no other version served before the live one".to_owned(),
            });
        };
        let withdrawn = self.lives.pop().unwrap_or_default();
        self.withdraw(&withdrawn, reason);
        Ok(RolledBack {
            withdrawn,
            live: Some(previous),
        })
    }

    /// Puts the component that the binary carries in the place of that of an earlier binary; where
    /// there was none, it is the first that ever served.
    pub(super) fn carry(&mut self, builtin: Version) {
        let digest = builtin.digest.clone();
        let is_stale = |known: &Version| known.source == Source::Builtin && known.digest != digest;
        let stale = self.versions.iter().filter(|known| is_stale(known));
        let stale: Vec<String> = stale.map(|known| known.digest.clone()).collect();
        self.versions.retain(|known| !stale.contains(&known.digest));
        self.trial.take_if(|trial| stale.contains(&trial.digest));
        let has_served = self.lives.contains(&digest);
        let mut lives: Vec<String> = Vec::with_capacity(self.lives.len() + 1);
        for live in self.lives.drain(..) {
            let live = match stale.contains(&live) {
                true => digest.clone(),
                false => live,
            };
            lives.retain(|known| *known != live);
            lives.push(live);
        }
        let known = self
            .versions
            .iter_mut()
            .find(|known| known.digest == digest);
        match known {
            None => self.versions.push(builtin),
            // Somebody has pushed the same, and it is a version of theirs.
            Some(_) if has_served => {}
            Some(known) => {
                known.check = builtin.check;
                known.source = Source::Builtin;
            }
        }
        if !lives.contains(&digest) {
            lives.insert(0, digest);
        }
        self.lives = lives;
        // What serves is not out of service, whatever was said of it before.
        if let Some(live) = self.lives.last().cloned() {
            self.clear_withdrawal(&live);
        }
    }

    /// Forgets the oldest versions of which nobody needs any, beyond `keep`: none that serves or would
    /// after a rollback, and not the newest, which has just come.
    pub(super) fn forget_old(&mut self, keep: usize) {
        let mut unneeded = 0;
        let mut index = 0;
        while index < self.versions.len() {
            let is_surplus = !self.is_needed(&self.versions[index]) && {
                unneeded += 1;
                unneeded > keep && index > 0
            };
            if is_surplus {
                let gone = self.versions.remove(index).digest;
                self.lives.retain(|live| *live != gone);
            } else {
                index += 1;
            }
        }
    }

    fn is_needed(&self, version: &Version) -> bool {
        let digest = version.digest.as_str();
        self.live() == Some(digest)
            || self.previous() == Some(digest)
            || self
                .trial
                .as_ref()
                .is_some_and(|trial| trial.digest == digest)
            || self.is_desired(digest)
            || version.source == Source::Builtin
    }

    /// The version whose digest begins with `digits`.
    ///
    /// # Errors
    /// [`MoveError::NoVersion`], [`MoveError::Ambiguous`].
    pub(super) fn find(&self, name: &str, digits: &str) -> Result<&Version, MoveError> {
        let digits = digits.strip_prefix("sha256:").unwrap_or(digits);
        let mut found = self
            .versions
            .iter()
            .filter(|version| version.digest.starts_with(digits));
        match (found.next(), found.next()) {
            (Some(version), None) if digits.len() >= MIN_DIGITS => Ok(version),
            (Some(_), _) => Err(MoveError::Ambiguous {
                name: name.to_owned(),
                digits: digits.to_owned(),
            }),
            (None, _) => Err(MoveError::NoVersion {
                name: name.to_owned(),
                digits: digits.chars().take(64).collect(),
                known: self.known(),
            }),
        }
    }

    /// The version that a move means that names none: the one on trial, else the newest that
    /// waits.
    ///
    /// # Errors
    /// [`MoveError::Nothing`].
    pub(super) fn candidate(
        &self,
        name: &str,
        action: &'static str,
    ) -> Result<&Version, MoveError> {
        if let Some(trial) = &self.trial
            && let Some(version) = self.version(&trial.digest)
        {
            return Ok(version);
        }
        self.versions
            .iter()
            .find(|version| {
                matches!(
                    self.state(version),
                    VersionState::Staged | VersionState::Verified
                )
            })
            .ok_or_else(|| MoveError::Nothing {
                name: name.to_owned(),
                action,
                advice: format!(
                    "none waits; it has {}. Push one, or name one by its digest",
                    self.known()
                ),
            })
    }

    fn check_passed(&self, name: &str, digest: &str) -> Result<(), MoveError> {
        let reason = match self.version(digest).map(|version| &version.check) {
            Some(Check::Passed(_)) => return Ok(()),
            Some(Check::Failed { reason, .. }) => reason.clone(),
            Some(Check::Pending) => "verify it first".to_owned(),
            // A move names what is there; newer ones have come since.
            None => {
                "newer versions have taken its place (`keep_versions`); push it again".to_owned()
            }
        };
        Err(MoveError::NotVerified {
            name: name.to_owned(),
            label: short(digest),
            reason,
        })
    }

    fn withdraw(&mut self, digest: &str, reason: Option<String>) {
        let reason = reason.unwrap_or_else(|| "rolled back".to_owned());
        let version = self
            .versions
            .iter_mut()
            .find(|known| known.digest == digest);
        if let Some(version) = version {
            version.withdrawn = Some(reason);
        }
    }

    fn clear_withdrawal(&mut self, digest: &str) {
        let version = self
            .versions
            .iter_mut()
            .find(|known| known.digest == digest);
        if let Some(version) = version {
            version.withdrawn = None;
        }
    }

    fn known(&self) -> String {
        let known: Vec<String> = self
            .versions
            .iter()
            .map(|version| format!("{} ({})", short(&version.digest), self.state(version)))
            .collect();
        match known.is_empty() {
            true => "none".to_owned(),
            false => known.join(", "),
        }
    }
}

#[cfg(test)]
mod tests;
