//! What a client asks for, whichever endpoint it used.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gapura_engine::TokenId;
use gapura_plugin_runtime::Chat;

use crate::error::ApiError;
use crate::openai::sampling::Options;
use crate::routing::Route;

/// A request, parsed and routed.
#[derive(Debug, Clone)]
pub struct Call {
    /// The route that the client chose. A validator may send the request to another.
    pub route: Arc<Route>,
    /// What decides which version of a route answers, while one is a canary.
    pub sticky_key: String,
    /// The request as plugins see it. That of a raw prompt is one user message.
    pub chat: Chat,
    /// Where the prompt comes from.
    pub prompt: PromptSource,
    /// What plugins do not see.
    pub options: Options,
    /// When the answer must be complete.
    pub deadline: Deadline,
}

/// Where the prompt comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptSource {
    /// The chain's template renders the chat.
    Template,
    /// The text of the chat's user message is the prompt, after the model's `<bos>`. It is not
    /// rendered, for it has no turns.
    Text,
    /// These tokens are the prompt, as they are. Where a validator changes their text, the
    /// changed text is the prompt.
    Tokens {
        /// The prompt.
        ids: Vec<TokenId>,
        /// Their text, which is the chat's user message.
        text: String,
    },
}

impl PromptSource {
    /// Whether the chain's template makes the prompt.
    pub(super) fn is_rendered(&self) -> bool {
        matches!(self, Self::Template)
    }

    /// The field of the request that holds the prompt.
    pub fn param(&self) -> &'static str {
        match self {
            Self::Template => "messages",
            Self::Text | Self::Tokens { .. } => "prompt",
        }
    }
}

/// What stands for a time limit that the clock cannot hold.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The time by which a request must be answered.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    /// `limit` from now.
    pub fn after(limit: Duration) -> Self {
        let now = Instant::now();
        Self {
            at: now.checked_add(limit).unwrap_or(now + FAR),
            limit,
        }
    }

    /// The moment itself.
    pub fn at(self) -> Instant {
        self.at
    }

    /// The error of a request that did not end in time.
    pub fn exceeded(self) -> ApiError {
        ApiError::deadline(self.limit)
    }

    /// Waits until the deadline has passed by `grace`.
    pub async fn passed(self, grace: Duration) {
        tokio::time::sleep_until((self.at + grace).into()).await;
    }

    /// Waits for `work` until the deadline and no longer.
    ///
    /// # Errors
    /// 504 once the deadline has passed, and those of `work`.
    pub async fn hold<T>(
        self,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        match tokio::time::timeout_at(self.at.into(), work).await {
            Ok(result) => result,
            Err(_) => Err(self.exceeded()),
        }
    }
}
