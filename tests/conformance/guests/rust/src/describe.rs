//! Descriptions as `../../../README.md` defines them.

use gapura_plugin_sdk::{
    Chat, Context, Delta, FinishReason, Message, Outcome, Role, Sampling, Summary,
};

pub(crate) fn option(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("={}", value.to_string()))
}

pub(crate) fn list(values: impl IntoIterator<Item = impl ToString>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    format!("[{}]", values.join(","))
}

fn milli(number: f32) -> i64 {
    (f64::from(number) * 1000.0 + 0.5).floor() as i64
}

pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::Developer => "developer",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

pub(crate) fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ContentFilter => "content-filter",
        FinishReason::ToolCalls => "tool-calls",
    }
}

fn message(it: Message) -> String {
    let calls = it.tool_calls.iter();
    let calls = list(calls.map(|call| format!("{}/{}/{}", call.id, call.name, call.arguments)));
    let (role, content) = (role(it.role), list(it.content));
    let (name, answers) = (option(it.name), option(it.tool_call_id));
    format!("{role}:{content}:{name}:{calls}:{answers}")
}

fn sampling(it: Sampling) -> String {
    [
        option(it.max_tokens),
        option(it.temperature.map(milli)),
        option(it.top_p.map(milli)),
        option(it.top_k),
        option(it.min_p.map(milli)),
        option(it.seed),
        list(it.stop),
        option(it.presence_penalty.map(milli)),
        option(it.frequency_penalty.map(milli)),
        option(it.repetition_penalty.map(milli)),
    ]
    .join(" ")
}

pub(crate) fn chat(it: Chat) -> String {
    [
        it.request_id,
        it.route,
        it.model,
        option(it.tenant),
        it.stream.to_string(),
        list(it.messages.into_iter().map(message)),
        sampling(it.sampling),
        it.extra,
        it.call_id,
    ]
    .join("|")
}

pub(crate) fn context(it: Context) -> String {
    [
        it.request_id,
        it.route,
        it.model,
        option(it.tenant),
        it.stream.to_string(),
        it.choice.to_string(),
        it.extra,
        it.call_id,
    ]
    .join("|")
}

pub(crate) fn delta(it: Delta) -> String {
    let logprobs = list(it.logprobs.into_iter().map(milli));
    format!("{}|{}|{logprobs}", it.text, list(it.token_ids))
}

pub(crate) fn summary(it: Summary) -> String {
    let outcome = match it.outcome {
        Outcome::Finished(finish) => format!("finished:{}", reason(finish)),
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::Failed(code) => format!("failed:{code}"),
    };
    [
        it.request_id,
        it.route,
        it.model,
        option(it.tenant),
        it.stream.to_string(),
        it.choice.to_string(),
        outcome,
        it.prompt_tokens.to_string(),
        it.cached_tokens.to_string(),
        it.completion_tokens.to_string(),
        it.queue.to_string(),
        it.prefill.to_string(),
        it.decode.to_string(),
        list(it.chain),
        it.call_id,
    ]
    .join("|")
}
