//! The plugin folder, followed while the server runs.

use std::{fs, sync::Arc};

use gapura_plugin_runtime::PluginWatcher;

use super::{ControlError, Controller, inbox};

/// Follows the plugin folder until it is dropped.
pub struct Watch {
    _watcher: Option<PluginWatcher>,
}

impl Watch {
    /// Follows the folder of `controller`'s configuration, which is made if it is missing.
    /// Without a folder, or with `watch = false`, there is nothing to follow.
    ///
    /// # Errors
    /// [`ControlError::Store`] or [`ControlError::Watch`] if the folder cannot be had.
    pub fn start(controller: &Arc<Controller>) -> Result<Self, ControlError> {
        let config = controller.config();
        let Some(dir) = config.plugins.dir.as_ref().filter(|_| config.plugins.watch) else {
            return Ok(Self { _watcher: None });
        };
        fs::create_dir_all(dir).map_err(|source| ControlError::Store {
            action: "make",
            path: dir.clone(),
            source,
        })?;
        let follower = Arc::clone(controller);
        // What became of the file is in the log, the history and the plugin's status.
        let watcher = PluginWatcher::new(dir, move |name, _| drop(follower.file_changed(name)))?;
        // What changed between the first look at the folder and the watch; what did not is
        // recognised by its digest.
        for name in inbox::names(dir)? {
            drop(controller.file_changed(&name));
        }
        Ok(Self {
            _watcher: Some(watcher),
        })
    }
}
