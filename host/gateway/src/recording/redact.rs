//! What a redacted record does not say. Letters become `x` and `X`, digits `0`; spaces, punctuation
//! and the number of characters stay, so that prompts have their shape, processors find their
//! boundaries and lengths cost what they cost. What depends on words does not come out as it did.

use gapura_plugin_runtime::HttpError;
use serde_json::Value;

use super::Record;
use super::record::{Bytes, Responded, Tape};

/// Parts of names of settings whose values are secrets as a rule.
const SECRETS: [&str; 12] = [
    "key",
    "token",
    "secret",
    "passwd",
    "password",
    "passphrase",
    "pwd",
    "credential",
    "auth",
    "bearer",
    "cookie",
    "dsn",
];
/// Names that only look like one of them.
const NO_SECRETS: [&str; 2] = ["keyword", "author"];
/// Characters of a key of a JSON object that is the name of a field rather than something said.
const MAX_NAME_CHARS: usize = 64;
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
        // The host's word for a failure; codes and routes are what a plugin says.
        if self.outcome.verdict != "fail" {
            text(&mut self.outcome.detail);
        }
        if let Some(prompt) = &mut self.outcome.prompt {
            use gapura_plugin_runtime::{Grammar, Segment};
            for segment in &mut prompt.segments {
                if let Segment::Text(said) = segment {
                    text(said);
                }
            }
            prompt.stop.iter_mut().for_each(text);
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

/// JSON stays JSON, with those keys that are names of fields: plugins find their values by them. Any
/// other text is redacted as such.
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
        Value::Object(fields) => {
            for (mut name, mut value) in std::mem::take(fields) {
                json(&mut value);
                if !is_field_name(&name) {
                    text(&mut name);
                    // Two that look the same now are two still.
                    while fields.contains_key(&name) {
                        name.push('x');
                    }
                }
                fields.insert(name, value);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

/// Whether a key is written as programs name fields, and not as people write names, addresses or
/// numbers.
fn is_field_name(key: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let begins = |c: char| c.is_ascii_lowercase() || c == '_';
    key.len() <= MAX_NAME_CHARS && key.starts_with(begins) && key.chars().all(is_part)
}

/// `settings` without the strings whose names speak of secrets, however deep below such a name they
/// are, and without addresses that have a password in them.
pub(super) fn without_secrets(settings: &Value) -> Value {
    strings_left_out(settings, false)
}

fn strings_left_out(settings: &Value, is_secret: bool) -> Value {
    match settings {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| {
                let is_secret = is_secret || speaks_of_secrets(name);
                (name.clone(), strings_left_out(value, is_secret))
            });
            Value::Object(fields.collect())
        }
        Value::Array(values) => {
            let values = values.iter();
            let values = values.map(|value| strings_left_out(value, is_secret));
            Value::Array(values.collect())
        }
        Value::String(said) if is_secret || has_userinfo(said) => LEFT_OUT.into(),
        other => other.clone(),
    }
}

fn speaks_of_secrets(name: &str) -> bool {
    let mut name = name.to_lowercase();
    // `authorization` is one.
    if !name.contains("authori") {
        for harmless in NO_SECRETS {
            name = name.replace(harmless, "");
        }
    }
    SECRETS.iter().any(|secret| name.contains(secret))
}

/// Whether `said` is an address with a name and a password, such as `postgres://app:hush@db/1`.
fn has_userinfo(said: &str) -> bool {
    let Some((_, rest)) = said.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let userinfo = authority.rsplit_once('@').map(|(before, _)| before);
    userinfo.is_some_and(|userinfo| userinfo.contains(':'))
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
    fn keys_that_are_no_names_of_fields_are_redacted() {
        let mut said =
            r#"{"siti@contoh.id":1,"budi@contoh.id":2,"Budi":3,"0812":4,"max_size":5}"#.to_owned();
        json_text(&mut said);
        let found: Value = serde_json::from_str(&said).unwrap();
        let expected =
            json!({"xxxx@xxxxxx.xx": 0, "xxxx@xxxxxx.xxx": 0, "Xxxx": 0, "0000": 0, "max_size": 0});
        assert_eq!(found, expected);
    }

    #[test]
    fn settings_lose_what_looks_like_a_secret() {
        let settings =
            json!({"api_key": "sk-1", "max_tokens": 5, "a": [{"Password": "p"}], "b": "c"});
        let kept = json!({"api_key": "…", "max_tokens": 5, "a": [{"Password": "…"}], "b": "c"});
        assert_eq!(without_secrets(&settings), kept);
    }

    #[test]
    fn settings_lose_every_string_below_a_name_that_speaks_of_secrets() {
        let settings = json!({
            "api_keys": ["sk-1", ["sk-2"]],
            "tokens": {"prod": "t-1", "of": [{"stage": "t-2"}], "limit": 3, "strict": true},
            "headers": {"Authorization": "Bearer h", "Cookie": "c", "accept": "json"},
            "basicAuth": {"user": "u"},
            "dsn": "d",
            "db_passwd": "p",
            "store": "redis://app:hush@store.example.com/0?a=b",
            "page": "https://example.com/a:b@c",
            "keywords": ["banjir"],
            "author": "Sari",
        });
        let kept = json!({
            "api_keys": ["…", ["…"]],
            "tokens": {"prod": "…", "of": [{"stage": "…"}], "limit": 3, "strict": true},
            "headers": {"Authorization": "…", "Cookie": "…", "accept": "json"},
            "basicAuth": {"user": "…"},
            "dsn": "…",
            "db_passwd": "…",
            "store": "…",
            "page": "https://example.com/a:b@c",
            "keywords": ["banjir"],
            "author": "Sari",
        });
        assert_eq!(without_secrets(&settings), kept);
    }
}
