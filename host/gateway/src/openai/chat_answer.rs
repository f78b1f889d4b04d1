//! The answers of `/v1/chat/completions`: whole, and as the chunks of a stream.
//!
//! A stream's first chunk of a choice carries the role and `content: ""`, no later one the
//! role; exactly one chunk carries `finish_reason`, with an empty delta; then comes the usage
//! where asked for. Clients were seen to fail on each deviation.

use gapura_plugin_runtime::FinishReason;
use serde::Serialize;

use crate::openai::identity::Identity;
use crate::openai::logprobs::{ChatLogprobs, ScoredToken};
use crate::openai::usage::{Tokens, UsageJson, finish_reason};

/// One complete answer.
#[derive(Debug, Clone)]
pub struct ChatChoice {
    /// All of its text.
    pub text: String,
    /// Its tokens, where logprobs were asked for.
    pub tokens: Option<Vec<ScoredToken>>,
    /// Why it ended.
    pub finish: FinishReason,
}

/// `chat.completion`.
#[derive(Debug, Serialize)]
pub struct ChatAnswer<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<WholeChoice>,
    usage: UsageJson,
}

#[derive(Debug, Serialize)]
struct WholeChoice {
    index: usize,
    message: AssistantMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
}

#[derive(Debug, Serialize)]
struct AssistantMessage {
    role: &'static str,
    content: String,
    refusal: Option<()>,
}

impl<'a> ChatAnswer<'a> {
    /// The answer to a request that was not streamed.
    pub fn new(identity: &'a Identity, choices: Vec<ChatChoice>, tokens: Tokens) -> Self {
        let choices = choices
            .into_iter()
            .enumerate()
            .map(|(index, choice)| WholeChoice {
                index,
                message: AssistantMessage {
                    role: "assistant",
                    content: choice.text,
                    refusal: None,
                },
                logprobs: choice.tokens.map(ChatLogprobs::new),
                finish_reason: finish_reason(choice.finish),
            });
        Self {
            id: &identity.id,
            object: "chat.completion",
            created: identity.created,
            model: &identity.model,
            choices: choices.collect(),
            usage: tokens.into(),
        }
    }
}

/// `chat.completion.chunk`.
#[derive(Debug, Serialize)]
pub struct ChatChunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChunkChoice<'a>>,
    /// Absent unless asked for; `null` on all chunks but the last where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageJson>>,
}

#[derive(Debug, Serialize)]
struct ChunkChoice<'a> {
    index: usize,
    delta: Delta<'a>,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    /// Required by the role's chunk of the published schema, absent later.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Option<()>>,
}

impl<'a> ChatChunk<'a> {
    /// The first chunk of a choice.
    pub fn role(identity: &'a Identity, index: usize) -> Self {
        let delta = Delta {
            role: Some("assistant"),
            content: Some(""),
            refusal: Some(None),
        };
        Self::of(
            identity,
            vec![ChunkChoice {
                index,
                delta,
                logprobs: None,
                finish_reason: None,
            }],
        )
    }

    /// The next text of a choice.
    pub fn text(
        identity: &'a Identity,
        index: usize,
        text: &'a str,
        tokens: Option<Vec<ScoredToken>>,
    ) -> Self {
        let delta = Delta {
            content: Some(text),
            ..Delta::default()
        };
        let logprobs = tokens.map(ChatLogprobs::new);
        Self::of(
            identity,
            vec![ChunkChoice {
                index,
                delta,
                logprobs,
                finish_reason: None,
            }],
        )
    }

    /// The last chunk of a choice.
    pub fn finish(identity: &'a Identity, index: usize, reason: FinishReason) -> Self {
        let finish_reason = Some(finish_reason(reason));
        let delta = Delta::default();
        Self::of(
            identity,
            vec![ChunkChoice {
                index,
                delta,
                logprobs: None,
                finish_reason,
            }],
        )
    }

    /// The last chunk of a stream, where the usage was asked for.
    pub fn usage(identity: &'a Identity, tokens: Tokens) -> Self {
        Self::of(identity, Vec::new()).with_usage(Some(tokens))
    }

    /// Adds the key `usage`: the tokens so far, or `null`.
    #[must_use]
    pub fn with_usage(mut self, tokens: Option<Tokens>) -> Self {
        self.usage = Some(tokens.map(Into::into));
        self
    }

    fn of(identity: &'a Identity, choices: Vec<ChunkChoice<'a>>) -> Self {
        Self {
            id: &identity.id,
            object: "chat.completion.chunk",
            created: identity.created,
            model: &identity.model,
            choices,
            usage: None,
        }
    }
}
