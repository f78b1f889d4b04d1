//! What goes into the engine and what comes out of it, as plain data.

use std::{sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};

use crate::{error::EngineError, grammar::Grammar};

/// An entry of the model's vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub u32);

/// One answer to generate. A client's `n` is `n` of these.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// For logs; not necessarily unique.
    pub request_id: String,
    /// The whole prompt, `<bos>` included. Never empty.
    pub prompt: Vec<TokenId>,
    /// How the next token is chosen.
    pub sampling: SamplingParams,
    /// When the answer ends.
    pub stop: StopParams,
    /// What the answer must match. It ends where the grammar allows nothing more, whatever
    /// `min_tokens` and `ignore_eos` say.
    pub grammar: Option<Grammar>,
    /// Report each token's logprob with this many alternatives (0 to 20).
    pub logprobs: Option<u32>,
    /// Score the prompt: report every prompt token but the first, with this many alternatives.
    pub prompt_logprobs: Option<u32>,
    /// When it is computed, and when no longer.
    pub queue: QueueParams,
    /// What of it is shared with other requests.
    pub cache: CacheParams,
}

impl GenerateRequest {
    /// Up to `max_tokens` tokens after `prompt`, drawn from the model's own distribution, and
    /// nothing that has to be asked for.
    pub fn new(request_id: impl Into<String>, prompt: Vec<TokenId>, max_tokens: u32) -> Self {
        Self {
            request_id: request_id.into(),
            prompt,
            sampling: SamplingParams::default(),
            stop: StopParams {
                max_tokens,
                min_tokens: 0,
                ignore_eos: false,
                stop_token_ids: Vec::new(),
            },
            grammar: None,
            logprobs: None,
            prompt_logprobs: None,
            queue: QueueParams::default(),
            cache: CacheParams::default(),
        }
    }

    /// Exactly `max_tokens` tokens after `prompt`, the most likely each time, whether or not
    /// they end the answer: for measurements.
    pub fn greedy(request_id: impl Into<String>, prompt: Vec<TokenId>, max_tokens: u32) -> Self {
        let mut request = Self::new(request_id, prompt, max_tokens);
        request.sampling.temperature = 0.0;
        request.stop.ignore_eos = true;
        request
    }
}

/// When a request is computed, and when no longer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueParams {
    /// Whose it is. Tenants that wait get tokens in equal shares; requests without a name are
    /// one tenant's.
    pub tenant: Option<Arc<str>>,
    /// Who goes first.
    pub lane: Lane,
    /// When nobody waits for it any more: it ends with [`EngineError::DeadlineExceeded`] then,
    /// running or waiting.
    pub deadline: Option<Instant>,
}

/// Who goes first. A lower lane gets what the upper one leaves, and a seat now and then where
/// that leaves none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Somebody waits for it.
    #[default]
    Normal,
    /// The server's own work: prefixes computed in advance, a plugin's own questions.
    Low,
}

/// What of a request is shared with others. The result does not depend on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheParams {
    /// Only requests with the same salt share keys and values with this one, so that no
    /// other can tell from its speed what this one's prompt was.
    pub salt: Option<Arc<str>>,
    /// Prompt tokens that stay the same from request to request: their keys and values are
    /// kept for those to come. 0 for none.
    pub prefix_tokens: usize,
}

/// How the next token is chosen from the logits. The order is: logit bias, penalties, the
/// request's grammar, temperature, top-k, top-p, min-p, draw.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy; in [0, 2].
    pub temperature: f32,
    /// Most likely tokens kept; 0 keeps all.
    pub top_k: u32,
    /// Nucleus mass in (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Least probability relative to the most likely token, in [0, 1]; 0 keeps all.
    pub min_p: f32,
    /// With the same seed and prompt the same tokens are drawn, whatever else the batch
    /// holds. `None` draws a seed.
    pub seed: Option<u64>,
    /// Subtracted once from the logit of each generated token.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit for each time it was generated.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or answer; 1 is off.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens; each in [-100, 100].
    pub logit_bias: Vec<(TokenId, f32)>,
}

impl SamplingParams {
    /// Whether what came before changes the logits.
    pub(crate) fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
        }
    }
}

/// When an answer ends. Stop strings are text and so the business of
/// [`TextStream`](crate::TextStream), which runs beside the engine thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopParams {
    /// Most tokens to generate; 0 only scores the prompt.
    pub max_tokens: u32,
    /// No end-of-sequence or stop token before this many tokens.
    pub min_tokens: u32,
    /// Go on past the model's end-of-sequence tokens, as load generators ask.
    pub ignore_eos: bool,
    /// Ends the answer beside the model's end-of-sequence tokens.
    pub stop_token_ids: Vec<TokenId>,
}

/// What the engine reports of one request, in order: prompt logprobs (where asked), tokens,
/// then exactly one `Finished` or `Failed`.
#[derive(Debug, Clone)]
pub enum TokenEvent {
    /// The logprobs of the prompt tokens but the first, one entry each.
    Prompt(Vec<TokenLogprobs>),
    /// The next token. An end-of-sequence token is reported here too.
    Token(SampledToken),
    /// The answer is complete.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
    /// The answer cannot be completed.
    Failed(EngineError),
}

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledToken {
    /// Which.
    pub id: TokenId,
    /// Where asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// A token's natural-log probability and that of its most likely rivals, before temperature,
/// penalties and grammar, after the final soft cap.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was generated or stands in the prompt.
    pub id: TokenId,
    /// Its logprob.
    pub logprob: f32,
    /// The most likely tokens, most likely first.
    pub top: Vec<(TokenId, f32)>,
}

/// Why an answer ended, as far as the engine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence or stop token.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
}

/// Tokens and times of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Prompt tokens whose keys and values were already there.
    pub cached_tokens: u32,
    /// Generated tokens, an end-of-sequence token included.
    pub completion_tokens: u32,
    /// From submission until the first step that computed a part of it.
    pub queue_time: std::time::Duration,
    /// From then until the first generated token.
    pub prefill_time: std::time::Duration,
    /// From the first generated token to the last.
    pub decode_time: std::time::Duration,
}
