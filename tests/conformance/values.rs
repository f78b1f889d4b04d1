//! The values that the cases are made of.

use gapura_plugin_runtime::{
    AnswerContext, Chat, Delta, FinishReason, Grammar, Message, Refusal, Role, Sampling, ToolCall,
};

pub(crate) const REASONS: [FinishReason; 4] = [
    FinishReason::Stop,
    FinishReason::Length,
    FinishReason::ContentFilter,
    FinishReason::ToolCalls,
];

/// Texts that a careless string would not survive.
pub(crate) const TEXTS: [&str; 5] = [
    "",
    "halo",
    "aksara ꦗꦮ, e\u{301}, 日本語",
    "👩‍👩‍👧 \u{10ffff}",
    "nul \0, quote \", line\r\n",
];

pub(crate) fn message(role: Role, content: &[&str]) -> Message {
    Message {
        role,
        content: content.iter().map(|&part| part.to_owned()).collect(),
        name: None,
        tool_calls: Vec::new(),
        tool_call_id: None,
    }
}

/// A chat with nothing but the command.
pub(crate) fn bare(command: &[&str]) -> Chat {
    Chat {
        request_id: "request-1".to_owned(),
        route: "route".to_owned(),
        model: "model".to_owned(),
        tenant: None,
        stream: false,
        messages: vec![message(Role::User, command)],
        sampling: Sampling::default(),
        extra: "{}".to_owned(),
        call_id: "call-1".to_owned(),
    }
}

/// A chat with every role and every field, and the command behind them.
pub(crate) fn full(command: &[&str]) -> Chat {
    let call = |id: &str, name: &str, arguments: &str| ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments: arguments.to_owned(),
    };
    let calls = vec![
        call("call-1", "cuaca", r#"{"kota": "Bandung \ud83c\udf27"}"#),
        call("", "", ""),
    ];
    Chat {
        tenant: Some("penyewa 🏠".to_owned()),
        stream: true,
        messages: vec![
            message(Role::System, &TEXTS),
            message(Role::Developer, &[]),
            Message {
                name: Some("Siti".to_owned()),
                ..message(Role::User, &["apa kabar?"])
            },
            Message {
                tool_calls: calls,
                ..message(Role::Assistant, &[""])
            },
            Message {
                name: Some(String::new()),
                tool_call_id: Some("call-1".to_owned()),
                ..message(Role::Tool, &["hujan", "deras"])
            },
            message(Role::User, command),
        ],
        sampling: Sampling {
            max_tokens: Some(u32::MAX),
            temperature: Some(0.7),
            top_p: Some(0.125),
            top_k: Some(0),
            min_p: Some(0.05),
            seed: Some(-(1 << 53) + 1),
            stop: TEXTS[1..].iter().map(|&text| text.to_owned()).collect(),
            presence_penalty: Some(-1.5),
            frequency_penalty: Some(2.0),
            repetition_penalty: Some(1.1),
        },
        extra: r#"{"user": "é", "metadata": {"a": [1, 2]}}"#.to_owned(),
        ..bare(command)
    }
}

pub(crate) fn refusal(param: Option<&str>) -> Refusal {
    Refusal {
        status: 429,
        code: "sibuk".to_owned(),
        message: "coba lagi ✋".to_owned(),
        param: param.map(str::to_owned),
    }
}

/// Every grammar, with the text `isi`.
pub(crate) fn grammars() -> [(&'static str, Option<Grammar>); 4] {
    let text = || "isi".to_owned();
    [
        ("none", None),
        ("json-schema", Some(Grammar::JsonSchema(text()))),
        ("regex", Some(Grammar::Regex(text()))),
        ("lark", Some(Grammar::Lark(text()))),
    ]
}

pub(crate) fn context(tenant: Option<&str>, choice: u32) -> AnswerContext {
    AnswerContext {
        request_id: "request-2".to_owned(),
        route: "route".to_owned(),
        model: "modél".to_owned(),
        tenant: tenant.map(str::to_owned),
        stream: tenant.is_some(),
        choice,
        extra: r#"{"user": "ü"}"#.to_owned(),
        call_id: "call-1".to_owned(),
    }
}

pub(crate) fn delta(text: &str) -> Delta {
    Delta {
        text: text.to_owned(),
        ..Delta::default()
    }
}
