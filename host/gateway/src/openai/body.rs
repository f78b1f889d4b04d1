//! A request body: bytes into an object whose fields are taken out one by one, each with its
//! own type and a `param` such as `messages.2.content` where it is wrong. What is left in the
//! end are the fields that this version does not know.

use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use crate::error::ApiError;

/// The fields of a request that nobody has taken yet.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 for bytes that are not UTF-8, not JSON or not an object.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            ApiError::bad_request(format!(
                "the body is not valid UTF-8 from byte {} on",
                error.valid_up_to()
            ))
            .with_code("invalid_utf8")
        })?;
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(other) => Err(ApiError::bad_request(format!(
                "the body must be a JSON object, not {}",
                kind_of(&other)
            ))),
            Err(error) => Err(ApiError::bad_request(format!(
                "the body is not valid JSON: {error}"
            ))
            .with_code("invalid_json")),
        }
    }

    /// Copies of those of `names` that are there and not `null`.
    pub(super) fn copies(&self, names: &[&str]) -> Map<String, Value> {
        let there = names.iter().filter_map(|name| self.0.get_key_value(*name));
        there
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// Takes `name` out; absent and `null` are `None`.
    ///
    /// # Errors
    /// 400 that names the innermost value at fault.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        match self.take_value(name) {
            None => Ok(None),
            Some(value) => decode(name, value).map(Some),
        }
    }

    /// Takes a field that the request cannot do without.
    ///
    /// # Errors
    /// 400 where it is absent, `null` or of the wrong type.
    pub fn require<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ApiError> {
        self.take(name)?.ok_or_else(|| {
            ApiError::invalid(name, format!("the field `{name}` is required"))
                .with_code("missing_required_parameter")
        })
    }

    /// Takes a number and checks its range.
    ///
    /// # Errors
    /// 400 where it is not a number in `range`.
    pub fn take_number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, ApiError> {
        let Some(number) = self.take::<f64>(name)? else {
            return Ok(None);
        };
        if !range.contains(&number) {
            return Err(ApiError::invalid(
                name,
                format!(
                    "{name} is {number}, it must be from {} to {}",
                    range.start(),
                    range.end()
                ),
            ));
        }
        Ok(Some(number as f32))
    }

    /// Takes a non-negative integer and checks its range.
    ///
    /// # Errors
    /// 400 where it is not an integer in `range`.
    pub fn take_integer(
        &mut self,
        name: &str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, ApiError> {
        let Some(number) = self.take::<i64>(name)? else {
            return Ok(None);
        };
        match u32::try_from(number) {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ if *range.end() == u32::MAX && number < i64::from(*range.start()) => {
                Err(ApiError::invalid(
                    name,
                    format!("{name} is {number}, it must be at least {}", range.start()),
                ))
            }
            _ => Err(ApiError::invalid(
                name,
                format!(
                    "{name} is {number}, it must be from {} to {}",
                    range.start(),
                    range.end()
                ),
            )),
        }
    }

    /// Takes `name` out as it is; `null` is `None`.
    pub fn take_value(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// The fields that nobody took.
    pub fn rest(self) -> Map<String, Value> {
        self.0
    }
}

/// Reads `value` as a `T`; errors name the path below `name`.
///
/// # Errors
/// 400 that names the innermost value at fault.
pub fn decode<T: DeserializeOwned>(name: &str, value: Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let mut param = name.to_owned();
        for segment in error.path() {
            match segment {
                Segment::Seq { index } => param.push_str(&format!(".{index}")),
                Segment::Map { key } => param.push_str(&format!(".{key}")),
                Segment::Enum { variant } => param.push_str(&format!(".{variant}")),
                Segment::Unknown => {}
            }
        }
        let message = format!("{param}: {}", for_clients(&error.into_inner().to_string()));
        ApiError::invalid(param, message)
    })
}

/// A JSON value's kind in words.
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// serde speaks of Rust's types; clients know JSON's.
fn for_clients(message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once(", expected ") else {
        return message.to_owned();
    };
    let found = found
        .replace("sequence", "an array")
        .replace("map", "an object")
        .replace("unit value", "null");
    let expected = match expected {
        "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a non-negative integer",
        "i32" | "i64" => "an integer of 64 bits",
        "a sequence" => "an array",
        "a map" => "an object",
        other => other,
    };
    format!("{found}, expected {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        Fields::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn bodies_that_are_no_object_are_named_by_their_kind() {
        for (body, kind) in [
            ("\"text\"", "a string"),
            ("[1]", "an array"),
            ("42", "a number"),
            ("null", "null"),
        ] {
            let error = Fields::parse(body.as_bytes()).unwrap_err();
            assert_eq!(
                error.message(),
                format!("the body must be a JSON object, not {kind}")
            );
        }
    }

    #[test]
    fn invalid_utf8_says_where() {
        let error = Fields::parse(b"{\"a\":\"\xff\"}").unwrap_err();
        assert_eq!(
            error.message(),
            "the body is not valid UTF-8 from byte 6 on"
        );
    }

    #[test]
    fn wrong_types_are_named_in_jsons_words() {
        let error = fields(r#"{"t":"hot"}"#)
            .take_number("t", 0.0..=2.0)
            .unwrap_err();
        assert_eq!(
            error.message(),
            "t: invalid type: string \"hot\", expected a number"
        );
        let error = fields(r#"{"n":1.5}"#).take_integer("n", 1..=9).unwrap_err();
        assert_eq!(
            error.message(),
            "n: invalid type: floating point `1.5`, expected an integer of 64 bits"
        );
    }

    #[test]
    fn ranges_are_told() {
        let error = fields(r#"{"t":2.5}"#)
            .take_number("t", 0.0..=2.0)
            .unwrap_err();
        assert_eq!(error.message(), "t is 2.5, it must be from 0 to 2");
        let error = fields(r#"{"n":-1}"#)
            .take_integer("n", 1..=u32::MAX)
            .unwrap_err();
        assert_eq!(error.message(), "n is -1, it must be at least 1");
    }

    #[test]
    fn a_path_inside_a_field_becomes_the_param() {
        let error = fields(r#"{"ids":[1,[2,"x"]]}"#)
            .take::<Vec<Vec<u32>>>("ids")
            .unwrap_err();
        assert_eq!(error.body()["error"]["param"], "ids.0");
    }

    #[test]
    fn long_values_are_not_echoed_whole() {
        let body = format!(r#"{{"t":"{}"}}"#, "x".repeat(100_000));
        let error = fields(&body).take_number("t", 0.0..=2.0).unwrap_err();
        assert!(error.message().len() < 700, "{}", error.message().len());
    }
}
