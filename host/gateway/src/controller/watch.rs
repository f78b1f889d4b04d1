//! The plugin folder and the configuration, followed while the server runs.

use std::{fs, sync::Arc};

use gapura_plugin_runtime::PluginWatcher;

use super::{ControlError, Controller, follow::Follower, inbox};

/// Follows them until it is dropped.
pub struct Watch {
    _watcher: Option<PluginWatcher>,
    _follower: Option<Follower>,
}

impl Watch {
    /// Follows the configuration of `controller`, the registries that it names, and its plugin
    /// folder, which is made if it is missing. With `watch = false` registries alone.
    ///
    /// # Errors
    /// [`ControlError::Store`] or [`ControlError::Watch`] if the folder cannot be had.
    pub fn start(controller: &Arc<Controller>) -> Result<Self, ControlError> {
        let follower = Follower::start(controller)?;
        let config = controller.config();
        let Some(dir) = config.plugins.dir.as_ref().filter(|_| config.plugins.watch) else {
            return Ok(Self {
                _watcher: None,
                _follower: follower,
            });
        };
        fs::create_dir_all(dir).map_err(ControlError::store("make", dir))?;
        let changed = Arc::clone(controller);
        // What became of the file is in the log, the history and the plugin's status.
        let watcher = PluginWatcher::new(dir, move |name, _| drop(changed.file_changed(name)))?;
        // What changed between the first look at the folder and the watch; what did not is
        // recognised by its digest.
        for name in inbox::names(dir)? {
            drop(controller.file_changed(&name));
        }
        Ok(Self {
            _watcher: Some(watcher),
            _follower: follower,
        })
    }
}
