//! Descriptions as `README.md` defines them, of the host's types.

use gapura_plugin_runtime::{
    AnswerContext, Chat, Completion, Delta, FinishReason, Message, Role, Sampling, Summary,
};

fn option(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("={}", value.to_string()))
}

fn list(values: impl IntoIterator<Item = impl ToString>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    format!("[{}]", values.join(","))
}

fn milli(number: f32) -> i64 {
    (f64::from(number) * 1000.0 + 0.5).floor() as i64
}

fn role(role: Role) -> &'static str {
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

fn message(message: &Message) -> String {
    let calls = message.tool_calls.iter();
    let calls = list(calls.map(|call| format!("{}/{}/{}", call.id, call.name, call.arguments)));
    [
        role(message.role).to_owned(),
        list(&message.content),
        option(message.name.as_ref()),
        calls,
        option(message.tool_call_id.as_ref()),
    ]
    .join(":")
}

fn sampling(sampling: &Sampling) -> String {
    [
        option(sampling.max_tokens),
        option(sampling.temperature.map(milli)),
        option(sampling.top_p.map(milli)),
        option(sampling.top_k),
        option(sampling.min_p.map(milli)),
        option(sampling.seed),
        list(&sampling.stop),
        option(sampling.presence_penalty.map(milli)),
        option(sampling.frequency_penalty.map(milli)),
        option(sampling.repetition_penalty.map(milli)),
    ]
    .join(" ")
}

pub(crate) fn chat(chat: &Chat) -> String {
    [
        chat.request_id.clone(),
        chat.route.clone(),
        chat.model.clone(),
        option(chat.tenant.as_ref()),
        chat.stream.to_string(),
        list(chat.messages.iter().map(message)),
        sampling(&chat.sampling),
        chat.extra.clone(),
        chat.call_id.clone(),
    ]
    .join("|")
}

/// What contexts and summaries begin with.
fn answer(context: &AnswerContext) -> [String; 6] {
    [
        context.request_id.clone(),
        context.route.clone(),
        context.model.clone(),
        option(context.tenant.as_ref()),
        context.stream.to_string(),
        context.choice.to_string(),
    ]
}

pub(crate) fn context(context: &AnswerContext) -> String {
    let AnswerContext { extra, call_id, .. } = context;
    format!("{}|{extra}|{call_id}", answer(context).join("|"))
}

pub(crate) fn delta(delta: &Delta) -> String {
    let logprobs = list(delta.logprobs.iter().copied().map(milli));
    format!("{}|{}|{logprobs}", delta.text, list(&delta.token_ids))
}

pub(crate) fn summary(summary: &Summary, chain: &[String]) -> String {
    let outcome = match &summary.completion {
        Completion::Finished(finish) => format!("finished:{}", reason(*finish)),
        Completion::Cancelled => "cancelled".to_owned(),
        Completion::Failed(code) => format!("failed:{code}"),
    };
    let tokens = [
        summary.prompt_tokens,
        summary.cached_tokens,
        summary.completion_tokens,
    ];
    let times = [summary.queue, summary.prefill, summary.decode];
    let mut parts = answer(&summary.answer).to_vec();
    parts.push(outcome);
    parts.extend(tokens.map(|tokens| tokens.to_string()));
    parts.extend(times.map(|time| time.as_micros().to_string()));
    parts.push(list(chain));
    parts.push(summary.answer.call_id.clone());
    parts.join("|")
}

#[test]
fn descriptions_are_as_the_readme_says() {
    let chat_of_one = Chat {
        request_id: "r".to_owned(),
        route: "t".to_owned(),
        model: "m".to_owned(),
        tenant: None,
        stream: true,
        messages: vec![Message {
            role: Role::Tool,
            content: vec!["a".to_owned(), String::new()],
            name: Some(String::new()),
            tool_calls: vec![gapura_plugin_runtime::ToolCall {
                id: "1".to_owned(),
                name: "f".to_owned(),
                arguments: "{}".to_owned(),
            }],
            tool_call_id: None,
        }],
        sampling: Sampling {
            temperature: Some(0.7),
            presence_penalty: Some(-1.5),
            seed: Some(-3),
            ..Sampling::default()
        },
        extra: "{}".to_owned(),
        call_id: "c".to_owned(),
    };
    let expected = "r|t|m|-|true|[tool:[a,]:=:[1/f/{}]:-]|- =700 - - - =-3 [] =-1500 - -|{}|c";
    assert_eq!(chat(&chat_of_one), expected);
}
