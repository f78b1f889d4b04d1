//! What routes grant a plugin, for whoever installs a version of it.

use gapura_plugin_runtime::{Grants, Import};
use serde::Serialize;

use crate::config::{BindingConfig, Config};

/// What a route that binds a plugin lets it import.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Granted {
    /// The route.
    pub route: String,
    /// The host interfaces, its own settings (`config`) included.
    pub grants: Vec<&'static str>,
    /// The hosts that it may ask by HTTP; empty without the grant `http`.
    pub http: Vec<String>,
}

impl Granted {
    /// By route, in the order of `config`; twice of one that binds the plugin `name` twice.
    pub(super) fn to(config: &Config, name: &str) -> Vec<Self> {
        let bindings = config.routes.iter().flat_map(|route| {
            let bindings = route.plugins.iter();
            bindings.map(|binding| (route.name.as_str(), binding))
        });
        bindings
            .filter(|(_, binding)| binding.plugin == name)
            .map(|(route, binding)| Self::by(route, binding))
            .collect()
    }

    fn by(route: &str, binding: &BindingConfig) -> Self {
        let grants = Grants::with(binding.grants.iter().copied());
        let granted = Import::ALL
            .into_iter()
            .filter(|import| grants.allows(*import));
        Self {
            route: route.to_owned(),
            grants: granted.map(Import::as_str).collect(),
            http: match grants.http {
                true => binding.http.allow.hosts(),
                false => Vec::new(),
            },
        }
    }
}
