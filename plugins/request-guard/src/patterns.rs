//! What a route does not want to read: regular expressions with a code and a message each.

use core::fmt;

use gapura_plugin_sdk::{Failure, Message, Refusal};
use regex_lite::{Regex, RegexBuilder};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// One entry of `deny`: a pattern alone, or a table with a code and a message of its own.
#[derive(Debug)]
pub(crate) struct DenyPattern {
    pattern: String,
    code: Option<String>,
    message: Option<String>,
}

/// The long form of an entry.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    pattern: String,
    code: Option<String>,
    message: Option<String>,
}

// By hand, because serde's untagged enums say nothing of what is wrong in a table.
impl<'de> Deserialize<'de> for DenyPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;

        impl<'de> Visitor<'de> for Entry {
            type Value = DenyPattern;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a pattern, or a table with pattern, code and message")
            }

            fn visit_str<E: serde::de::Error>(self, pattern: &str) -> Result<Self::Value, E> {
                Ok(DenyPattern {
                    pattern: pattern.to_owned(),
                    code: None,
                    message: None,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let Table {
                    pattern,
                    code,
                    message,
                } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(DenyPattern {
                    pattern,
                    code,
                    message,
                })
            }
        }

        deserializer.deserialize_any(Entry)
    }
}

/// An entry ready to be searched for.
pub(crate) struct Compiled {
    regex: Regex,
    code: String,
    message: Option<String>,
}

/// Compiles all entries, letter case ignored.
pub(crate) fn compile(entries: &[DenyPattern]) -> Result<Vec<Compiled>, Failure> {
    let one = |(index, entry): (usize, &DenyPattern)| {
        let DenyPattern {
            pattern,
            code,
            message,
        } = entry;
        let regex = RegexBuilder::new(pattern)
            .case_insensitive(true)
            .build()
            .map_err(|error| {
                Failure::new(format!(
                    "settings: deny.{index} is no regular expression: {error}"
                ))
            })?;
        let code = code.as_deref().unwrap_or("denied_content").to_owned();
        Ok(Compiled {
            regex,
            code,
            message: message.clone(),
        })
    };
    entries.iter().enumerate().map(one).collect()
}

/// Looks for every pattern in every message that a client speaks in: instructions are the
/// deployment's own and may well name what is denied.
pub(crate) fn check(deny: &[Compiled], messages: &[Message]) -> Result<(), Refusal> {
    for (index, message) in messages.iter().enumerate() {
        if deny.is_empty() || message.role.is_instruction() {
            continue;
        }
        // The parts as the model will read them: a pattern must not slip between two.
        let text = crate::parts(message).collect::<Vec<_>>().join("\n");
        if let Some(found) = deny.iter().find(|entry| entry.regex.is_match(&text)) {
            // The pattern itself stays the operator's secret.
            let message = found
                .message
                .clone()
                .unwrap_or_else(|| format!("messages.{index} says what this route does not take"));
            let param = format!("messages.{index}.content");
            return Err(Refusal::new(&found.code, message).param(param));
        }
    }
    Ok(())
}
