//! The `messages` of a chat: strings or text parts, roles, tool turns.

use std::fmt;

use gapura_plugin_runtime::{Message, Role, ToolCall};
use serde::Deserialize;
use serde::de::{SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde_json::Value;

use crate::error::ApiError;
use crate::openai::body;

/// Reads `messages`, at most `limit` of them.
///
/// # Errors
/// 400 with a `param` such as `messages.2.content`.
pub(crate) fn parse(value: Value, limit: usize) -> Result<Vec<Message>, ApiError> {
    if let Value::Array(items) = &value {
        if items.is_empty() {
            return Err(ApiError::invalid("messages", "messages must not be empty"));
        }
        if items.len() > limit {
            return Err(ApiError::invalid(
                "messages",
                format!(
                    "{} messages are more than the limit of {limit}",
                    items.len()
                ),
            )
            .with_code("too_many_messages"));
        }
    }
    let wire: Vec<WireMessage> = body::decode("messages", value)?;
    wire.into_iter()
        .enumerate()
        .map(|(index, message)| message.check(index))
        .collect()
}

#[derive(Deserialize)]
#[serde(expecting = "a message object")]
struct WireMessage {
    role: WireRole,
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<WireToolCall>>,
    #[serde(default)]
    tool_call_id: Option<String>,
    #[serde(default)]
    function_call: Option<Value>,
    #[serde(default)]
    audio: Option<Value>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase", expecting = "a role")]
enum WireRole {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

#[derive(Deserialize)]
#[serde(expecting = "a tool call object")]
struct WireToolCall {
    id: String,
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    function: Option<WireFunction>,
}

#[derive(Deserialize)]
#[serde(expecting = "a function object")]
struct WireFunction {
    name: String,
    arguments: String,
}

/// One string, or parts of which only text can be served.
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
#[serde(expecting = "a content part object")]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Content, E> {
                Ok(Content::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, parts: A) -> Result<Content, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(parts)).map(Content::Parts)
            }
        }

        deserializer.deserialize_any(ContentVisitor)
    }
}

impl WireMessage {
    fn check(self, index: usize) -> Result<Message, ApiError> {
        let at = |field: &str| format!("messages.{index}.{field}");
        if self.function_call.is_some() {
            return Err(ApiError::unsupported(
                at("function_call"),
                format!("{} is not supported, use tool_calls", at("function_call")),
            ));
        }
        if self.audio.is_some() {
            return Err(ApiError::unsupported(
                at("audio"),
                format!("{} is not supported, only text is", at("audio")),
            ));
        }
        let tool_calls = tool_calls(self.tool_calls.unwrap_or_default(), index)?;
        let role = self.role.into();
        if role != Role::Assistant && !tool_calls.is_empty() {
            return Err(ApiError::invalid(
                at("tool_calls"),
                format!("{} is for the role `assistant` alone", at("tool_calls")),
            ));
        }
        let content = match self.content {
            Some(Content::Text(text)) => vec![text],
            Some(Content::Parts(parts)) => texts(parts, index)?,
            None if !tool_calls.is_empty() => Vec::new(),
            None => {
                return Err(ApiError::invalid(
                    at("content"),
                    format!("{} is required", at("content")),
                ));
            }
        };
        if role == Role::Tool && self.tool_call_id.is_none() {
            return Err(ApiError::invalid(
                at("tool_call_id"),
                format!("{} is required for the role `tool`", at("tool_call_id")),
            ));
        }
        Ok(Message {
            role,
            content,
            name: self.name,
            tool_calls,
            tool_call_id: self.tool_call_id,
        })
    }
}

fn texts(parts: Vec<Part>, message: usize) -> Result<Vec<String>, ApiError> {
    let text_of = |(index, part): (usize, Part)| {
        let at = format!("messages.{message}.content.{index}");
        let text = match part.kind.as_str() {
            "text" => part.text,
            "refusal" => part.refusal,
            other => {
                return Err(ApiError::unsupported(
                    format!("{at}.type"),
                    format!("{at}.type is `{other}`, only `text` is supported"),
                ));
            }
        };
        text.ok_or_else(|| {
            let field = format!("{at}.{}", part.kind);
            ApiError::invalid(field.clone(), format!("{field} is required"))
        })
    };
    parts.into_iter().enumerate().map(text_of).collect()
}

fn tool_calls(calls: Vec<WireToolCall>, message: usize) -> Result<Vec<ToolCall>, ApiError> {
    let check = |(index, call): (usize, WireToolCall)| {
        let at = format!("messages.{message}.tool_calls.{index}");
        match (call.kind.as_deref(), call.function) {
            (None | Some("function"), Some(function)) => Ok(ToolCall {
                id: call.id,
                name: function.name,
                arguments: function.arguments,
            }),
            (None | Some("function"), None) => Err(ApiError::invalid(
                format!("{at}.function"),
                format!("{at}.function is required"),
            )),
            (Some(other), _) => Err(ApiError::unsupported(
                format!("{at}.type"),
                format!("{at}.type is `{other}`, only `function` is supported"),
            )),
        }
    };
    calls.into_iter().enumerate().map(check).collect()
}

impl From<WireRole> for Role {
    fn from(role: WireRole) -> Self {
        match role {
            WireRole::System => Self::System,
            WireRole::Developer => Self::Developer,
            WireRole::User => Self::User,
            WireRole::Assistant => Self::Assistant,
            WireRole::Tool => Self::Tool,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `param` and message of the error that `messages` ends in.
    fn refused(messages: Value) -> (String, String) {
        let error = parse(messages, 10).unwrap_err();
        let param = error.body()["error"]["param"].as_str().unwrap().to_owned();
        (param, error.message().to_owned())
    }

    #[test]
    fn parts_and_a_plain_string_are_the_same_text() {
        let messages = parse(
            json!([
                {"role": "user", "content": "halo"},
                {"role": "user", "content": [{"type": "text", "text": "halo"}], "extra": 1},
            ]),
            10,
        )
        .unwrap();
        assert_eq!(messages[0], messages[1]);
    }

    #[test]
    fn every_wrong_type_is_named_by_its_path() {
        let cases = [
            (json!("hi"), "messages"),
            (json!([]), "messages"),
            (json!(["hi"]), "messages.0"),
            (json!([{"role": "user"}]), "messages.0.content"),
            (
                json!([{"role": "user", "content": 3}]),
                "messages.0.content",
            ),
            (
                json!([{"role": "user", "content": null}]),
                "messages.0.content",
            ),
            (
                json!([{"role": "user", "content": "a"}, {"role": 1, "content": "a"}]),
                "messages.1.role",
            ),
            (json!([{"role": "boss", "content": "a"}]), "messages.0.role"),
            (
                json!([{"role": "user", "content": [3]}]),
                "messages.0.content.0",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "messages.0.content.0.text",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text", "text": 1}]}]),
                "messages.0.content.0.text",
            ),
            (
                json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
                "messages.0.content.0.type",
            ),
            (
                json!([{"role": "user", "content": "a", "name": 1}]),
                "messages.0.name",
            ),
            (
                json!([{"role": "tool", "content": "a"}]),
                "messages.0.tool_call_id",
            ),
            (
                json!([{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": 1}}]}]),
                "messages.0.tool_calls.0.function.name",
            ),
            (
                json!([{"role": "assistant", "content": "a", "function_call": {}}]),
                "messages.0.function_call",
            ),
        ];
        for (messages, expected) in cases {
            let (param, message) = refused(messages);
            assert_eq!(param, expected, "{message}");
        }
    }

    #[test]
    fn the_limit_is_told() {
        let many = Value::Array(vec![json!({"role": "user", "content": "a"}); 11]);
        let (_, message) = refused(many);
        assert_eq!(message, "11 messages are more than the limit of 10");
    }
}
