//! Plain types to generated ones and back. What comes from a guest is checked here as far as the
//! contract's types do not check it.

use std::sync::Arc;
use std::time::Duration;

use super::{
    completion_observer as wo, http as wh, model as wm, prompt_template as wt,
    request_validation as wv, response_processing as wr, types as w,
};
use crate::bound::Bound;
use crate::http::{HttpError, HttpMethod, HttpRequest, HttpResponse};
use crate::model::{ModelAnswer, ModelError, Question};
use crate::types::{
    AnswerContext, Chat, Completion, Delta, FinishReason, Grammar, Message, Output, Prompt,
    Refusal, Role, Sampling, Segment, Summary, ToolCall, Verdict,
};

/// An answer that the types allow and the contract does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidOutput(pub(crate) String);

pub(crate) fn chat(chat: &Chat) -> w::Chat {
    w::Chat {
        request_id: chat.request_id.clone(),
        route: chat.route.clone(),
        model: chat.model.clone(),
        tenant: chat.tenant.clone(),
        stream: chat.stream,
        messages: chat.messages.iter().map(message_out).collect(),
        sampling: sampling_out(&chat.sampling),
        extra: chat.extra.clone(),
        call_id: chat.call_id.clone(),
    }
}

pub(crate) fn context(context: &AnswerContext) -> wr::Context {
    wr::Context {
        request_id: context.request_id.clone(),
        route: context.route.clone(),
        model: context.model.clone(),
        tenant: context.tenant.clone(),
        stream: context.stream,
        choice: context.choice,
        extra: context.extra.clone(),
        call_id: context.call_id.clone(),
    }
}

pub(crate) fn delta(delta: Delta) -> wr::Delta {
    wr::Delta {
        text: delta.text,
        token_ids: delta.token_ids,
        logprobs: delta.logprobs,
    }
}

pub(crate) fn finish_reason(reason: FinishReason) -> w::FinishReason {
    match reason {
        FinishReason::Stop => w::FinishReason::Stop,
        FinishReason::Length => w::FinishReason::Length,
        FinishReason::ContentFilter => w::FinishReason::ContentFilter,
        FinishReason::ToolCalls => w::FinishReason::ToolCalls,
    }
}

pub(crate) fn verdict(verdict: wv::Verdict) -> Result<Verdict, InvalidOutput> {
    Ok(match verdict {
        wv::Verdict::Accept => Verdict::Accept,
        wv::Verdict::Amend(amendment) => {
            if amendment.messages.as_ref().is_some_and(Vec::is_empty) {
                return Err(InvalidOutput("an amendment leaves no message".to_owned()));
            }
            Verdict::Amend {
                messages: amendment
                    .messages
                    .map(|messages| messages.into_iter().map(message_in).collect()),
                sampling: amendment.sampling.map(sampling_in).transpose()?,
            }
        }
        wv::Verdict::Refuse(value) => Verdict::Refuse(refusal(value)),
        wv::Verdict::Answer(reply) => Verdict::Answer {
            text: reply.text,
            finish: finish_reason_in(reply.finish),
        },
        wv::Verdict::Reroute(route) if route.is_empty() => {
            return Err(InvalidOutput("a reroute names no route".to_owned()));
        }
        wv::Verdict::Reroute(route) => Verdict::Reroute(route),
    })
}

/// A status outside of 400 to 499 reads as 400, as the contract says.
pub(crate) fn refusal(refusal: w::Refusal) -> Refusal {
    Refusal {
        status: if (400..500).contains(&refusal.status) {
            refusal.status
        } else {
            400
        },
        code: refusal.code,
        message: refusal.message,
        param: refusal.param,
    }
}

pub(crate) fn prompt(prompt: wt::Prompt) -> Prompt {
    Prompt {
        segments: prompt
            .segments
            .into_iter()
            .map(|segment| match segment {
                wt::Segment::Text(text) => Segment::Text(text),
                wt::Segment::Control(name) => Segment::Control(name),
                wt::Segment::PrefixEnd => Segment::PrefixEnd,
            })
            .collect(),
        stop: prompt.stop,
        grammar: prompt.grammar.map(grammar),
    }
}

/// `chain` holds the labels of its plugins.
pub(crate) fn summary(summary: &Summary, chain: &[Arc<Bound>]) -> wo::Summary {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let answer = &summary.answer;
    let labels = chain.iter().map(|bound| bound.binding.plugin.label());
    wo::Summary {
        request_id: answer.request_id.clone(),
        route: answer.route.clone(),
        model: answer.model.clone(),
        tenant: answer.tenant.clone(),
        stream: answer.stream,
        choice: answer.choice,
        outcome: match &summary.completion {
            Completion::Finished(reason) => wo::Outcome::Finished(finish_reason(*reason)),
            Completion::Cancelled => wo::Outcome::Cancelled,
            Completion::Failed(code) => wo::Outcome::Failed(code.clone()),
        },
        prompt_tokens: summary.prompt_tokens,
        cached_tokens: summary.cached_tokens,
        completion_tokens: summary.completion_tokens,
        queue: micros(summary.queue),
        prefill: micros(summary.prefill),
        decode: micros(summary.decode),
        chain: labels.map(str::to_owned).collect(),
        call_id: answer.call_id.clone(),
    }
}

/// # Errors
/// What no model can be asked, for the guest.
pub(crate) fn question(question: wm::Question) -> Result<Question, String> {
    if question.messages.is_empty() {
        return Err("it has no message".to_owned());
    }
    if question.max_tokens == 0 {
        return Err("max-tokens is 0, it must be 1 or more".to_owned());
    }
    if !(0.0..=2.0).contains(&question.temperature) {
        let temperature = question.temperature;
        return Err(format!("temperature is {temperature}, it must be 0 to 2"));
    }
    Ok(Question {
        messages: question.messages.into_iter().map(message_in).collect(),
        max_tokens: question.max_tokens,
        temperature: question.temperature,
        grammar: question.grammar.map(grammar),
    })
}

pub(crate) fn model_answer(answer: ModelAnswer) -> wm::ModelAnswer {
    wm::ModelAnswer {
        text: answer.text,
        finish: finish_reason(answer.finish),
        prompt_tokens: answer.prompt_tokens,
        completion_tokens: answer.completion_tokens,
    }
}

pub(crate) fn model_error(error: ModelError) -> wm::ModelError {
    match error {
        ModelError::Budget(which) => wm::ModelError::Budget(which),
        ModelError::Depth => wm::ModelError::Depth,
        ModelError::Deadline => wm::ModelError::Deadline,
        ModelError::Overloaded => wm::ModelError::Overloaded,
        ModelError::Invalid(why) => wm::ModelError::Invalid(why),
        ModelError::Failed(why) => wm::ModelError::Failed(why),
    }
}

/// The request, and the milliseconds that the guest gives it.
pub(crate) fn http_request(request: wh::Request) -> (HttpRequest, Option<u32>) {
    let headers = request.headers.into_iter();
    let timeout_ms = request.timeout_ms;
    let request = HttpRequest {
        method: match request.method {
            wh::Method::Get => HttpMethod::Get,
            wh::Method::Head => HttpMethod::Head,
            wh::Method::Post => HttpMethod::Post,
            wh::Method::Put => HttpMethod::Put,
            wh::Method::Patch => HttpMethod::Patch,
            wh::Method::Delete => HttpMethod::Delete,
        },
        url: request.url,
        headers: headers.map(|of| (of.name, of.value)).collect(),
        body: request.body,
    };
    (request, timeout_ms)
}

pub(crate) fn http_response(response: HttpResponse) -> wh::Response {
    let header = |(name, value)| wh::Header { name, value };
    wh::Response {
        status: response.status,
        headers: response.headers.into_iter().map(header).collect(),
        body: response.body,
    }
}

pub(crate) fn http_error(error: HttpError) -> wh::HttpError {
    match error {
        HttpError::Denied(why) => wh::HttpError::Denied(why),
        HttpError::InvalidRequest(why) => wh::HttpError::InvalidRequest(why),
        HttpError::Budget(which) => wh::HttpError::Budget(which),
        HttpError::Timeout => wh::HttpError::Timeout,
        HttpError::TooLarge(limit_bytes) => wh::HttpError::TooLarge(limit_bytes),
        HttpError::Connect(why) => wh::HttpError::Connect(why),
        HttpError::Tls(why) => wh::HttpError::Tls(why),
        HttpError::Protocol(why) => wh::HttpError::Protocol(why),
    }
}

fn grammar(grammar: w::Grammar) -> Grammar {
    match grammar {
        w::Grammar::JsonSchema(text) => Grammar::JsonSchema(text),
        w::Grammar::Regex(text) => Grammar::Regex(text),
        w::Grammar::Lark(text) => Grammar::Lark(text),
    }
}

/// `None` is `hold`.
pub(crate) fn action(action: wr::Action) -> Option<Output> {
    match action {
        wr::Action::Emit(text) => Some(Output::Emit(text)),
        wr::Action::Hold => None,
        wr::Action::Cut(cut) => Some(Output::Cut {
            reason: finish_reason_in(cut.reason),
            text: cut.text,
        }),
    }
}

fn finish_reason_in(reason: w::FinishReason) -> FinishReason {
    match reason {
        w::FinishReason::Stop => FinishReason::Stop,
        w::FinishReason::Length => FinishReason::Length,
        w::FinishReason::ContentFilter => FinishReason::ContentFilter,
        w::FinishReason::ToolCalls => FinishReason::ToolCalls,
    }
}

fn message_out(message: &Message) -> w::Message {
    w::Message {
        role: match message.role {
            Role::System => w::Role::System,
            Role::Developer => w::Role::Developer,
            Role::User => w::Role::User,
            Role::Assistant => w::Role::Assistant,
            Role::Tool => w::Role::Tool,
        },
        content: message.content.clone(),
        name: message.name.clone(),
        tool_calls: message
            .tool_calls
            .iter()
            .map(|call| w::ToolCall {
                id: call.id.clone(),
                name: call.name.clone(),
                arguments: call.arguments.clone(),
            })
            .collect(),
        tool_call_id: message.tool_call_id.clone(),
    }
}

fn message_in(message: w::Message) -> Message {
    Message {
        role: match message.role {
            w::Role::System => Role::System,
            w::Role::Developer => Role::Developer,
            w::Role::User => Role::User,
            w::Role::Assistant => Role::Assistant,
            w::Role::Tool => Role::Tool,
        },
        content: message.content,
        name: message.name,
        tool_calls: message
            .tool_calls
            .into_iter()
            .map(|call| ToolCall {
                id: call.id,
                name: call.name,
                arguments: call.arguments,
            })
            .collect(),
        tool_call_id: message.tool_call_id,
    }
}

fn sampling_out(sampling: &Sampling) -> w::Sampling {
    w::Sampling {
        max_tokens: sampling.max_tokens,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        min_p: sampling.min_p,
        seed: sampling.seed,
        stop: sampling.stop.clone(),
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        repetition_penalty: sampling.repetition_penalty,
    }
}

fn sampling_in(sampling: w::Sampling) -> Result<Sampling, InvalidOutput> {
    let in_range = |name: &str, value: Option<f32>, least: f32, greatest: f32| match value {
        Some(value) if !(least..=greatest).contains(&value) => Err(InvalidOutput(format!(
            "an amendment sets {name} to {value}, outside of {least} to {greatest}"
        ))),
        value => Ok(value),
    };
    Ok(Sampling {
        max_tokens: sampling.max_tokens,
        temperature: in_range("temperature", sampling.temperature, 0.0, 2.0)?,
        top_p: in_range("top-p", sampling.top_p, f32::MIN_POSITIVE, 1.0)?,
        top_k: sampling.top_k,
        min_p: in_range("min-p", sampling.min_p, 0.0, 1.0)?,
        seed: sampling.seed,
        stop: sampling.stop,
        presence_penalty: in_range("presence-penalty", sampling.presence_penalty, -2.0, 2.0)?,
        frequency_penalty: in_range("frequency-penalty", sampling.frequency_penalty, -2.0, 2.0)?,
        repetition_penalty: in_range(
            "repetition-penalty",
            sampling.repetition_penalty,
            f32::MIN_POSITIVE,
            f32::MAX,
        )?,
    })
}
