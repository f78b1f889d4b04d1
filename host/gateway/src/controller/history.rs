//! What changed, when, by whom, and how it ended: one line of JSON for each, so that a file of
//! them can be read by people and tools.

use std::{
    collections::VecDeque,
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::ControlError;

/// Changes kept.
pub(super) const MAX_CHANGES: usize = 1000;

/// Where a change came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The administration API.
    Admin,
    /// A file that has changed: of the plugin folder, or the configuration.
    File,
    /// SIGHUP.
    Signal,
    /// The guard that watches versions on trial.
    Guard,
    /// A reference of the configuration to a registry.
    Registry,
    /// Another binary of the gateway, which carries other plugins.
    Binary,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::File => "file",
            Self::Signal => "signal",
            Self::Guard => "guard",
            Self::Registry => "registry",
            Self::Binary => "binary",
        })
    }
}

/// One change, or one that was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Numbers changes in their order, whatever the clock says.
    pub sequence: u64,
    /// Seconds since 1970.
    pub at: u64,
    /// Who.
    pub origin: Origin,
    /// `plugin NAME` or `configuration`.
    pub subject: String,
    /// The plugin's version, where it is known.
    pub version: Option<String>,
    /// SHA-256 of the artefact.
    pub digest: Option<String>,
    /// What became of it: `staged`, `verified`, `shadow`, `canary 10 %`, `live`, `retired`,
    /// `signed` or `refused`.
    pub outcome: String,
    /// Why it was refused or taken out of service.
    pub reason: Option<String>,
}

impl Change {
    /// A change of the plugin `name`, without version or digest.
    pub(super) fn plugin(origin: Origin, name: &str, outcome: impl fmt::Display) -> Self {
        Self {
            sequence: 0,
            at: now(),
            origin,
            // Names come from the network.
            subject: format!("plugin {}", name.chars().take(64).collect::<String>()),
            version: None,
            digest: None,
            outcome: outcome.to_string(),
            reason: None,
        }
    }

    pub(super) fn configuration(origin: Origin, result: Result<(), &ControlError>) -> Self {
        Self {
            sequence: 0,
            at: now(),
            origin,
            subject: "configuration".to_owned(),
            version: None,
            digest: None,
            outcome: if result.is_ok() { "live" } else { "refused" }.to_owned(),
            reason: result.err().map(ToString::to_string),
        }
    }

    pub(super) fn because(self, reason: Option<String>) -> Self {
        Self { reason, ..self }
    }

    /// The outcome without the share of a canary.
    pub(super) fn state(&self) -> &str {
        self.outcome.split(' ').next().unwrap_or_default()
    }

    /// The name of the plugin that it is about.
    pub fn plugin_name(&self) -> Option<&str> {
        self.subject.strip_prefix("plugin ")
    }
}

/// The newest changes.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Change>);

impl History {
    pub(super) fn add(&mut self, change: Change) {
        if self.0.len() == MAX_CHANGES {
            self.0.pop_front();
        }
        self.0.push_back(change);
    }

    /// The newest first.
    pub(super) fn newest_first(&self) -> Vec<Change> {
        self.0.iter().rev().cloned().collect()
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
