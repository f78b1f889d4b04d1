//! Reading the configuration again. All of it takes effect, or none.

use std::sync::Arc;

use super::{Change, ControlError, Controller, Origin, chains, draft::Draft};
use crate::{
    auth::Auth,
    config::{Config, ServerConfig},
};

impl Controller {
    /// Reads the configuration file again: routes, plugin settings, sampling and keys may
    /// change; what is fixed at start may not.
    ///
    /// # Errors
    /// [`ControlError`]; nothing has changed then.
    pub fn reload(&self, origin: Origin) -> Result<(), ControlError> {
        let _changing = self.begin();
        let result = self.read_and_swap();
        self.metrics
            .reload(if result.is_ok() { "live" } else { "refused" });
        match &result {
            Ok(()) => tracing::info!(%origin, "reloaded the configuration"),
            Err(error) => {
                tracing::warn!(%origin, reason = %error, "kept the configuration as it was");
            }
        }
        let mut draft = Draft::of(&self.state().releases);
        draft.note(Change::configuration(origin, result.as_ref().copied()));
        // The configuration is in its file; only the line of history is missing then.
        if let Err(error) = self.commit(draft) {
            tracing::warn!(%error, "cannot note a change of the configuration");
        }
        result
    }

    fn read_and_swap(&self) -> Result<(), ControlError> {
        let (running, serving) = self.inputs();
        let path = running.path.as_deref().ok_or(ControlError::NoConfigFile)?;
        let mut config = Config::load(Some(path), &self.environment, &self.flags)?;
        check_fixed(&running, &config)?;
        let model = self.state().model.clone();
        if let Some(model) = &model {
            config = chains::fit_template(&config, &model.architecture);
        }
        let table = chains::build(&config, model.as_ref(), &serving, None)?;
        self.metrics.ledger().switch(config.plugins.ledger);
        let auth = Auth::new(&config);
        self.state().config = Arc::new(config);
        self.auth.store(Arc::new(auth));
        self.swap(table);
        Ok(())
    }
}

/// Refuses a change of what only a restart can change.
fn check_fixed(running: &Config, new: &Config) -> Result<(), ControlError> {
    let server = |config: &Config| ServerConfig {
        // Belongs to the keys, which may change.
        max_requests_per_minute: None,
        ..config.server.clone()
    };
    let fixed = [
        ("[server]", server(running) == server(new)),
        ("[admin] listen", running.admin.listen == new.admin.listen),
        (
            "[admin] max_plugin_bytes",
            running.admin.max_plugin_bytes == new.admin.max_plugin_bytes,
        ),
        ("[log]", running.log == new.log),
        ("[model]", running.model == new.model),
        ("[engine]", running.engine == new.engine),
        ("[plugins] dir", running.plugins.dir == new.plugins.dir),
        (
            "[plugins] releases_dir",
            running.plugins.releases_dir == new.plugins.releases_dir,
        ),
        (
            "[plugins] watch",
            running.plugins.watch == new.plugins.watch,
        ),
        (
            "[plugins] cache_dir",
            running.plugins.cache_dir == new.plugins.cache_dir,
        ),
    ];
    match fixed.into_iter().find(|(_, same)| !same) {
        Some((section, _)) => Err(ControlError::NeedsRestart { section }),
        None => Ok(()),
    }
}
