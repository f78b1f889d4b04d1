//! What changed, when, by whom, and how it ended. Kept in memory, the newest thousand.

use std::{
    collections::VecDeque,
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use gapura_plugin_runtime::Plugin;
use serde::Serialize;

use super::ControlError;

/// Changes kept.
const MAX_CHANGES: usize = 1000;

/// Where a change came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The administration API.
    Admin,
    /// The plugin folder.
    File,
    /// SIGHUP.
    Signal,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::File => "file",
            Self::Signal => "signal",
        })
    }
}

/// One change, or one that was refused.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Seconds since 1970.
    pub at: u64,
    /// Who.
    pub origin: Origin,
    /// `plugin NAME` or `configuration`.
    pub subject: String,
    /// The plugin's version, where it could be read.
    pub version: Option<String>,
    /// SHA-256 of the artefact.
    pub digest: Option<String>,
    /// `live` or `refused`.
    pub outcome: &'static str,
    /// Why it was refused.
    pub reason: Option<String>,
}

impl Change {
    pub(super) fn plugin(origin: Origin, plugin: &Plugin) -> Self {
        Self {
            at: now(),
            origin,
            subject: format!("plugin {}", plugin.name()),
            version: Some(plugin.version().to_owned()),
            digest: Some(plugin.digest().to_owned()),
            outcome: "live",
            reason: None,
        }
    }

    pub(super) fn refused(
        origin: Origin,
        name: &str,
        digest: Option<String>,
        error: &ControlError,
    ) -> Self {
        Self {
            at: now(),
            origin,
            subject: format!("plugin {}", name.chars().take(64).collect::<String>()),
            version: None,
            digest,
            outcome: "refused",
            reason: Some(error.to_string()),
        }
    }

    pub(super) fn configuration(origin: Origin, result: Result<(), &ControlError>) -> Self {
        Self {
            at: now(),
            origin,
            subject: "configuration".to_owned(),
            version: None,
            digest: None,
            outcome: if result.is_ok() { "live" } else { "refused" },
            reason: result.err().map(ToString::to_string),
        }
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
