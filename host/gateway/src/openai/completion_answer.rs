//! The answers of `/v1/completions`: whole, and as the chunks of a stream, which have the
//! same shape.

use gapura_plugin_runtime::FinishReason;
use serde::Serialize;

use crate::openai::identity::Identity;
use crate::openai::logprobs::CompletionLogprobs;
use crate::openai::usage::{Tokens, UsageJson, finish_reason};

/// `text_completion`.
#[derive(Debug, Serialize)]
pub struct CompletionAnswer<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<CompletionChoice>,
    /// Absent from chunks unless asked for; `null` on all chunks but the last where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageJson>>,
}

/// One answer, or a piece of one.
#[derive(Debug, Serialize)]
pub struct CompletionChoice {
    /// Of the answer: `prompt * n + choice`.
    pub index: usize,
    /// Its text.
    pub text: String,
    /// Of its tokens, where asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended, once it has.
    #[serde(serialize_with = "as_word")]
    pub finish_reason: Option<FinishReason>,
}

impl<'a> CompletionAnswer<'a> {
    /// Of these choices.
    pub fn new(identity: &'a Identity, choices: Vec<CompletionChoice>) -> Self {
        Self {
            id: &identity.id,
            object: "text_completion",
            created: identity.created,
            model: &identity.model,
            choices,
            usage: None,
        }
    }

    /// Adds the key `usage`: the tokens so far, or `null`.
    #[must_use]
    pub fn with_usage(mut self, tokens: Option<Tokens>) -> Self {
        self.usage = Some(tokens.map(Into::into));
        self
    }
}

fn as_word<S: serde::Serializer>(
    reason: &Option<FinishReason>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    reason.map(finish_reason).serialize(serializer)
}
