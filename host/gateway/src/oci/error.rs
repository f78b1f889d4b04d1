//! Why an artefact could not be had or published.

use thiserror::Error;

/// What a registry says is for people, and may be anything.
const MAX_SAID: usize = 200;

/// An exchange with a registry that came to nothing.
#[derive(Debug, Error)]
pub enum OciError {
    /// Nobody answers, or not in time.
    #[error("{registry} cannot be reached: {reason}")]
    Unreachable {
        /// `HOST[:PORT]`.
        registry: String,
        /// What the transport said.
        reason: String,
    },
    /// The registry wants another login, or one at all.
    #[error("{registry} refuses it ({status}){said}: {advice}")]
    Denied {
        /// `HOST[:PORT]`.
        registry: String,
        /// 401 or 403.
        status: u16,
        /// What the registry said of it.
        said: Said,
        /// What to do.
        advice: String,
    },
    /// The registry has no such thing.
    #[error("{registry} has no {what}{said}")]
    NotFound {
        /// `HOST[:PORT]`.
        registry: String,
        /// What was asked for.
        what: String,
        /// What the registry said of it.
        said: Said,
    },
    /// The registry answers with something else than was asked for.
    #[error("{registry} answered {status} to the {what}{said}")]
    Status {
        /// `HOST[:PORT]`.
        registry: String,
        /// What was asked for.
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// What the registry said of it.
        said: Said,
    },
    /// More than may be read.
    #[error("the {what} has more than the {limit} bytes that it may have")]
    TooLarge {
        /// Manifest or component.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The content is not what its name says.
    #[error("the {what} is not what was asked for: its digest is {found}, not {expected}")]
    Digest {
        /// Manifest or component.
        what: &'static str,
        /// What was asked for.
        expected: String,
        /// What came.
        found: String,
    },
    /// The artefact is something else.
    #[error("{reference} is not a plugin: {reason}")]
    NotAPlugin {
        /// What was asked for.
        reference: String,
        /// What it is.
        reason: String,
    },
    /// What came cannot be read.
    #[error("{registry} sent a {what} that cannot be read: {reason}")]
    Malformed {
        /// `HOST[:PORT]`.
        registry: String,
        /// What came.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl OciError {
    /// Whether the same may well succeed in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

/// What a registry said, bounded and fit for a terminal; begins with a colon where it said
/// anything.
#[derive(Debug, Default)]
pub struct Said(String);

impl Said {
    /// The first message of `body`, if it is an error of the distribution specification.
    pub(super) fn of(body: &[u8]) -> Self {
        let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let error = &value["errors"][0];
        let message = error["message"].as_str().filter(|text| !text.is_empty());
        message
            .or(error["code"].as_str())
            .map_or_else(Self::default, |text| Self(format!(": {}", printable(text))))
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The beginning of `text`, without what would move a cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(MAX_SAID)
        .collect()
}
