//! What an answer must match, in OpenAI's spelling (`response_format`), in vLLM's
//! (`structured_outputs`, and `guided_json` and its like) and in llama.cpp's (`json_schema`).

use gapura_engine::{GrammarError, GrammarSource};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::openai::body::{Fields, decode, kind_of};

/// A grammar that the client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedGrammar {
    /// What the answer must match.
    pub source: GrammarSource,
    /// The field that it came in, such as `response_format.json_schema.schema`.
    pub param: String,
}

impl AskedGrammar {
    fn new(source: GrammarSource, param: impl Into<String>) -> Self {
        Self {
            source,
            param: param.into(),
        }
    }

    /// 400 that names the field and, in a schema, the keyword; 503 where the server is busy.
    pub fn refused(&self, error: &GrammarError) -> ApiError {
        let message = format!("{}: {error}", self.param);
        match error {
            GrammarError::Schema { path, keyword, .. } => {
                let place = [self.param.as_str(), path.as_str()];
                let place = place.into_iter().chain(keyword.as_deref());
                let param: Vec<&str> = place.filter(|part| !part.is_empty()).collect();
                ApiError::invalid(param.join("."), message).with_code("invalid_schema")
            }
            GrammarError::Syntax { .. } => {
                ApiError::invalid(&self.param, message).with_code("invalid_grammar")
            }
            GrammarError::TooLarge { .. } | GrammarError::TooComplex { .. } => {
                ApiError::invalid(&self.param, message).with_code("grammar_too_complex")
            }
            GrammarError::Busy => {
                ApiError::unavailable(error.to_string(), std::time::Duration::from_secs(1))
                    .with_code("overloaded")
            }
            GrammarError::Vocabulary { .. } => ApiError::unsupported(&self.param, message),
        }
    }
}

/// Takes every spelling of a grammar out.
///
/// # Errors
/// 400 for a field of the wrong shape, and for more than one grammar.
pub(super) fn take_grammar(fields: &mut Fields) -> Result<Option<AskedGrammar>, ApiError> {
    let asked = [
        take_response_format(fields)?,
        take_structured_outputs(fields)?,
        take_schema(fields, "json_schema"),
        take_schema(fields, "guided_json"),
        take_text(fields, "guided_regex", GrammarSource::Regex)?,
        take_choice(fields)?,
        take_text(fields, "guided_grammar", GrammarSource::Lark)?,
    ];
    let mut asked = asked.into_iter().flatten();
    let first = asked.next();
    if let (Some(first), Some(second)) = (&first, asked.next()) {
        let message = format!(
            "{} and {} both say what the answer must match; send one of them",
            first.param, second.param
        );
        return Err(ApiError::invalid(second.param, message));
    }
    Ok(first)
}

fn take_response_format(fields: &mut Fields) -> Result<Option<AskedGrammar>, ApiError> {
    let Some(mut format) = fields.take_value("response_format") else {
        return Ok(None);
    };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => match format.get_mut("schema").map(Value::take) {
            None | Some(Value::Null) => Ok(Some(AskedGrammar::new(
                GrammarSource::JsonObject,
                "response_format",
            ))),
            Some(schema) => Ok(Some(schema_source(schema, "response_format.schema"))),
        },
        Some("json_schema") => {
            let schema = named_schema(format.get_mut("json_schema").map(Value::take))?;
            Ok(Some(schema_source(
                schema,
                "response_format.json_schema.schema",
            )))
        }
        Some(other) => Err(ApiError::unsupported(
            "response_format.type",
            format!(
                "response_format.type `{other}` is not supported; `text`, `json_object` and \
                 `json_schema` are"
            ),
        )),
        None => Err(ApiError::invalid(
            "response_format",
            "response_format must be an object with a `type`, such as {\"type\":\"text\"}",
        )),
    }
}

/// `{"name", "description", "strict", "schema"}`. What is enforced is the schema, strict or not.
fn named_schema(value: Option<Value>) -> Result<Value, ApiError> {
    let param = "response_format.json_schema";
    let Some(Value::Object(mut named)) = value else {
        return Err(ApiError::invalid(
            param,
            format!("{param} must be an object with a `name` and a `schema`"),
        ));
    };
    check::<String>(&mut named, param, "name")?;
    check::<String>(&mut named, param, "description")?;
    check::<bool>(&mut named, param, "strict")?;
    let schema = named.remove("schema").filter(|schema| !schema.is_null());
    schema.ok_or_else(|| {
        let param = format!("{param}.schema");
        let message = format!("the field `{param}` is required");
        ApiError::invalid(param, message).with_code("missing_required_parameter")
    })
}

fn check<T: serde::de::DeserializeOwned>(
    fields: &mut Map<String, Value>,
    param: &str,
    name: &str,
) -> Result<(), ApiError> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(()),
        Some(value) => decode::<T>(&format!("{param}.{name}"), value).map(drop),
    }
}

/// vLLM's newer spelling: an object with one of `json`, `regex`, `choice`, `grammar`,
/// `json_object`.
fn take_structured_outputs(fields: &mut Fields) -> Result<Option<AskedGrammar>, ApiError> {
    let outer = "structured_outputs";
    let Some(mut inner) = fields.take::<Map<String, Value>>(outer)? else {
        return Ok(None);
    };
    inner.retain(|_, value| !value.is_null());
    let mut asked = Vec::new();
    for (name, value) in inner {
        let param = format!("{outer}.{name}");
        asked.push(match name.as_str() {
            "json" => schema_source(value, param),
            "regex" => AskedGrammar::new(GrammarSource::Regex(decode(&param, value)?), param),
            "grammar" => AskedGrammar::new(GrammarSource::Lark(decode(&param, value)?), param),
            "choice" => AskedGrammar::new(GrammarSource::Choice(decode(&param, value)?), param),
            "json_object" if value == Value::Bool(true) => {
                AskedGrammar::new(GrammarSource::JsonObject, param)
            }
            "json_object" if value == Value::Bool(false) => continue,
            _ => {
                let message = format!("{param} is not supported by this server");
                return Err(ApiError::unsupported(param, message));
            }
        });
    }
    match asked.len() {
        ..=1 => Ok(asked.pop()),
        _ => Err(ApiError::invalid(
            outer,
            format!("{outer} says in more than one way what the answer must match"),
        )),
    }
}

fn take_schema(fields: &mut Fields, name: &str) -> Option<AskedGrammar> {
    let schema = fields.take_value(name)?;
    Some(schema_source(schema, name))
}

/// A schema as it is, or as text.
fn schema_source(schema: Value, param: impl Into<String>) -> AskedGrammar {
    let text = match schema {
        Value::String(text) => text,
        other => other.to_string(),
    };
    AskedGrammar::new(GrammarSource::JsonSchema(text), param)
}

fn take_text(
    fields: &mut Fields,
    name: &str,
    source: fn(String) -> GrammarSource,
) -> Result<Option<AskedGrammar>, ApiError> {
    let text = fields.take::<String>(name)?;
    Ok(text.map(|text| AskedGrammar::new(source(text), name)))
}

fn take_choice(fields: &mut Fields) -> Result<Option<AskedGrammar>, ApiError> {
    let name = "guided_choice";
    let choices = match fields.take_value(name) {
        None => return Ok(None),
        Some(value @ Value::Array(_)) => decode(name, value)?,
        Some(other) => {
            let message = format!(
                "{name} must be an array of strings, not {}",
                kind_of(&other)
            );
            return Err(ApiError::invalid(name, message));
        }
    };
    Ok(Some(AskedGrammar::new(
        GrammarSource::Choice(choices),
        name,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(json: &str) -> Result<Option<AskedGrammar>, ApiError> {
        take_grammar(&mut Fields::parse(json.as_bytes()).unwrap())
    }

    fn schema(text: &str) -> GrammarSource {
        GrammarSource::JsonSchema(text.to_owned())
    }

    #[test]
    fn every_spelling_arrives_with_its_field() {
        let text = r#"{"type":"object","properties":{"b":{},"a":{}}}"#;
        let cases = [
            (
                format!(
                    r#"{{"response_format":{{"type":"json_schema","json_schema":{{"name":"n","strict":true,"schema":{text}}}}}}}"#
                ),
                schema(text),
                "response_format.json_schema.schema",
            ),
            (
                format!(r#"{{"response_format":{{"type":"json_object","schema":{text}}}}}"#),
                schema(text),
                "response_format.schema",
            ),
            (
                r#"{"response_format":{"type":"json_object"}}"#.to_owned(),
                GrammarSource::JsonObject,
                "response_format",
            ),
            (
                format!(r#"{{"guided_json":{text}}}"#),
                schema(text),
                "guided_json",
            ),
            (
                format!(r#"{{"json_schema":{text}}}"#),
                schema(text),
                "json_schema",
            ),
            (
                format!(r#"{{"guided_json":{}}}"#, Value::from(text)),
                schema(text),
                "guided_json",
            ),
            (
                r#"{"guided_regex":"a+"}"#.to_owned(),
                GrammarSource::Regex("a+".to_owned()),
                "guided_regex",
            ),
            (
                r#"{"guided_grammar":"start: \"a\""}"#.to_owned(),
                GrammarSource::Lark("start: \"a\"".to_owned()),
                "guided_grammar",
            ),
            (
                r#"{"guided_choice":["a","b"]}"#.to_owned(),
                GrammarSource::Choice(vec!["a".to_owned(), "b".to_owned()]),
                "guided_choice",
            ),
            (
                r#"{"structured_outputs":{"regex":"a+","json":null}}"#.to_owned(),
                GrammarSource::Regex("a+".to_owned()),
                "structured_outputs.regex",
            ),
            (
                r#"{"structured_outputs":{"json_object":true}}"#.to_owned(),
                GrammarSource::JsonObject,
                "structured_outputs.json_object",
            ),
        ];
        for (body, source, param) in cases {
            let asked = take(&body).unwrap().unwrap();
            assert_eq!((asked.source, asked.param.as_str()), (source, param));
        }
    }

    #[test]
    fn values_that_ask_for_nothing_pass() {
        for body in [
            "{}",
            r#"{"response_format":{"type":"text"},"guided_json":null}"#,
            r#"{"structured_outputs":{}}"#,
            r#"{"structured_outputs":{"json_object":false}}"#,
        ] {
            assert_eq!(take(body).unwrap(), None, "{body}");
        }
    }

    #[test]
    fn wrong_shapes_name_the_field() {
        for (body, param) in [
            (r#"{"response_format":"json"}"#, "response_format"),
            (
                r#"{"response_format":{"type":"xml"}}"#,
                "response_format.type",
            ),
            (
                r#"{"response_format":{"type":"json_schema"}}"#,
                "response_format.json_schema",
            ),
            (
                r#"{"response_format":{"type":"json_schema","json_schema":{"name":"n"}}}"#,
                "response_format.json_schema.schema",
            ),
            (
                r#"{"response_format":{"type":"json_schema","json_schema":{"name":1,"schema":{}}}}"#,
                "response_format.json_schema.name",
            ),
            (
                r#"{"response_format":{"type":"json_schema","json_schema":{"strict":1,"schema":{}}}}"#,
                "response_format.json_schema.strict",
            ),
            (r#"{"guided_regex":1}"#, "guided_regex"),
            (r#"{"guided_choice":"a"}"#, "guided_choice"),
            (r#"{"guided_choice":["a",1]}"#, "guided_choice.1"),
            (
                r#"{"structured_outputs":{"structural_tag":"x"}}"#,
                "structured_outputs.structural_tag",
            ),
            (
                r#"{"structured_outputs":{"regex":"a","choice":["b"]}}"#,
                "structured_outputs",
            ),
            (r#"{"guided_regex":"a","guided_json":{}}"#, "guided_regex"),
            (
                r#"{"response_format":{"type":"json_object"},"guided_json":{}}"#,
                "guided_json",
            ),
        ] {
            let error = take(body).unwrap_err();
            assert_eq!(error.body()["error"]["param"], param, "{}", error.message());
        }
    }

    #[test]
    fn a_schema_at_fault_is_named_down_to_the_keyword() {
        let asked = AskedGrammar::new(GrammarSource::JsonObject, "guided_json");
        let error = asked.refused(&GrammarError::Schema {
            path: "properties.a".to_owned(),
            keyword: Some("not".to_owned()),
            reason: "is not supported".to_owned(),
        });
        assert_eq!(
            error.body()["error"]["param"],
            "guided_json.properties.a.not"
        );
        assert_eq!(
            error.message(),
            "guided_json: `not` in `properties.a`: is not supported"
        );
    }
}
