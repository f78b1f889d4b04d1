//! What a plugin's name stands for when chains are built: loaded components.

use std::sync::Arc;

use gapura_plugin_runtime::{Plugin, PluginRuntime};

use super::{
    ControlError,
    release::{Release, TrialMode},
    store::Store,
    verify,
};
use crate::{telemetry::Ledger, trial::Watched};

/// The loaded versions of one plugin.
#[derive(Debug, Clone)]
pub(super) struct Serving {
    pub(super) live: Plugin,
    /// What served before, ready to serve again.
    pub(super) previous: Option<Plugin>,
    pub(super) trial: Option<Tried>,
    /// The live version, for a while after it replaced another.
    pub(super) probation: Option<Arc<Watched>>,
}

/// A version that serves beside the live one.
#[derive(Debug, Clone)]
pub(super) struct Tried {
    pub(super) plugin: Plugin,
    pub(super) mode: TrialMode,
    pub(super) watched: Arc<Watched>,
}

/// Where versions and what they did are had.
#[derive(Clone, Copy)]
pub(super) struct Shelf<'a> {
    pub(super) runtime: &'a PluginRuntime,
    pub(super) store: &'a Store,
    pub(super) ledger: &'a Ledger,
}

impl Serving {
    /// Loads what `release` names and `old` does not have. `None` where nothing is live.
    ///
    /// # Errors
    /// [`ControlError`] if the live version or that on trial cannot be had. One that served before
    /// is only missed.
    pub(super) fn of(
        name: &str,
        release: &Release,
        old: Option<&Self>,
        shelf: &Shelf<'_>,
    ) -> Result<Option<Self>, ControlError> {
        let load = |digest: &str| match old.and_then(|old| old.version(digest)) {
            Some(plugin) => Ok(plugin.clone()),
            None => verify::load(shelf.runtime, name, &shelf.store.get(digest)?),
        };
        let Some(live) = release.live() else {
            return Ok(None);
        };
        let previous = release.previous().and_then(|digest| match load(digest) {
            Ok(plugin) => Some(plugin),
            Err(error) => {
                tracing::warn!(plugin = name, digest, reason = %error, "cannot load the version before");
                None
            }
        });
        let live = load(live)?;
        let trial = match release.trial() {
            None => None,
            Some(trial) => {
                let plugin = load(&trial.digest)?;
                let known = old.and_then(|old| old.trial.as_ref()).filter(|known| {
                    known.mode == trial.mode && known.watched.is_of(live.id(), plugin.id())
                });
                let watched = match known {
                    Some(known) => Arc::clone(&known.watched),
                    None => Arc::new(Watched::new(shelf.ledger, live.id(), plugin.id())),
                };
                Some(Tried {
                    plugin,
                    mode: trial.mode,
                    watched,
                })
            }
        };
        let probation = old.and_then(|old| old.probation.clone());
        Ok(Some(Self {
            probation: probation.filter(|watched| watched.candidate() == live.id()),
            live,
            previous,
            trial,
        }))
    }

    /// The loaded plugin whose SHA-256 is `digest`.
    pub(super) fn version(&self, digest: &str) -> Option<&Plugin> {
        let tried = self.trial.as_ref().map(|trial| &trial.plugin);
        [Some(&self.live), self.previous.as_ref(), tried]
            .into_iter()
            .flatten()
            .find(|plugin| plugin.digest() == digest)
    }
}
