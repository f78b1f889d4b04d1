//! The fields that say how tokens are chosen and when an answer ends; the same in chats and
//! completions. Ranges are OpenAI's, or vLLM's where OpenAI has no such field.

use std::collections::BTreeMap;
use std::sync::Arc;

use gapura_engine::TokenId;
use gapura_plugin_runtime::Sampling;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::openai::body::{Fields, kind_of};
use crate::openai::grammar::{AskedGrammar, take_grammar};

/// Most stop strings, as OpenAI has it.
const MAX_STOP_STRINGS: usize = 4;
/// Longest stop string: whatever may still become one is held back from the client.
const MAX_STOP_BYTES: usize = 1024;
/// Longest `cache_salt`.
const MAX_SALT_BYTES: usize = 256;
/// Most alternatives per token.
pub const MAX_TOP_LOGPROBS: u32 = 20;

/// What is asked beside [`Sampling`], which plugins see and may change.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Answers to the same prompt; at least 1.
    pub n: u32,
    /// Report each token's logprob with this many alternatives.
    pub logprobs: Option<u32>,
    /// Score the prompt, with this many alternatives.
    pub prompt_logprobs: Option<u32>,
    /// Added to the logits of these tokens; each in [-100, 100].
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Go on past the model's end-of-sequence tokens.
    pub ignore_eos: bool,
    /// No end-of-sequence or stop token before this many tokens.
    pub min_tokens: u32,
    /// Ends the answer beside the model's end-of-sequence tokens.
    pub stop_token_ids: Vec<TokenId>,
    /// Only requests with the same salt share computed prefixes with this one.
    pub cache_salt: Option<Arc<str>>,
    /// What the answer must match.
    pub grammar: Option<AskedGrammar>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            n: 1,
            logprobs: None,
            prompt_logprobs: None,
            logit_bias: Vec::new(),
            ignore_eos: false,
            min_tokens: 0,
            stop_token_ids: Vec::new(),
            cache_salt: None,
            grammar: None,
        }
    }
}

/// Whether and how the answer is streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// One JSON object in the end.
    Whole,
    /// Server-sent events.
    Stream(StreamUsage),
}

/// What the chunks of a stream say of the tokens that it takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamUsage {
    /// A last chunk with the usage of the whole request.
    pub include: bool,
    /// Every chunk carries the usage so far.
    pub continuous: bool,
}

impl Delivery {
    /// Whether the client reads a stream.
    pub fn is_stream(self) -> bool {
        self != Self::Whole
    }
}

/// Takes the fields of [`Sampling`], but for the token limit, whose name and range differ.
///
/// # Errors
/// 400 that names the field and its range.
pub(super) fn take_sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    Ok(Sampling {
        max_tokens: None,
        temperature: fields.take_number("temperature", 0.0..=2.0)?,
        top_p: above_zero("top_p", fields.take_number("top_p", 0.0..=1.0)?)?,
        top_k: take_top_k(fields)?,
        min_p: fields.take_number("min_p", 0.0..=1.0)?,
        seed: fields.take("seed")?,
        stop: take_stop(fields)?,
        presence_penalty: fields.take_number("presence_penalty", -2.0..=2.0)?,
        frequency_penalty: fields.take_number("frequency_penalty", -2.0..=2.0)?,
        repetition_penalty: above_zero(
            "repetition_penalty",
            fields.take_number("repetition_penalty", 0.0..=10.0)?,
        )?,
    })
}

/// Takes the fields of [`Options`], but for logprobs, which the endpoints spell differently.
///
/// # Errors
/// 400 that names the field and its range.
pub(super) fn take_options(fields: &mut Fields) -> Result<Options, ApiError> {
    Ok(Options {
        n: fields.take_integer("n", 1..=128)?.unwrap_or(1),
        logit_bias: take_logit_bias(fields)?,
        ignore_eos: fields.take("ignore_eos")?.unwrap_or(false),
        min_tokens: fields
            .take_integer("min_tokens", 0..=u32::MAX)?
            .unwrap_or(0),
        stop_token_ids: fields.take("stop_token_ids")?.unwrap_or_default(),
        cache_salt: take_cache_salt(fields)?,
        grammar: take_grammar(fields)?,
        ..Options::default()
    })
}

/// Takes `stream` and `stream_options`.
///
/// # Errors
/// 400 for wrong types, and for `stream_options` without `stream`.
pub(super) fn take_delivery(fields: &mut Fields) -> Result<Delivery, ApiError> {
    #[derive(Deserialize)]
    #[serde(expecting = "an object")]
    struct StreamOptions {
        #[serde(default)]
        include_usage: Option<bool>,
        #[serde(default)]
        continuous_usage_stats: Option<bool>,
    }

    let stream = fields.take::<bool>("stream")?.unwrap_or(false);
    match (stream, fields.take::<StreamOptions>("stream_options")?) {
        (false, None) => Ok(Delivery::Whole),
        (false, Some(_)) => Err(ApiError::invalid(
            "stream_options",
            "stream_options is only allowed when stream is true",
        )),
        (true, None) => Ok(Delivery::Stream(StreamUsage::default())),
        (true, Some(options)) => {
            let include = options.include_usage.unwrap_or(false);
            let continuous = options.continuous_usage_stats.unwrap_or(false);
            Ok(Delivery::Stream(StreamUsage {
                include,
                continuous: include && continuous,
            }))
        }
    }
}

/// The fields that decide an answer and have no place of their own in what plugins see.
const UNPLACED: [&str; 15] = [
    "n",
    "logit_bias",
    "ignore_eos",
    "min_tokens",
    "stop_token_ids",
    "logprobs",
    "top_logprobs",
    "echo",
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "cache_salt",
];

/// What [`take_extra`] hands on of fields that are taken before.
pub(super) fn unplaced(fields: &Fields) -> Map<String, Value> {
    fields.copies(&UNPLACED)
}

/// Takes `user`, `metadata` and all that is left: what plugins see as `extra`, together with the
/// [`unplaced`] fields.
///
/// # Errors
/// 400 for a `user` that is no string or `metadata` that is no object of strings.
pub(super) fn take_extra(
    mut fields: Fields,
    unplaced: Map<String, Value>,
) -> Result<Map<String, Value>, ApiError> {
    let user = fields.take::<String>("user")?;
    let metadata = fields.take::<BTreeMap<String, String>>("metadata")?;
    let mut extra = fields.rest();
    extra.extend(unplaced);
    if let Some(user) = user {
        extra.insert("user".to_owned(), Value::from(user));
    }
    if let Some(metadata) = metadata {
        let entries = metadata
            .into_iter()
            .map(|(key, value)| (key, Value::from(value)));
        extra.insert("metadata".to_owned(), Value::Object(entries.collect()));
    }
    Ok(extra)
}

fn take_cache_salt(fields: &mut Fields) -> Result<Option<Arc<str>>, ApiError> {
    match fields.take::<String>("cache_salt")? {
        Some(salt) if salt.is_empty() || salt.len() > MAX_SALT_BYTES => Err(ApiError::invalid(
            "cache_salt",
            format!(
                "cache_salt has {} bytes, it must have 1 to {MAX_SALT_BYTES}",
                salt.len()
            ),
        )),
        salt => Ok(salt.map(Arc::from)),
    }
}

fn above_zero(name: &str, number: Option<f32>) -> Result<Option<f32>, ApiError> {
    match number {
        Some(number) if number <= 0.0 => Err(ApiError::invalid(
            name,
            format!("{name} is {number}, it must be above 0"),
        )),
        other => Ok(other),
    }
}

/// 0 keeps all tokens; vLLM's older spelling of that is -1.
fn take_top_k(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let Some(top_k) = fields.take::<i64>("top_k")? else {
        return Ok(None);
    };
    match u32::try_from(top_k) {
        Ok(top_k) => Ok(Some(top_k)),
        Err(_) if top_k == -1 => Ok(Some(0)),
        Err(_) => Err(ApiError::invalid(
            "top_k",
            format!(
                "top_k is {top_k}, it must be 0 or -1 (all) or from 1 to {}",
                u32::MAX
            ),
        )),
    }
}

fn take_stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let stop = match fields.take_value("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![text],
        Some(value @ Value::Array(_)) => crate::openai::body::decode("stop", value)?,
        Some(other) => {
            return Err(ApiError::invalid(
                "stop",
                format!(
                    "stop must be a string or an array of strings, not {}",
                    kind_of(&other)
                ),
            ));
        }
    };
    if stop.len() > MAX_STOP_STRINGS {
        return Err(ApiError::invalid(
            "stop",
            format!(
                "{} stop strings are more than the limit of {MAX_STOP_STRINGS}",
                stop.len()
            ),
        ));
    }
    for text in &stop {
        if text.is_empty() || text.len() > MAX_STOP_BYTES {
            return Err(ApiError::invalid(
                "stop",
                format!(
                    "a stop string of {} bytes: 1 to {MAX_STOP_BYTES} are allowed",
                    text.len()
                ),
            ));
        }
    }
    Ok(stop)
}

fn take_logit_bias(fields: &mut Fields) -> Result<Vec<(TokenId, f32)>, ApiError> {
    let Some(bias) = fields.take::<BTreeMap<String, f64>>("logit_bias")? else {
        return Ok(Vec::new());
    };
    let entry = |(id, bias): (String, f64)| {
        let param = format!("logit_bias.{id}");
        let Ok(token) = id.parse() else {
            let message = format!("logit_bias: `{id}` is not a token id");
            return Err(ApiError::invalid(param, message));
        };
        if !(-100.0..=100.0).contains(&bias) {
            let message = format!("{param} is {bias}, it must be from -100 to 100");
            return Err(ApiError::invalid(param, message));
        }
        Ok((TokenId(token), bias as f32))
    };
    bias.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        Fields::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn every_field_arrives() {
        let mut fields = fields(
            r#"{"temperature":0.5,"top_p":0.9,"top_k":-1,"min_p":0.1,"seed":-7,"stop":"x",
                "presence_penalty":1,"frequency_penalty":-1,"repetition_penalty":1.1}"#,
        );
        let sampling = take_sampling(&mut fields).unwrap();
        assert_eq!(
            sampling,
            Sampling {
                max_tokens: None,
                temperature: Some(0.5),
                top_p: Some(0.9),
                top_k: Some(0),
                min_p: Some(0.1),
                seed: Some(-7),
                stop: vec!["x".to_owned()],
                presence_penalty: Some(1.0),
                frequency_penalty: Some(-1.0),
                repetition_penalty: Some(1.1),
            }
        );
        assert!(fields.rest().is_empty());
    }

    #[test]
    fn values_out_of_range_name_their_field() {
        let cases = [
            (r#"{"temperature":-0.1}"#, "temperature"),
            (r#"{"top_p":0}"#, "top_p"),
            (r#"{"top_p":1.1}"#, "top_p"),
            (r#"{"top_k":-2}"#, "top_k"),
            (r#"{"top_k":4294967296}"#, "top_k"),
            (r#"{"min_p":2}"#, "min_p"),
            (r#"{"seed":9223372036854775808}"#, "seed"),
            (r#"{"seed":1.5}"#, "seed"),
            (r#"{"stop":["a","b","c","d","e"]}"#, "stop"),
            (r#"{"stop":""}"#, "stop"),
            (r#"{"stop":{"a":1}}"#, "stop"),
            (r#"{"stop":["a",1]}"#, "stop.1"),
            (r#"{"presence_penalty":2.1}"#, "presence_penalty"),
            (r#"{"repetition_penalty":0}"#, "repetition_penalty"),
        ];
        for (body, param) in cases {
            let error = take_sampling(&mut fields(body)).unwrap_err();
            assert_eq!(error.body()["error"]["param"], param, "{}", error.message());
        }
        let cases = [
            (r#"{"n":0}"#, "n"),
            (r#"{"n":129}"#, "n"),
            (r#"{"logit_bias":{"cat":1}}"#, "logit_bias.cat"),
            (r#"{"logit_bias":{"7":101}}"#, "logit_bias.7"),
            (r#"{"logit_bias":{"7":"a"}}"#, "logit_bias.7"),
            (r#"{"logit_bias":[1]}"#, "logit_bias"),
            (r#"{"ignore_eos":1}"#, "ignore_eos"),
            (r#"{"min_tokens":-1}"#, "min_tokens"),
            (r#"{"stop_token_ids":["a"]}"#, "stop_token_ids.0"),
        ];
        for (body, param) in cases {
            let error = take_options(&mut fields(body)).unwrap_err();
            assert_eq!(error.body()["error"]["param"], param, "{}", error.message());
        }
    }

    #[test]
    fn usage_in_every_chunk_needs_usage_at_all() {
        let parse = |json| take_delivery(&mut fields(json)).unwrap();
        assert_eq!(
            parse(r#"{"stream":true,"stream_options":{"continuous_usage_stats":true}}"#),
            Delivery::Stream(StreamUsage::default())
        );
        assert_eq!(
            parse(
                r#"{"stream":true,
                    "stream_options":{"include_usage":true,"continuous_usage_stats":true}}"#
            ),
            Delivery::Stream(StreamUsage {
                include: true,
                continuous: true
            })
        );
        assert_eq!(
            parse(r#"{"stream":null,"stream_options":null}"#),
            Delivery::Whole
        );
        assert!(take_delivery(&mut fields(r#"{"stream_options":{}}"#)).is_err());
    }
}
