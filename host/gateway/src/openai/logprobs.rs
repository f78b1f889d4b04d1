//! Logprobs as the two endpoints spell them.

use serde::Serialize;
use serde_json::{Map, Value};

/// JSON has no minus infinity; this is what other servers send for it.
const LEAST_LOGPROB: f32 = -9999.0;

/// A token with its text, its logprob and its most likely rivals.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredToken {
    /// Which, and how likely. The first token of a prompt has no logprob.
    pub token: TokenText,
    /// `None` for the first token of a prompt.
    pub logprob: Option<f32>,
    /// Most likely first.
    pub top: Vec<(TokenText, f32)>,
}

/// What a token stands for in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenText {
    /// Its bytes, which need not be whole characters.
    pub bytes: Vec<u8>,
    /// Its bytes as far as they are text, `\u{FFFD}` for the rest; a special token's name.
    pub text: String,
}

/// `logprobs` of a chat's choice.
#[derive(Debug, Clone, Serialize)]
pub struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: Option<()>,
}

#[derive(Debug, Clone, Serialize)]
struct ChatToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    top_logprobs: Vec<ChatAlternative>,
}

#[derive(Debug, Clone, Serialize)]
struct ChatAlternative {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    /// Of the tokens of a chunk, or of a whole answer.
    pub fn new(tokens: Vec<ScoredToken>) -> Self {
        let content = tokens.into_iter().map(|scored| ChatToken {
            token: scored.token.text,
            logprob: finite(scored.logprob.unwrap_or(LEAST_LOGPROB)),
            bytes: scored.token.bytes,
            top_logprobs: scored
                .top
                .into_iter()
                .map(|(token, logprob)| ChatAlternative {
                    token: token.text,
                    logprob: finite(logprob),
                    bytes: token.bytes,
                })
                .collect(),
        });
        Self {
            content: content.collect(),
            refusal: None,
        }
    }
}

/// `logprobs` of a completion's choice.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<Map<String, Value>>>,
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Of `tokens`; `offset` is the character at which the first of them begins and is moved
    /// past the last.
    pub fn new(tokens: Vec<ScoredToken>, offset: &mut usize) -> Self {
        let mut logprobs = Self::default();
        for scored in tokens {
            let top = scored.logprob.is_some().then(|| {
                // The token itself belongs to the list, as OpenAI has it, even if it is not
                // among the most likely.
                let own = scored
                    .logprob
                    .map(|logprob| (scored.token.clone(), logprob));
                let entries = own.into_iter().chain(scored.top);
                entries
                    .map(|(token, logprob)| (token.text, Value::from(finite(logprob))))
                    .collect()
            });
            logprobs.text_offset.push(*offset);
            *offset += num_chars(&scored.token.bytes);
            logprobs.tokens.push(scored.token.text);
            logprobs.token_logprobs.push(scored.logprob.map(finite));
            logprobs.top_logprobs.push(top);
        }
        logprobs
    }

    /// Appends those of the text that follows.
    pub fn extend(&mut self, next: Self) {
        self.tokens.extend(next.tokens);
        self.token_logprobs.extend(next.token_logprobs);
        self.top_logprobs.extend(next.top_logprobs);
        self.text_offset.extend(next.text_offset);
    }
}

/// Characters that begin within `bytes`. A special token has no bytes, for it is no text.
fn num_chars(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .filter(|byte| **byte & 0b1100_0000 != 0b1000_0000)
        .count()
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() {
        logprob.max(LEAST_LOGPROB)
    } else {
        LEAST_LOGPROB
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(text: &str) -> TokenText {
        TokenText {
            bytes: text.as_bytes().to_vec(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn chat_logprobs_have_every_key() {
        let scored = ScoredToken {
            token: token("é"),
            logprob: Some(-0.5),
            top: vec![(token("é"), -0.5), (token("x"), f32::NEG_INFINITY)],
        };
        assert_eq!(
            serde_json::to_value(ChatLogprobs::new(vec![scored])).unwrap(),
            json!({"content": [{
                "token": "é", "logprob": -0.5, "bytes": [195, 169],
                "top_logprobs": [
                    {"token": "é", "logprob": -0.5, "bytes": [195, 169]},
                    {"token": "x", "logprob": -9999.0, "bytes": [120]},
                ],
            }], "refusal": null})
        );
    }

    #[test]
    fn a_completion_lists_offsets_and_no_logprob_for_the_first_token() {
        let tokens = vec![
            ScoredToken {
                token: token("aé"),
                logprob: None,
                top: Vec::new(),
            },
            ScoredToken {
                token: token("b"),
                logprob: Some(-1.0),
                top: vec![(token("c"), -0.5)],
            },
        ];
        let mut offset = 0;
        assert_eq!(
            serde_json::to_value(CompletionLogprobs::new(tokens, &mut offset)).unwrap(),
            json!({
                "tokens": ["aé", "b"],
                "token_logprobs": [null, -1.0],
                "top_logprobs": [null, {"b": -1.0, "c": -0.5}],
                "text_offset": [0, 2],
            })
        );
        assert_eq!(offset, 3);
    }
}
