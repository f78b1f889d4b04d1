//! What a plugin made of a case, as TOML that people read and compare.

use std::fmt::Write as _;

use gapura_plugin_runtime::{
    ChainFailure, Chat, FinishReason, Grammar, Message, Prompt, Refusal, Role, Sampling, Segment,
};
use toml::{Table, Value};

use crate::openai::usage::finish_reason;

/// What came of a case. Equal if everything is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expect(Table);

impl Expect {
    pub(super) fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// A stage that could not do its work.
    pub(super) fn failed(&mut self, failure: &ChainFailure) {
        let ChainFailure { stage, kind, .. } = failure;
        self.put("failed", format!("{stage}: {}", kind.as_str()));
    }

    /// What became of the chat in validation.
    pub(super) fn amended(&mut self, before: &Chat, after: &Chat) {
        if before == after {
            self.put("verdict", "accept");
            return;
        }
        self.put("verdict", "amend");
        if before.messages != after.messages {
            let messages = after.messages.iter().map(message);
            self.put("messages", messages.collect::<Vec<_>>());
        }
        if before.sampling != after.sampling {
            self.put("sampling", sampling(&after.sampling));
        }
    }

    pub(super) fn refused(&mut self, verdict: &str, refusal: &Refusal) {
        self.put("verdict", verdict);
        let mut table = Table::new();
        table.insert("status".to_owned(), i64::from(refusal.status).into());
        table.insert("code".to_owned(), refusal.code.as_str().into());
        table.insert("message".to_owned(), refusal.message.as_str().into());
        if let Some(param) = &refusal.param {
            table.insert("param".to_owned(), param.as_str().into());
        }
        self.put("refusal", table);
    }

    /// A prompt as one text: control tokens, and where the stable prefix ends, stand in `«»`; a
    /// `«` of the text is doubled.
    pub(super) fn rendered(&mut self, prompt: &Prompt) {
        let mut text = String::new();
        for segment in &prompt.segments {
            match segment {
                Segment::Text(part) => text.push_str(&part.replace('«', "««")),
                Segment::Control(name) => {
                    let _ = write!(text, "«{name}»");
                }
                Segment::PrefixEnd => text.push_str("«prefix-end»"),
            }
        }
        self.put("prompt", text);
        if !prompt.stop.is_empty() {
            self.put("stop", prompt.stop.clone());
        }
        if let Some(grammar) = &prompt.grammar {
            let (kind, source) = match grammar {
                Grammar::JsonSchema(source) => ("json-schema", source),
                Grammar::Regex(source) => ("regex", source),
                Grammar::Lark(source) => ("lark", source),
            };
            let mut table = Table::new();
            table.insert(kind.to_owned(), source.as_str().into());
            self.put("grammar", table);
        }
    }

    /// What a template that made `prompt` has done.
    pub(crate) fn of_prompt(prompt: &Prompt) -> Self {
        let mut expect = Self::default();
        expect.rendered(prompt);
        expect
    }

    /// The code of the refusal, if that was the verdict.
    pub(crate) fn refusal_code(&self) -> Option<String> {
        let code = self.0.get("refusal")?.get("code")?;
        code.as_str().map(str::to_owned)
    }

    /// Every key whose value is not the same as in `wanted`.
    pub fn differences_from(&self, wanted: &Self) -> Vec<Difference> {
        self.differences(&wanted.0)
    }

    /// What stands under `key`, strings as they are.
    pub fn text(&self, key: &str) -> Option<String> {
        self.0.get(key).map(text_of)
    }

    /// Every key whose value is not the same as in `wanted`, with both values.
    pub fn differences(&self, wanted: &Table) -> Vec<Difference> {
        let keys = wanted
            .keys()
            .chain(self.0.keys().filter(|key| !wanted.contains_key(*key)));
        let shown = |table: &Table, key: &str| table.get(key).map(text_of);
        keys.filter(|key| wanted.get(*key) != self.0.get(*key))
            .map(|key| Difference {
                key: key.clone(),
                wanted: shown(wanted, key),
                found: shown(&self.0, key),
            })
            .collect()
    }

    /// The lines that stand below `[expect]`. Tables in it name it.
    pub(super) fn to_toml(&self) -> String {
        let mut whole = Table::new();
        whole.insert("expect".to_owned(), self.0.clone().into());
        let text = toml::to_string_pretty(&whole).expect("a table of plain values");
        text.trim_start_matches("[expect]\n").to_owned()
    }
}

/// A value that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which.
    pub key: String,
    /// What the case expects, if anything.
    pub wanted: Option<String>,
    /// What came of it, if anything.
    pub found: Option<String>,
}

/// Strings as they are, so that lines can be compared.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn message(message: &Message) -> Value {
    let role = match message.role {
        Role::System => "system",
        Role::Developer => "developer",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    let mut table = Table::new();
    table.insert("role".to_owned(), role.into());
    let content: Value = match &message.content[..] {
        [one] => one.as_str().into(),
        parts => parts.to_vec().into(),
    };
    table.insert("content".to_owned(), content);
    if let Some(name) = &message.name {
        table.insert("name".to_owned(), name.as_str().into());
    }
    let calls = message.tool_calls.iter().map(|call| {
        let mut table = Table::new();
        table.insert("id".to_owned(), call.id.as_str().into());
        table.insert("name".to_owned(), call.name.as_str().into());
        table.insert("arguments".to_owned(), call.arguments.as_str().into());
        Value::Table(table)
    });
    if !message.tool_calls.is_empty() {
        table.insert("tool_calls".to_owned(), calls.collect::<Vec<_>>().into());
    }
    if let Some(id) = &message.tool_call_id {
        table.insert("tool_call_id".to_owned(), id.as_str().into());
    }
    table.into()
}

/// What is set of it.
fn sampling(sampling: &Sampling) -> Table {
    let integer = |value: Option<i64>| value.map(Value::from);
    // As short as it was written: 0.7 is not 0.699999988079071.
    let float = |value: Option<f32>| {
        let text = value?.to_string();
        text.parse::<f64>().ok().map(Value::from)
    };
    let fields = [
        ("max_tokens", integer(sampling.max_tokens.map(i64::from))),
        ("temperature", float(sampling.temperature)),
        ("top_p", float(sampling.top_p)),
        ("top_k", integer(sampling.top_k.map(i64::from))),
        ("min_p", float(sampling.min_p)),
        ("seed", integer(sampling.seed)),
        ("presence_penalty", float(sampling.presence_penalty)),
        ("frequency_penalty", float(sampling.frequency_penalty)),
        ("repetition_penalty", float(sampling.repetition_penalty)),
    ];
    let set = fields.into_iter();
    let mut table: Table = set
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect();
    if !sampling.stop.is_empty() {
        table.insert("stop".to_owned(), sampling.stop.clone().into());
    }
    table
}

/// As clients read it.
pub(super) fn reason(reason: FinishReason) -> &'static str {
    finish_reason(reason)
}
