//! The request of `/v1/chat/completions`.

use gapura_plugin_runtime::{Message, Sampling};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::openai::body::Fields;
use crate::openai::sampling::{self, Delivery, MAX_TOP_LOGPROBS, Options};
use crate::openai::{message, unsupported};

/// A checked chat request.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The `model` that the client named, if any.
    pub model: Option<String>,
    /// Never empty.
    pub messages: Vec<Message>,
    /// What plugins see and may change.
    pub sampling: Sampling,
    /// What they do not.
    pub options: Options,
    /// How the answer is delivered.
    pub delivery: Delivery,
    /// `user`, `metadata`, the fields that this version does not know, and those that decide the
    /// answer and that plugins see nowhere else.
    pub extra: Map<String, Value>,
}

impl ChatRequest {
    /// Reads a body with at most `max_messages` messages.
    ///
    /// # Errors
    /// 400 with the offending field as `param`.
    pub fn parse(bytes: &[u8], max_messages: usize) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(bytes)?;
        let unplaced = sampling::unplaced(&fields);
        let model = fields.take("model")?;
        let messages = message::parse(fields.require::<Value>("messages")?, max_messages)?;
        let mut sampling = sampling::take_sampling(&mut fields)?;
        sampling.max_tokens = take_max_tokens(&mut fields)?;
        let mut options = sampling::take_options(&mut fields)?;
        options.logprobs = take_logprobs(&mut fields)?;
        let delivery = sampling::take_delivery(&mut fields)?;
        unsupported::refuse_in_chat(&mut fields)?;
        let extra = sampling::take_extra(fields, unplaced)?;
        Ok(Self {
            model,
            messages,
            sampling,
            options,
            delivery,
            extra,
        })
    }
}

/// Two names for one limit; where a client sends both, both hold.
fn take_max_tokens(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let old = fields.take_integer("max_tokens", 1..=u32::MAX)?;
    let new = fields.take_integer("max_completion_tokens", 1..=u32::MAX)?;
    Ok(old.into_iter().chain(new).min())
}

fn take_logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let wanted = fields.take::<bool>("logprobs")?.unwrap_or(false);
    match (
        wanted,
        fields.take_integer("top_logprobs", 0..=MAX_TOP_LOGPROBS)?,
    ) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid(
            "top_logprobs",
            "top_logprobs needs logprobs to be true",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ChatRequest, ApiError> {
        ChatRequest::parse(json.as_bytes(), 10)
    }

    #[test]
    fn what_is_not_known_goes_to_the_plugins() {
        let request = parse(
            r#"{"model":"m","messages":[{"role":"user","content":"a"}],"user":"u",
                "metadata":{"k":"v"},"x_tone":"formal","stream":true,"logprobs":true}"#,
        )
        .unwrap();
        assert_eq!(
            Value::Object(request.extra),
            serde_json::json!({
                "user": "u", "metadata": {"k": "v"}, "x_tone": "formal", "logprobs": true,
            })
        );
        assert_eq!(request.options.logprobs, Some(0));
        assert!(request.delivery.is_stream());
    }

    #[test]
    fn the_smaller_of_two_limits_holds() {
        let messages = r#""messages":[{"role":"user","content":"a"}]"#;
        for (limits, expected) in [
            (r#""max_tokens":5"#, Some(5)),
            (r#""max_completion_tokens":6"#, Some(6)),
            (r#""max_tokens":5,"max_completion_tokens":3"#, Some(3)),
            (r#""max_tokens":null"#, None),
        ] {
            let request = parse(&format!("{{{messages},{limits}}}")).unwrap();
            assert_eq!(request.sampling.max_tokens, expected);
        }
    }

    #[test]
    fn wrong_types_anywhere_name_the_field() {
        let cases = [
            (r#""model":1"#, "model"),
            (r#""max_tokens":"5""#, "max_tokens"),
            (r#""max_tokens":0"#, "max_tokens"),
            (r#""max_completion_tokens":-1"#, "max_completion_tokens"),
            (r#""logprobs":1"#, "logprobs"),
            (r#""logprobs":true,"top_logprobs":21"#, "top_logprobs"),
            (r#""top_logprobs":2"#, "top_logprobs"),
            (r#""stream":"yes""#, "stream"),
            (r#""stream":true,"stream_options":1"#, "stream_options"),
            (
                r#""stream":true,"stream_options":{"include_usage":1}"#,
                "stream_options.include_usage",
            ),
            (r#""user":1"#, "user"),
            (r#""metadata":{"a":1}"#, "metadata.a"),
        ];
        for (field, param) in cases {
            let body = format!(r#"{{"messages":[{{"role":"user","content":"a"}}],{field}}}"#);
            let error = parse(&body).unwrap_err();
            assert_eq!(error.body()["error"]["param"], param, "{}", error.message());
        }
        let error = parse("{}").unwrap_err();
        assert_eq!(error.message(), "the field `messages` is required");
    }
}
