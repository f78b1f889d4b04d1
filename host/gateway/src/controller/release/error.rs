//! What a plugin's versions refuse.

use thiserror::Error;

/// A move that a plugin's versions do not allow.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MoveError {
    /// No version begins with these digits.
    #[error("plugin `{name}` has no version {digits}: it has {known}")]
    NoVersion {
        /// The plugin.
        name: String,
        /// What was asked for.
        digits: String,
        /// The versions there are.
        known: String,
    },
    /// Several versions begin with these digits, or they are too few.
    #[error("{digits} does not name one version of plugin `{name}`: say more digits, at least 6")]
    Ambiguous {
        /// The plugin.
        name: String,
        /// What was asked for.
        digits: String,
    },
    /// No version waits for this move.
    #[error("plugin `{name}` has no version to {action}: {advice}")]
    Nothing {
        /// The plugin.
        name: String,
        /// The move.
        action: &'static str,
        /// What there is.
        advice: String,
    },
    /// The version did not pass verification.
    #[error("{label} of plugin `{name}` is not verified: {reason}")]
    NotVerified {
        /// The plugin.
        name: String,
        /// The version.
        label: String,
        /// What verification found.
        reason: String,
    },
    /// The version serves already.
    #[error("{label} of plugin `{name}` is live: only another version can {action}")]
    IsLive {
        /// The plugin.
        name: String,
        /// The version.
        label: String,
        /// The move.
        action: &'static str,
    },
    /// Another version is on trial.
    #[error(
        "{label} of plugin `{name}` is on trial ({state}): activate it or roll it back before \
         another one is tried"
    )]
    OnTrial {
        /// The plugin.
        name: String,
        /// The version on trial.
        label: String,
        /// How it serves.
        state: String,
    },
    /// There is no room for another plugin.
    #[error(
        "plugin `{name}` is new, and there are {limit} already, which is the most: push it as a \
         version of one that is there, or begin with another [plugins] releases_dir"
    )]
    TooMany {
        /// The plugin.
        name: String,
        /// The most that there may be.
        limit: usize,
    },
    /// A share that is none.
    #[error("percent is {percent}; a canary takes 1 to 100 of a hundred requests")]
    Percent {
        /// What was asked for.
        percent: u64,
    },
}
