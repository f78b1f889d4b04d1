//! What the engine is asked for: the client's wishes, as validators amended them, within the
//! route's limits and the model's context.

use std::sync::Arc;

use gapura_engine::{
    CacheParams, GenerateRequest, Grammar, Lane, QueueParams, SamplingParams, StopParams, TokenId,
};
use gapura_plugin_runtime::{Chat, Sampling};

use crate::config::{SamplingDefaults, SamplingLimits};
use crate::error::ApiError;
use crate::openai::sampling::Options;
use crate::pipeline::call::Deadline;
use crate::pipeline::prompt::Tokens;
use crate::routing::Route;
use crate::state::LoadedModel;

/// Answers to one request, where the route says nothing else.
const DEFAULT_MAX_CHOICES: u32 = 16;

/// One prompt and how its answers are to be drawn.
pub(super) struct Plan {
    pub(super) prompt: Arc<[TokenId]>,
    pub(super) num_choices: u32,
    /// Stop strings of the request and of the template.
    pub(super) stop: Vec<String>,
    /// Tokens that end an answer and are no text of it.
    pub(super) end_tokens: Arc<[TokenId]>,
    first: GenerateRequest,
}

/// Refuses a client's wishes beyond what the route gives. What validators amend later is
/// brought within the limits in silence, for it is not the client's doing.
///
/// # Errors
/// 400 that names field, value and limit.
pub(super) fn check_limits(
    asked: &Sampling,
    num_choices: u32,
    limits: &SamplingLimits,
) -> Result<(), ApiError> {
    let max_choices = limits.max_choices.unwrap_or(DEFAULT_MAX_CHOICES);
    if num_choices > max_choices {
        let message = format!("n is {num_choices}, this route gives at most {max_choices}");
        return Err(ApiError::invalid("n", message));
    }
    if let (Some(asked), Some(limit)) = (asked.max_tokens, limits.max_tokens)
        && asked > limit
    {
        let message = format!("max_tokens is {asked}, this route gives at most {limit}");
        return Err(ApiError::invalid("max_tokens", message));
    }
    if let (Some(asked), Some(limit)) = (asked.temperature, limits.max_temperature)
        && asked > limit
    {
        let message = format!("temperature is {asked}, this route gives at most {limit}");
        return Err(ApiError::invalid("temperature", message));
    }
    Ok(())
}

/// Plans the answers to `prompt`.
///
/// # Errors
/// 400 where the prompt and the tokens asked for do not fit the context.
pub(super) fn plan(
    model: &LoadedModel,
    route: &Route,
    chat: &Chat,
    options: &Options,
    prompt: Tokens,
    grammar: Option<Grammar>,
    deadline: Deadline,
) -> Result<Plan, ApiError> {
    let info = model.engine.model();
    let is_unknown = |id: TokenId| id.0 as usize >= info.vocab_size;
    if let Some((id, _)) = options.logit_bias.iter().find(|(id, _)| is_unknown(*id)) {
        let (id, vocab_size) = (id.0, info.vocab_size);
        let message = format!("token id {id} is outside the vocabulary of {vocab_size}");
        return Err(ApiError::invalid(format!("logit_bias.{id}"), message));
    }
    let num_tokens = prompt.ids.len();
    let room = Room {
        num_prompt_tokens: num_tokens,
        context_length: info.context_length,
        param: prompt.param,
        num_choices: options.n,
        tokens_each: model.engine.tokens_each(options.n as usize, num_tokens),
    };
    let max_tokens = room.max_tokens(&chat.sampling, route)?;
    if options.min_tokens > max_tokens {
        return Err(ApiError::invalid(
            "min_tokens",
            format!(
                "min_tokens is {}, but at most {max_tokens} can be generated",
                options.min_tokens
            ),
        ));
    }
    let mut stop = chat.sampling.stop.clone();
    stop.extend(prompt.stop);
    let end_tokens = if options.ignore_eos && grammar.is_none() {
        &[][..]
    } else {
        &info.eos_token_ids
    };
    Ok(Plan {
        prompt: prompt.ids.as_slice().into(),
        num_choices: options.n,
        stop,
        end_tokens: end_tokens
            .iter()
            .chain(&options.stop_token_ids)
            .copied()
            .collect(),
        first: GenerateRequest {
            request_id: chat.request_id.clone(),
            prompt: prompt.ids,
            sampling: sampling(&chat.sampling, &route.sampling, &route.limits, options),
            stop: StopParams {
                max_tokens,
                min_tokens: options.min_tokens,
                ignore_eos: options.ignore_eos,
                stop_token_ids: options.stop_token_ids.clone(),
            },
            grammar,
            logprobs: options.logprobs,
            prompt_logprobs: options.prompt_logprobs,
            queue: QueueParams {
                tenant: chat.tenant.as_deref().map(Arc::from),
                lane: Lane::Normal,
                deadline: Some(deadline.at()),
            },
            cache: CacheParams {
                salt: options.cache_salt.clone(),
                prefix_tokens: prompt.num_prefix,
            },
        },
    })
}

impl Plan {
    /// The request for the answer `index`. With a seed each answer has its own, so that they
    /// differ and can all be had again.
    pub(super) fn request(&self, index: u32) -> GenerateRequest {
        let mut request = self.first.clone();
        request.sampling.seed = request
            .sampling
            .seed
            .map(|seed| seed.wrapping_add(index.into()));
        request
    }

    pub(super) fn reports_logprobs(&self) -> bool {
        self.first.logprobs.is_some()
    }

    pub(super) fn num_prompt_tokens(&self) -> u32 {
        u32::try_from(self.prompt.len()).unwrap_or(u32::MAX)
    }
}

/// What there is room for.
struct Room {
    num_prompt_tokens: usize,
    context_length: usize,
    /// The field that the prompt came from.
    param: &'static str,
    num_choices: u32,
    /// Most tokens of prompt and answer that each of the answers can have at once.
    tokens_each: usize,
}

impl Room {
    /// What the client names must fit; what it leaves open takes the room that there is.
    fn max_tokens(&self, sampling: &Sampling, route: &Route) -> Result<u32, ApiError> {
        let limit = route.limits.max_tokens.unwrap_or(u32::MAX);
        let beside_prompt = |tokens: usize| {
            u32::try_from(tokens.saturating_sub(self.num_prompt_tokens)).unwrap_or(u32::MAX)
        };
        let room = beside_prompt(self.context_length);
        let asked = sampling.max_tokens.map(|asked| asked.min(limit));
        let overflows = self.num_prompt_tokens > self.context_length || asked.unwrap_or(1) > room;
        if overflows {
            return Err(ApiError::context_overflow(
                self.context_length,
                self.num_prompt_tokens,
                asked.unwrap_or(1),
                self.param,
            ));
        }
        let room_each = beside_prompt(self.tokens_each);
        if self.num_choices > 1 && asked.unwrap_or(1) > room_each {
            return Err(self.too_many_choices(asked.unwrap_or(1), room_each));
        }
        Ok(asked.unwrap_or_else(|| {
            route
                .sampling
                .max_tokens
                .unwrap_or(u32::MAX)
                .min(limit)
                .min(room_each)
        }))
    }

    /// One answer would fit, all of them together do not.
    fn too_many_choices(&self, asked: u32, room_each: u32) -> ApiError {
        let Self {
            num_prompt_tokens,
            num_choices,
            ..
        } = self;
        let message = format!(
            "n is {num_choices} and max_tokens {asked}, which is more than the KV cache holds \
             beside a prompt of {num_prompt_tokens} tokens: at most {room_each} tokens for each \
             of {num_choices} answers"
        );
        ApiError::invalid("n", message).with_code("kv_cache_exceeded")
    }
}

/// Clients' values are in range already; those of plugins are brought into it.
fn sampling(
    asked: &Sampling,
    defaults: &SamplingDefaults,
    limits: &SamplingLimits,
    options: &Options,
) -> SamplingParams {
    let hottest = limits.max_temperature.unwrap_or(2.0).clamp(0.0, 2.0);
    SamplingParams {
        temperature: bounded(asked.temperature, defaults.temperature, 0.0, hottest),
        top_k: asked.top_k.unwrap_or(defaults.top_k),
        top_p: bounded(asked.top_p, defaults.top_p, f32::EPSILON, 1.0),
        min_p: bounded(asked.min_p, defaults.min_p, 0.0, 1.0),
        seed: asked.seed.map(i64::cast_unsigned),
        presence_penalty: bounded(asked.presence_penalty, 0.0, -2.0, 2.0),
        frequency_penalty: bounded(asked.frequency_penalty, 0.0, -2.0, 2.0),
        repetition_penalty: bounded(
            asked.repetition_penalty,
            defaults.repetition_penalty,
            0.01,
            10.0,
        ),
        logit_bias: options.logit_bias.clone(),
    }
}

fn bounded(asked: Option<f32>, default: f32, least: f32, most: f32) -> f32 {
    asked
        .filter(|value| !value.is_nan())
        .unwrap_or(default)
        .clamp(least, most)
}
