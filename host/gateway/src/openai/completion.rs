//! The request of `/v1/completions`.

use gapura_engine::TokenId;
use gapura_plugin_runtime::Sampling;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::openai::body::{self, Fields, kind_of};
use crate::openai::sampling::{self, Delivery, MAX_TOP_LOGPROBS, Options};
use crate::openai::unsupported;

/// What a completion generates where neither client nor route says, as OpenAI has it.
pub const DEFAULT_MAX_TOKENS: u32 = 16;
/// Most prompts of one request; each is answered like a request of its own.
const MAX_PROMPTS: usize = 256;

/// One prompt of a completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawPrompt {
    /// Text, to be tokenized with special tokens off.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<TokenId>),
}

/// A checked completion request.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// The `model` that the client named, if any.
    pub model: Option<String>,
    /// Never empty.
    pub prompts: Vec<RawPrompt>,
    /// Begin the answer with the prompt, and its logprobs with the prompt's.
    pub echo: bool,
    /// What plugins see and may change. `max_tokens` may be 0; without one
    /// [`DEFAULT_MAX_TOKENS`] are generated.
    pub sampling: Sampling,
    /// What they do not.
    pub options: Options,
    /// How the answer is delivered.
    pub delivery: Delivery,
    /// `user`, `metadata` and the fields that this version does not know.
    pub extra: Map<String, Value>,
}

impl CompletionRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 with the offending field as `param`.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(bytes)?;
        let mut unplaced = sampling::unplaced(&fields);
        // A text is no chat of one message, though plugins see it so.
        unplaced.insert("object".to_owned(), "text_completion".into());
        let model = fields.take("model")?;
        let prompts = prompts(fields.require("prompt")?)?;
        let echo = fields.take::<bool>("echo")?.unwrap_or(false);
        let mut sampling = sampling::take_sampling(&mut fields)?;
        // Chats spell it so; clients that do both mix them up.
        let newer = fields.take_integer("max_completion_tokens", 0..=u32::MAX)?;
        let max_tokens = fields.take_integer("max_tokens", 0..=u32::MAX)?.or(newer);
        sampling.max_tokens = max_tokens;
        let mut options = sampling::take_options(&mut fields)?;
        options.logprobs = take_logprobs(&mut fields)?;
        options.prompt_logprobs = options.logprobs.filter(|_| echo);
        if max_tokens == Some(0) && !echo {
            return Err(ApiError::invalid(
                "max_tokens",
                "max_tokens is 0, which only echo: true gives a meaning",
            ));
        }
        let delivery = sampling::take_delivery(&mut fields)?;
        unsupported::refuse_in_completion(&mut fields)?;
        let extra = sampling::take_extra(fields, unplaced)?;
        Ok(Self {
            model,
            prompts,
            echo,
            sampling,
            options,
            delivery,
            extra,
        })
    }
}

/// A number of alternatives; clients of chats send a boolean here too.
fn take_logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    match fields.take_value("logprobs") {
        None | Some(Value::Bool(false)) => Ok(None),
        Some(Value::Bool(true)) => Ok(Some(1)),
        Some(value) => {
            let number: i64 = body::decode("logprobs", value)?;
            match u32::try_from(number) {
                Ok(number) if number <= MAX_TOP_LOGPROBS => Ok(Some(number)),
                _ => Err(ApiError::invalid(
                    "logprobs",
                    format!("logprobs is {number}, it must be from 0 to {MAX_TOP_LOGPROBS}"),
                )),
            }
        }
    }
}

/// A string, a list of strings, a list of token ids or a list of such lists.
fn prompts(value: Value) -> Result<Vec<RawPrompt>, ApiError> {
    let items = match value {
        Value::String(text) => return Ok(vec![RawPrompt::Text(text)]),
        Value::Array(items) => items,
        other => {
            return Err(ApiError::invalid(
                "prompt",
                format!(
                    "prompt must be a string or an array, not {}",
                    kind_of(&other)
                ),
            ));
        }
    };
    let prompts: Vec<RawPrompt> = match items.first() {
        None => {
            return Err(ApiError::invalid("prompt", "prompt must not be empty"));
        }
        Some(Value::Number(_)) => {
            vec![RawPrompt::Tokens(body::decode(
                "prompt",
                Value::Array(items),
            )?)]
        }
        Some(Value::Array(_)) => {
            let lists: Vec<Vec<TokenId>> = body::decode("prompt", Value::Array(items))?;
            lists.into_iter().map(RawPrompt::Tokens).collect()
        }
        Some(_) => {
            let texts: Vec<String> = body::decode("prompt", Value::Array(items))?;
            texts.into_iter().map(RawPrompt::Text).collect()
        }
    };
    if prompts.len() > MAX_PROMPTS {
        return Err(ApiError::invalid(
            "prompt",
            format!(
                "{} prompts are more than the limit of {MAX_PROMPTS}",
                prompts.len()
            ),
        ));
    }
    if let Some(index) = prompts
        .iter()
        .position(|p| *p == RawPrompt::Tokens(Vec::new()))
    {
        return Err(ApiError::invalid(
            "prompt",
            format!("prompt {index} has no token"),
        ));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<CompletionRequest, ApiError> {
        CompletionRequest::parse(json.as_bytes())
    }

    #[test]
    fn all_four_forms_of_a_prompt() {
        let tokens = |ids: &[u32]| RawPrompt::Tokens(ids.iter().copied().map(TokenId).collect());
        let text = |text: &str| RawPrompt::Text(text.to_owned());
        for (prompt, expected) in [
            (r#""a""#, vec![text("a")]),
            (r#"["a","b"]"#, vec![text("a"), text("b")]),
            (r#"[1,2]"#, vec![tokens(&[1, 2])]),
            (r#"[[1],[2,3]]"#, vec![tokens(&[1]), tokens(&[2, 3])]),
        ] {
            let request = parse(&format!(r#"{{"prompt":{prompt}}}"#)).unwrap();
            assert_eq!(request.prompts, expected);
            assert_eq!(request.sampling.max_tokens, None);
        }
    }

    #[test]
    fn wrong_values_name_the_field() {
        for (field, param) in [
            (r#""prompt":[]"#, "prompt"),
            (r#""prompt":{}"#, "prompt"),
            (r#""prompt":["a",1]"#, "prompt.1"),
            (r#""prompt":[1,"a"]"#, "prompt.1"),
            (r#""prompt":[1,-1]"#, "prompt.1"),
            (r#""prompt":[[1],[]]"#, "prompt"),
            (r#""prompt":"a","max_tokens":0"#, "max_tokens"),
            (r#""prompt":"a","logprobs":21"#, "logprobs"),
            (r#""prompt":"a","logprobs":"5""#, "logprobs"),
            (r#""prompt":"a","suffix":"b""#, "suffix"),
            (r#""prompt":"a","best_of":3"#, "best_of"),
            (r#""max_tokens":1"#, "prompt"),
        ] {
            let error = parse(&format!("{{{field}}}")).unwrap_err();
            assert_eq!(error.body()["error"]["param"], param, "{}", error.message());
        }
    }

    #[test]
    fn echo_with_logprobs_scores_the_prompt() {
        let request = parse(r#"{"prompt":"a","echo":true,"logprobs":2,"max_tokens":0}"#).unwrap();
        assert_eq!(request.options.prompt_logprobs, Some(2));
        assert_eq!(request.sampling.max_tokens, Some(0));
        let request = parse(r#"{"prompt":"a","logprobs":2}"#).unwrap();
        assert_eq!(request.options.prompt_logprobs, None);
    }
}
