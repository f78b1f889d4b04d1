//! The plugins that are loaded, and what the administration API says of them.

use gapura_plugin_runtime::Plugin;
use serde::Serialize;

use super::{Change, ControlError, Controller, State, history};

/// A loaded plugin.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) plugin: Plugin,
    pub(super) source: Source,
    pub(super) since: u64,
}

impl Entry {
    pub(super) fn new(plugin: Plugin, source: Source) -> Self {
        Self {
            plugin,
            source,
            since: history::now(),
        }
    }
}

/// Where the artefact in use came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Carried in the binary.
    Builtin,
    /// The plugin folder.
    File,
    /// The administration API, without a folder to keep it in: gone after a restart.
    Pushed,
}

/// How far a plugin has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginState {
    /// Loaded and checked; no route binds it.
    Verified,
    /// A route serves with it.
    Live,
}

/// What is known of a plugin.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PluginStatus {
    /// Its name.
    pub name: String,
    /// The version that its author wrote into it.
    pub version: String,
    /// SHA-256 of the component.
    pub digest: String,
    /// As `x-gapura-chain` shows it.
    pub label: String,
    /// Whether a route serves with it.
    pub state: PluginState,
    /// Where it came from.
    pub source: Source,
    /// Bytes of the component.
    pub size_bytes: u64,
    /// The stages that it implements.
    pub stages: Vec<&'static str>,
    /// The host interfaces that it imports.
    pub imports: Vec<&'static str>,
    /// The routes that serve with it.
    pub routes: Vec<String>,
    /// Seconds since 1970 when this version was taken.
    pub since: u64,
    /// The newest artefact of this name that was not taken, since this one was.
    pub refused: Option<Refusal>,
}

/// An artefact that was not taken.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refusal {
    /// Its SHA-256, where it could be read.
    pub digest: Option<String>,
    /// Stable and machine-readable.
    pub code: &'static str,
    /// Why.
    pub reason: String,
    /// Seconds since 1970.
    pub at: u64,
}

impl Refusal {
    pub(super) fn new(digest: Option<String>, error: &ControlError) -> Self {
        Self {
            digest,
            code: error.code(),
            reason: error.to_string(),
            at: history::now(),
        }
    }
}

/// A route and its chain.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RouteStatus {
    /// Its name.
    pub name: String,
    /// Other model names that lead to it.
    pub aliases: Vec<String>,
    /// Whether it answers to the model's own name.
    pub default: bool,
    /// As `x-gapura-chain` shows it.
    pub chain: String,
    /// Its plugins, in order.
    pub plugins: Vec<BindingStatus>,
}

/// A plugin as a route uses it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BindingStatus {
    /// The plugin's name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// Its digest.
    pub digest: String,
    /// The stages that it takes part in.
    pub stages: Vec<&'static str>,
    /// The imports that it is bound to grant, for the plugin needs them.
    pub grants_needed: Vec<&'static str>,
    /// `closed` or `open`.
    pub on_failure: &'static str,
}

impl Controller {
    /// All plugins by name.
    pub fn plugins(&self) -> Vec<PluginStatus> {
        let state = self.state();
        state
            .plugins
            .keys()
            .filter_map(|name| state.status_of(name))
            .collect()
    }

    /// One plugin.
    pub fn plugin(&self, name: &str) -> Option<PluginStatus> {
        self.state().status_of(name)
    }

    /// Artefacts that were refused and whose name has no plugin in use.
    pub fn refusals(&self) -> Vec<(String, Refusal)> {
        let state = self.state();
        let unknown = state
            .refusals
            .iter()
            .filter(|(name, _)| !state.plugins.contains_key(*name));
        unknown
            .map(|(name, refusal)| (name.clone(), refusal.clone()))
            .collect()
    }

    /// All routes, in the configuration's order.
    pub fn route_statuses(&self) -> Vec<RouteStatus> {
        let table = self.routes.load();
        let status = |route: &std::sync::Arc<crate::routing::Route>| RouteStatus {
            name: route.name.clone(),
            aliases: route.aliases.clone(),
            default: route.default,
            chain: route.chain.label().to_owned(),
            plugins: route
                .chain
                .bindings()
                .iter()
                .map(|binding| BindingStatus {
                    plugin: binding.plugin.name().to_owned(),
                    version: binding.plugin.version().to_owned(),
                    digest: binding.plugin.digest().to_owned(),
                    stages: stages(&binding.plugin),
                    grants_needed: grants_needed(&binding.plugin),
                    on_failure: match binding.on_failure {
                        gapura_plugin_runtime::FailurePolicy::Closed => "closed",
                        gapura_plugin_runtime::FailurePolicy::Open => "open",
                    },
                })
                .collect(),
        };
        table.iter().map(status).collect()
    }

    /// What changed, the newest first.
    pub fn history(&self) -> Vec<Change> {
        self.state().history.newest_first()
    }
}

impl State {
    pub(super) fn status_of(&self, name: &str) -> Option<PluginStatus> {
        let Entry {
            plugin,
            source,
            since,
        } = self.plugins.get(name)?;
        let routes: Vec<String> = self
            .config
            .routes
            .iter()
            .filter(|route| route.plugins.iter().any(|binding| binding.plugin == name))
            .map(|route| route.name.clone())
            .collect();
        Some(PluginStatus {
            name: name.to_owned(),
            version: plugin.version().to_owned(),
            digest: plugin.digest().to_owned(),
            label: plugin.label().to_owned(),
            state: if routes.is_empty() {
                PluginState::Verified
            } else {
                PluginState::Live
            },
            source: *source,
            size_bytes: plugin.size_bytes(),
            stages: stages(plugin),
            imports: plugin
                .imports()
                .iter()
                .map(|import| import.as_str())
                .collect(),
            routes,
            since: *since,
            refused: self.refusals.get(name).cloned(),
        })
    }
}

fn stages(plugin: &Plugin) -> Vec<&'static str> {
    plugin.stages().iter().map(|stage| stage.as_str()).collect()
}

fn grants_needed(plugin: &Plugin) -> Vec<&'static str> {
    plugin.grants_needed().map(|grant| grant.as_str()).collect()
}
