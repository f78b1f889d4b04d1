//! `usage`, as every endpoint reports it.

use serde::Serialize;

/// Tokens of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the prompt, counted once however many answers there are.
    pub prompt: u32,
    /// Of the prompt, whose keys and values were already there.
    pub cached: u32,
    /// Of all answers together, up to the stop.
    pub completion: u32,
}

/// The JSON of [`Tokens`].
#[derive(Debug, Clone, Serialize)]
pub struct UsageJson {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptTokensDetails,
}

#[derive(Debug, Clone, Serialize)]
struct PromptTokensDetails {
    cached_tokens: u32,
}

impl From<Tokens> for UsageJson {
    fn from(tokens: Tokens) -> Self {
        Self {
            prompt_tokens: tokens.prompt,
            completion_tokens: tokens.completion,
            total_tokens: tokens.prompt + tokens.completion,
            prompt_tokens_details: PromptTokensDetails {
                cached_tokens: tokens.cached,
            },
        }
    }
}

/// The word for why an answer ended.
pub fn finish_reason(reason: gapura_plugin_runtime::FinishReason) -> &'static str {
    use gapura_plugin_runtime::FinishReason;
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ContentFilter => "content_filter",
        FinishReason::ToolCalls => "tool_calls",
    }
}
