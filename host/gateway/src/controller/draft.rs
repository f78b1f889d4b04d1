//! A change before it is committed: the state as it would be, and what led there.

use super::{
    Change, Origin,
    release::{Release, Releases},
};
use crate::telemetry::Metrics;

/// The state as it would be.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) releases: Releases,
    pub(super) changes: Vec<Change>,
}

impl Draft {
    pub(super) fn of(releases: &Releases) -> Self {
        Self {
            releases: releases.clone(),
            changes: Vec::new(),
        }
    }

    /// The versions of `name`, of which there may be none yet.
    pub(super) fn release(&mut self, name: &str) -> &mut Release {
        let plugins = &mut self.releases.plugins;
        plugins.entry(name.to_owned()).or_default()
    }

    /// Adds `change` as the newest.
    pub(super) fn note(&mut self, change: Change) {
        self.releases.sequence += 1;
        let sequence = self.releases.sequence;
        self.changes.push(Change { sequence, ..change });
    }

    /// Adds `change` of the version `digest` of its plugin.
    pub(super) fn note_version(&mut self, change: Change, digest: &str) {
        let name = change.plugin_name().unwrap_or_default();
        let release = self.releases.plugins.get(name);
        let version = release
            .and_then(|release| release.version(digest))
            .and_then(|version| version.label());
        self.note(Change {
            version,
            digest: Some(digest.to_owned()),
            ..change
        });
    }

    /// Counts its changes of plugins.
    pub(super) fn count(&self, metrics: &Metrics) {
        for change in &self.changes {
            if let Some(name) = change.plugin_name() {
                metrics.transition(name, change.state(), &change.origin.to_string());
            }
        }
    }

    /// Whether any of its changes comes from `origin`.
    pub(super) fn is_by(&self, origin: Origin) -> bool {
        self.changes.iter().any(|change| change.origin == origin)
    }

    /// Forgets versions beyond `keep` of every plugin.
    pub(super) fn forget_old(&mut self, keep: usize) {
        let releases = self.releases.plugins.values_mut();
        releases.for_each(|release| release.forget_old(keep));
    }
}
