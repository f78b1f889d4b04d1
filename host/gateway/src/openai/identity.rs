//! What every chunk of an answer repeats.

use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// Id, time and model of an answer: the same in every chunk of a stream.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `chatcmpl-…` or `cmpl-…`.
    pub id: String,
    /// Unix time in seconds.
    pub created: u64,
    /// As the client named it.
    pub model: String,
}

impl Identity {
    /// A new answer's, with `prefix` before its id.
    pub fn new(prefix: &str, model: &str) -> Self {
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        Self {
            id: format!("{prefix}-{}", Uuid::now_v7().simple()),
            created,
            model: model.to_owned(),
        }
    }
}
