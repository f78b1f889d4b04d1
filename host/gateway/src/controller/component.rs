//! The components themselves, for whoever plays a record.

use std::sync::Arc;

use super::{Controller, store};
use crate::{builtin, config::Digest};

impl Controller {
    /// The component whose SHA-256 is `digest`, if it is one of the binary's or lies in the plugin
    /// folder under a name that is loaded. Reads files: call it where blocking is allowed.
    pub fn component(&self, digest: &str) -> Option<Arc<[u8]>> {
        let is_meant = |bytes: &[u8]| Digest::of(bytes).to_hex() == digest;
        let builtin = builtin::BUILTINS.iter().find(|of| is_meant(of.bytes));
        if let Some(builtin) = builtin {
            return Some(builtin.bytes.into());
        }
        let config = self.config();
        let dir = config.plugins.dir.as_deref()?;
        let name = {
            let state = self.state();
            let mut plugins = state.plugins.iter();
            let found = plugins.find(|(_, entry)| entry.plugin.digest() == digest);
            found.map(|(name, _)| name.clone())?
        };
        // The file may hold something else by now.
        let bytes = store::read(dir, &name).ok()?;
        is_meant(&bytes).then(|| bytes.into())
    }
}
