//! What a redacted record does not say. Letters become `x` and `X`, digits `0`; spaces, punctuation
//! and the number of characters stay, so that prompts have their shape, processors find their
//! boundaries and lengths cost what they cost. What depends on words does not come out as it did.

use gapura_plugin_runtime::HttpError;
use serde_json::Value;

use super::Record;
use super::record::{Bytes, Responded, Tape};

/// Names of settings whose values are secrets as a rule.
const SECRETS: [&str; 5] = ["key", "token", "secret", "password", "credential"];
/// What stands in their place.
const LEFT_OUT: &str = "…";

impl Record {
    /// Redacts what people, the model and plugins said. Roles, sampling, settings, times, random
    /// numbers, counts and costs stay; token ids go, for they spell the text.
    pub(super) fn redact(&mut self) {
        self.is_redacted = true;
        for message in &mut self.chat.messages {
            message.content.iter_mut().for_each(text);
            message.name.iter_mut().for_each(text);
            for call in &mut message.tool_calls {
                json_text(&mut call.arguments);
            }
        }
        self.chat.sampling.stop.iter_mut().for_each(text);
        json_text(&mut self.chat.extra);
        for delta in &mut self.deltas {
            text(&mut delta.text);
            delta.token_ids.clear();
        }
        self.tapes.values_mut().for_each(Tape::redact);
        text(&mut self.outcome.text);
        if let Some(prompt) = &mut self.outcome.prompt {
            use gapura_plugin_runtime::{Grammar, Segment};
            for segment in &mut prompt.segments {
                if let Segment::Text(said) = segment {
                    text(said);
                }
            }
            if let Some(
                Grammar::JsonSchema(source) | Grammar::Regex(source) | Grammar::Lark(source),
            ) = &mut prompt.grammar
            {
                text(source);
            }
        }
    }
}

impl Tape {
    fn redact(&mut self) {
        let values = std::mem::take(&mut self.values).into_iter();
        let redacted = values.map(|(mut key, value)| {
            text(&mut key);
            (key, bytes(value))
        });
        self.values = redacted.collect();
        for answer in self.answers.iter_mut().flatten() {
            text(&mut answer.text);
        }
        self.responses.iter_mut().for_each(Responded::redact);
    }
}

impl Responded {
    fn redact(&mut self) {
        match self {
            Self::Response { headers, body, .. } => {
                headers.iter_mut().for_each(|(_, value)| text(value));
                let whole = std::mem::replace(body, Bytes(Vec::new()));
                *body = bytes(whole);
            }
            // They name hosts, which may be out of what was said.
            Self::Error(
                HttpError::Denied(why)
                | HttpError::InvalidRequest(why)
                | HttpError::Budget(why)
                | HttpError::Connect(why)
                | HttpError::Tls(why)
                | HttpError::Protocol(why),
            ) => text(why),
            Self::Error(HttpError::Timeout | HttpError::TooLarge(_)) => {}
        }
    }
}

/// Text is redacted as text, other bytes become zeros.
fn bytes(bytes: Bytes) -> Bytes {
    Bytes(match String::from_utf8(bytes.0) {
        Ok(mut said) => {
            json_text(&mut said);
            said.into_bytes()
        }
        Err(other) => vec![0; other.as_bytes().len()],
    })
}

fn text(said: &mut String) {
    *said = said.chars().map(character).collect();
}

fn character(c: char) -> char {
    if c.is_numeric() {
        '0'
    } else if c.is_uppercase() {
        'X'
    } else if c.is_alphabetic() {
        'x'
    } else {
        c
    }
}

/// JSON stays JSON with its keys; any other text is redacted as such.
fn json_text(said: &mut String) {
    match serde_json::from_str::<Value>(said) {
        Ok(mut value @ (Value::Object(_) | Value::Array(_))) => {
            json(&mut value);
            *said = value.to_string();
        }
        _ => text(said),
    }
}

fn json(value: &mut Value) {
    match value {
        Value::String(said) => text(said),
        Value::Number(_) => *value = 0.into(),
        Value::Array(values) => values.iter_mut().for_each(json),
        Value::Object(fields) => fields.values_mut().for_each(json),
        Value::Null | Value::Bool(_) => {}
    }
}

/// `settings` without the values whose names speak of secrets.
pub(super) fn without_secrets(settings: &Value) -> Value {
    let is_secret = |name: &str| {
        let name = name.to_lowercase();
        SECRETS.iter().any(|secret| name.contains(secret))
    };
    match settings {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| {
                let value = match value {
                    Value::String(_) if is_secret(name) => LEFT_OUT.into(),
                    value => without_secrets(value),
                };
                (name.clone(), value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(without_secrets).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shape_and_length_stay_and_words_go() {
        let mut said = "Nama saya Budi, 0812-34 (é) «<bos>»\n".to_owned();
        text(&mut said);
        assert_eq!(said, "Xxxx xxxx Xxxx, 0000-00 (x) «<xxx>»\n");
    }

    #[test]
    fn json_keeps_its_keys_and_is_json() {
        let mut said = r#"{"to":"Budi","n":[1,true,null]}"#.to_owned();
        json_text(&mut said);
        assert_eq!(said, r#"{"to":"Xxxx","n":[0,true,null]}"#);
        let mut broken = r#"{"to": Budi"#.to_owned();
        json_text(&mut broken);
        assert_eq!(broken, r#"{"xx": Xxxx"#);
        assert_eq!(bytes(Bytes(vec![0xff, 1])), Bytes(vec![0, 0]));
    }

    #[test]
    fn settings_lose_what_looks_like_a_secret() {
        let settings =
            json!({"api_key": "sk-1", "max_tokens": 5, "a": [{"Password": "p"}], "b": "c"});
        let kept = json!({"api_key": "…", "max_tokens": 5, "a": [{"Password": "…"}], "b": "c"});
        assert_eq!(without_secrets(&settings), kept);
    }
}
