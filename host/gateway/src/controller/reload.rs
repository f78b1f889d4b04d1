//! Reading the configuration again. All of it takes effect, or none.

use std::sync::Arc;

use super::{Change, ControlError, Controller, Origin, chains, follow, sources};
use crate::{
    auth::Auth,
    config::{Config, ServerConfig},
};

impl Controller {
    /// Reads the configuration file again: routes, plugin settings, sampling and keys may
    /// change; what is fixed at start may not.
    ///
    /// # Errors
    /// [`ControlError`]; nothing has changed then. [`ControlError::Awaited`] where a plugin is on
    /// its way that the file needs.
    pub fn reload(self: &Arc<Self>, origin: Origin) -> Result<(), ControlError> {
        // Before the change: a registry may take its time, and nothing else is to wait for it.
        let brought = self.bring_what_is_named(origin);
        let _changing = self.begin();
        let result = brought.and_then(|()| self.read_and_swap(origin));
        let is_awaited = result.as_ref().is_err_and(ControlError::is_awaited);
        if is_awaited {
            // Nothing was read yet that is in force; whoever follows the file tries again.
            self.state().config_file = None;
        }
        if !is_awaited || origin != Origin::File {
            self.note_reload(origin, result.as_ref().copied());
        }
        result
    }

    /// Notes how it went. With `changing` held.
    pub(super) fn note_reload(&self, origin: Origin, result: Result<(), &ControlError>) {
        self.metrics
            .reload(if result.is_ok() { "live" } else { "refused" });
        match result {
            Ok(()) => tracing::info!(%origin, "reloaded the configuration"),
            Err(error) => {
                tracing::warn!(%origin, reason = %error, "kept the configuration as it was");
                let mut draft = self.draft();
                draft.note(Change::configuration(origin, Err(error)));
                // Nothing has changed; only the line that says so is missing then.
                if let Err(error) = self.commit(draft) {
                    tracing::warn!(%error, "cannot note a refused configuration");
                }
            }
        }
    }

    /// Has pulled what routes of the file bind and it names by reference, if it is not there. That it
    /// serves then is a change of its own, which stays where the file is refused.
    fn bring_what_is_named(self: &Arc<Self>, origin: Origin) -> Result<(), ControlError> {
        let config = self.read()?;
        check_fixed(&self.config(), &config)?;
        self.bring_missing(config, origin)
    }

    fn read(&self) -> Result<Config, ControlError> {
        let config = self.config();
        let path = config.path.as_deref().ok_or(ControlError::NoConfigFile)?;
        self.state().config_file = follow::digest(path).ok();
        let config = Config::load(Some(path), &self.environment, &self.flags)?;
        sources::check_folder(&config)?;
        Ok(config)
    }

    /// Builds all that the file says, notes it, and lets it take effect: none of it where it cannot be
    /// noted.
    fn read_and_swap(&self, origin: Origin) -> Result<(), ControlError> {
        let (running, serving, releases) = self.inputs();
        let mut config = self.read()?;
        check_fixed(&running, &config)?;
        // The file may have changed since it was looked at.
        if let Some((name, _)) = sources::missing(&config, &releases).first() {
            let name = (*name).to_owned();
            return Err(ControlError::Awaited { name });
        }
        let model = self.state().model.clone();
        if let Some(model) = &model {
            config = chains::fit_template(&config, &model.architecture);
        }
        let table = chains::build(&config, model.as_ref(), &serving, &releases, None)?;
        let auth = Auth::new(&config);
        let mut draft = self.draft();
        draft.note(Change::configuration(origin, Ok(())));
        self.commit(draft)?;
        self.metrics.ledger().switch(config.plugins.ledger);
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
