//! A record, as the administration API gives it out and `gapura plugin replay` reads it.

use std::collections::BTreeMap;

use gapura_plugin_runtime::{
    Chain, Chat, Delta, FailurePolicy, FinishReason, HttpError, HttpResponse, Import, Limits,
    ModelAnswer, ModelError, Prompt,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::redact;

/// One request on one chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The value of `x-request-id`.
    pub request_id: String,
    /// Seconds since 1970 when it came to the chain.
    pub at: u64,
    /// The route.
    pub route: String,
    /// Letters and digits of what people, the model and plugins said are replaced.
    pub is_redacted: bool,
    /// `false` where there was more than a record may hold: it cannot be played then.
    pub is_whole: bool,
    /// The chain, in order.
    pub plugins: Vec<Binding>,
    /// As it came to the chain.
    pub chat: Chat,
    /// Whether the chain's template makes the prompt; not that of a raw completion.
    pub is_rendered: bool,
    /// What the model said, as the processors were given it; of several answers the first.
    pub deltas: Vec<Delta>,
    /// How the model ended; `None` where it did not come to that.
    pub finish: Option<FinishReason>,
    /// What the imports told each plugin, by its name.
    pub tapes: BTreeMap<String, Tape>,
    /// What came of it.
    pub outcome: Outcome,
}

/// A plugin as the chain binds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Binding {
    /// Its name.
    pub name: String,
    /// The version that its author wrote into it.
    pub version: String,
    /// SHA-256 of the component.
    pub digest: String,
    /// Its settings; values whose names speak of secrets are left out.
    pub settings: Value,
    /// What it may import.
    pub grants: Vec<String>,
    /// What it may use.
    pub limits: Limits,
    /// What happens when it fails.
    pub on_failure: FailurePolicy,
    /// Whether it may fail open though it validates or renders.
    pub allow_open_validator: bool,
}

/// What imports told a plugin, in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tape {
    /// Milliseconds since 1970.
    pub now_ms: Vec<u64>,
    /// Nanoseconds of the clock that never goes back.
    pub monotonic_ns: Vec<u64>,
    /// Random bytes.
    pub random: Vec<Bytes>,
    /// Counts of tokens.
    pub tokens: Vec<u32>,
    /// What it remembered when it first asked for a key; keys without a value are left out.
    pub values: BTreeMap<String, Bytes>,
    /// What the model answered.
    pub answers: Vec<Result<ModelAnswer, ModelError>>,
    /// What servers answered.
    #[serde(default)]
    pub responses: Vec<Responded>,
}

/// What came of an HTTP request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Responded {
    /// A response.
    Response {
        /// Such as 200.
        status: u16,
        /// Names and values, in order.
        headers: Vec<(String, String)>,
        /// The whole body.
        body: Bytes,
    },
    /// None.
    Error(HttpError),
}

impl From<&Result<HttpResponse, HttpError>> for Responded {
    fn from(result: &Result<HttpResponse, HttpError>) -> Self {
        match result.clone() {
            Ok(HttpResponse {
                status,
                headers,
                body,
            }) => Self::Response {
                status,
                headers,
                body: Bytes(body),
            },
            Err(error) => Self::Error(error),
        }
    }
}

impl From<Responded> for Result<HttpResponse, HttpError> {
    fn from(responded: Responded) -> Self {
        match responded {
            Responded::Response {
                status,
                headers,
                body: Bytes(body),
            } => Ok(HttpResponse {
                status,
                headers,
                body,
            }),
            Responded::Error(error) => Err(error),
        }
    }
}

/// What came of a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// `accept`, `amend`, `refuse`, `answer`, `reroute`, `fail`; `continue` for one of the first
    /// two where the record is not whole; empty where the request ended before.
    pub verdict: String,
    /// The refusal's code, the failure's kind, or the other route.
    pub detail: String,
    /// What the template made.
    pub prompt: Option<Prompt>,
    /// What the client got; of several answers the first.
    pub text: String,
    /// The reason that the client saw.
    pub finish: Option<FinishReason>,
    /// What each plugin took.
    pub costs: Vec<Cost>,
}

/// What one stage of a plugin took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The plugin's label.
    pub plugin: String,
    /// The stage.
    pub stage: String,
    /// Microseconds of all its calls.
    pub us: f64,
}

/// Bytes, as hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub Vec<u8>);

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        bytes.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for Bytes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
            [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
            _ => None,
        });
        let bytes: Option<Vec<u8>> = pairs.collect();
        bytes
            .map(Self)
            .ok_or_else(|| "bytes are pairs of hexadecimal digits".to_owned())
    }
}

/// The bindings of `chain`, as a record has them.
pub(super) fn bindings(chain: &Chain) -> Vec<Binding> {
    let bindings = chain.bindings().iter();
    let binding = |binding: &gapura_plugin_runtime::Binding| {
        let grants = Import::ALL
            .into_iter()
            .filter(|import| binding.grants.allows(*import));
        Binding {
            name: binding.plugin.name().to_owned(),
            version: binding.plugin.version().to_owned(),
            digest: binding.plugin.digest().to_owned(),
            settings: redact::without_secrets(&binding.settings),
            grants: grants.map(|import| import.as_str().to_owned()).collect(),
            limits: binding.limits.clone(),
            on_failure: binding.on_failure.clone(),
            allow_open_validator: binding.allow_open_validator,
        }
    };
    bindings.map(binding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_hexadecimal_and_nothing_else() {
        let bytes = Bytes(vec![0, 0xab, 0xff]);
        let text = serde_json::to_string(&bytes).unwrap();
        assert_eq!(text, "\"00abff\"");
        assert_eq!(serde_json::from_str::<Bytes>(&text).unwrap(), bytes);
        for wrong in ["\"0\"", "\"0g\"", "\"+1\"", "\"é\"", "3"] {
            assert!(serde_json::from_str::<Bytes>(wrong).is_err(), "{wrong}");
        }
    }
}
