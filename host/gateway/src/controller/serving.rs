//! What a plugin's name stands for when chains are built: loaded components.

use gapura_plugin_runtime::{Plugin, PluginRuntime};

use super::{
    ControlError,
    release::{Release, TrialMode},
    store::Store,
    verify,
};

/// The loaded versions of one plugin.
#[derive(Debug, Clone)]
pub(super) struct Serving {
    pub(super) live: Plugin,
    /// What served before, ready to serve again.
    pub(super) previous: Option<Plugin>,
    pub(super) trial: Option<Tried>,
}

/// A version that serves beside the live one.
#[derive(Debug, Clone)]
pub(super) struct Tried {
    pub(super) plugin: Plugin,
    pub(super) mode: TrialMode,
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
        runtime: &PluginRuntime,
        store: &Store,
    ) -> Result<Option<Self>, ControlError> {
        let load = |digest: &str| match old.and_then(|old| old.version(digest)) {
            Some(plugin) => Ok(plugin.clone()),
            None => verify::load(runtime, name, &store.get(digest)?),
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
        let trial = match release.trial() {
            None => None,
            Some(trial) => Some(Tried {
                plugin: load(&trial.digest)?,
                mode: trial.mode,
            }),
        };
        Ok(Some(Self {
            live: load(live)?,
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
