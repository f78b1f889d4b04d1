//! What makes two requests the same: a digest of all that a validator sees of them and that
//! the answer depends on. Memory holds no prompts.

use core::fmt::Write as _;

use gapura_plugin_sdk::{Chat, Message, Sampling};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// The key of a request; the same for all API keys where it is `shared`.
pub(crate) fn of(chat: &Chat, shared: bool) -> String {
    let mut text = Canonical::default();
    text.option(chat.tenant.as_deref().filter(|_| !shared));
    text.part(&chat.model);
    text.part(&extra(&chat.extra));
    text.sampling(&chat.sampling);
    for message in &chat.messages {
        text.message(message);
    }
    let mut key = "answer ".to_owned();
    for byte in Sha256::digest(text.0) {
        let _ = write!(key, "{byte:02x}");
    }
    key
}

/// A request as bytes: each part with its length before it, so that no two requests that differ
/// are the same bytes.
#[derive(Default)]
struct Canonical(Vec<u8>);

impl Canonical {
    fn part(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn option(&mut self, text: Option<&str>) {
        self.0.push(text.is_some().into());
        self.part(text.unwrap_or_default());
    }

    fn parts(&mut self, texts: &[String]) {
        self.number(texts.len() as u64);
        for text in texts {
            self.part(text);
        }
    }

    fn bits(&mut self, bits: Option<u64>) {
        self.0.push(bits.is_some().into());
        self.number(bits.unwrap_or_default());
    }

    fn sampling(&mut self, sampling: &Sampling) {
        let Sampling {
            max_tokens,
            temperature,
            top_p,
            top_k,
            min_p,
            seed,
            stop,
            presence_penalty,
            frequency_penalty,
            repetition_penalty,
        } = sampling;
        self.bits(seed.map(i64::cast_unsigned));
        for number in [max_tokens, top_k] {
            self.bits(number.map(u64::from));
        }
        for number in [
            temperature,
            top_p,
            min_p,
            presence_penalty,
            frequency_penalty,
            repetition_penalty,
        ] {
            self.bits(number.map(|number| number.to_bits().into()));
        }
        self.parts(stop);
    }

    fn message(&mut self, message: &Message) {
        let Message {
            role,
            content,
            name,
            tool_calls,
            tool_call_id,
        } = message;
        self.part(role.as_str());
        self.parts(content);
        self.option(name.as_deref());
        self.option(tool_call_id.as_deref());
        self.number(tool_calls.len() as u64);
        for call in tool_calls {
            self.part(&call.id);
            self.part(&call.name);
            self.part(&call.arguments);
        }
    }
}

/// The request's further fields, on which other plugins of the route may decide; without `user`,
/// which only says who asks. Their order is that of their names, however the client sent them.
fn extra(json: &str) -> String {
    match serde_json::from_str::<Map<String, Value>>(json) {
        Ok(mut fields) => {
            fields.remove("user");
            Value::Object(fields).to_string()
        }
        Err(_) => json.to_owned(),
    }
}
