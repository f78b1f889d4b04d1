//! A client's JSON Schema, checked before it is compiled: its size, its references, and every
//! keyword that could not be enforced, each named with its place. What asks for nothing is
//! taken out.

use std::collections::{HashSet, VecDeque};

use serde_json::{Map, Value};

use super::GrammarError;

/// Subschemas of one schema.
const MAX_SUBSCHEMAS: usize = 5_000;
/// Values of all `enum` and `const` together.
const MAX_ENUM_VALUES: usize = 10_000;
/// Patterns of one `patternProperties`, which are compared in pairs.
const MAX_PATTERNS: usize = 32;
/// Comparisons that one `oneOf` takes: its options are compared in pairs, value by value.
const MAX_COMPARISONS: usize = 4_000_000;

/// Formats that are enforced. As the specification has it, others are annotations.
pub(super) const FORMATS: [&str; 10] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
];

/// Keywords that cannot be enforced token by token.
const UNSUPPORTED: [&str; 13] = [
    "not",
    "if",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "uniqueItems",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$recursiveRef",
    "$dynamicRef",
    "x-guidance",
];

/// Keywords that mean something only beside one of [`UNSUPPORTED`].
const DEPENDENT: [&str; 6] = [
    "then",
    "else",
    "minContains",
    "maxContains",
    "$recursiveAnchor",
    "$dynamicAnchor",
];

/// Reads a schema and checks it.
pub(super) fn prepare(text: &str) -> Result<Value, GrammarError> {
    let mut root: Value = serde_json::from_str(text).map_err(|error| GrammarError::Schema {
        path: String::new(),
        keyword: None,
        reason: format!("is not valid JSON: {error}"),
    })?;
    let mut check = Check::default();
    check.visit(String::new());
    while let Some(pointer) = check.pending.pop_front() {
        let Some(schema) = root.pointer_mut(&pointer) else {
            continue;
        };
        let references = check.schema(schema, &pointer)?;
        for (reference, target) in references {
            if root.pointer(&target).is_none() {
                let reason = format!("`{reference}` points to nothing in this schema");
                return Err(fault(&pointer, "$ref", &reason));
            }
            check.visit(target);
        }
    }
    Ok(root)
}

/// A pointer as people write it: `/properties/a` is `properties.a`.
pub(super) fn path(pointer: &str) -> String {
    let segments = pointer.split('/').skip(1).map(unescaped);
    segments.collect::<Vec<_>>().join(".")
}

/// The places of `schema`'s subschemas, as pointers from it.
pub(super) fn children(schema: &Value) -> Vec<String> {
    let Value::Object(keywords) = schema else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (keyword, value) in keywords {
        let keyword = keyword.as_str();
        match (keyword, value) {
            (
                "properties" | "patternProperties" | "$defs" | "definitions",
                Value::Object(named),
            ) => {
                let names = named.keys().map(|name| escaped(name));
                found.extend(names.map(|name| format!("/{keyword}/{name}")));
            }
            ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(listed)) => {
                let places = 0..listed.len();
                found.extend(places.map(|index| format!("/{keyword}/{index}")));
            }
            (
                "items" | "additionalItems" | "additionalProperties",
                Value::Object(_) | Value::Bool(_),
            ) => {
                found.push(format!("/{keyword}"));
            }
            _ => {}
        }
    }
    found
}

/// What has been seen of a schema.
#[derive(Default)]
struct Check {
    seen: HashSet<String>,
    pending: VecDeque<String>,
    num_values: usize,
}

impl Check {
    fn visit(&mut self, pointer: String) {
        if self.seen.insert(pointer.clone()) {
            self.pending.push_back(pointer);
        }
    }

    /// Checks one schema, but for its subschemas, which are to be visited; the references in
    /// it, each with the pointer that it stands for.
    fn schema(
        &mut self,
        schema: &mut Value,
        pointer: &str,
    ) -> Result<Vec<(String, String)>, GrammarError> {
        let keywords = match schema {
            Value::Bool(_) => return Ok(Vec::new()),
            Value::Object(keywords) => keywords,
            other => {
                let reason = format!("a schema must be an object or a boolean, not {other}");
                return Err(GrammarError::Schema {
                    path: path(pointer),
                    keyword: None,
                    reason: reason.chars().take(200).collect(),
                });
            }
        };
        refuse_unsupported(keywords, pointer)?;
        drop_annotating_format(keywords);
        self.count_values(keywords)?;
        check_pairs(keywords, pointer)?;
        let references = references(keywords, pointer)?;
        for child in children(schema) {
            self.visit(format!("{pointer}{child}"));
        }
        match self.seen.len() > MAX_SUBSCHEMAS {
            true => Err(GrammarError::TooLarge {
                what: "number of subschemas:",
                value: self.seen.len(),
                limit: MAX_SUBSCHEMAS,
            }),
            false => Ok(references),
        }
    }

    fn count_values(&mut self, keywords: &Map<String, Value>) -> Result<(), GrammarError> {
        let values = ["enum", "const"]
            .iter()
            .filter_map(|name| keywords.get(*name));
        self.num_values += values.map(num_values).sum::<usize>();
        match self.num_values > MAX_ENUM_VALUES {
            true => Err(GrammarError::TooLarge {
                what: "number of values in enum and const:",
                value: self.num_values,
                limit: MAX_ENUM_VALUES,
            }),
            false => Ok(()),
        }
    }
}

fn fault(pointer: &str, keyword: &str, reason: &str) -> GrammarError {
    GrammarError::Schema {
        path: path(pointer),
        keyword: Some(keyword.to_owned()),
        reason: reason.to_owned(),
    }
}

/// Takes out what asks for nothing; what does not is an error.
fn refuse_unsupported(
    keywords: &mut Map<String, Value>,
    pointer: &str,
) -> Result<(), GrammarError> {
    for keyword in UNSUPPORTED {
        let Some(value) = keywords.get(keyword) else {
            continue;
        };
        if !asks_for_nothing(keyword, value, keywords) {
            return Err(fault(pointer, keyword, "is not supported"));
        }
        keywords.shift_remove(keyword);
    }
    for keyword in DEPENDENT {
        keywords.shift_remove(keyword);
    }
    Ok(())
}

fn asks_for_nothing(keyword: &str, value: &Value, beside: &Map<String, Value>) -> bool {
    let is_empty = value.as_object().is_some_and(Map::is_empty);
    match keyword {
        "if" => !beside.contains_key("then") && !beside.contains_key("else"),
        "not" | "uniqueItems" => *value == Value::Bool(false),
        "dependencies" | "dependentRequired" | "dependentSchemas" => is_empty,
        // Every name is a string.
        "propertyNames" => {
            is_empty
                || *value == Value::Bool(true)
                || *value == serde_json::json!({"type": "string"})
        }
        "unevaluatedItems" | "unevaluatedProperties" => is_empty || *value == Value::Bool(true),
        _ => false,
    }
}

fn drop_annotating_format(keywords: &mut Map<String, Value>) {
    let format = keywords.get("format").and_then(Value::as_str);
    if format.is_some_and(|format| !FORMATS.contains(&format)) {
        keywords.shift_remove("format");
    }
}

/// What is compared in pairs must not be much.
fn check_pairs(keywords: &Map<String, Value>, pointer: &str) -> Result<(), GrammarError> {
    let patterns = keywords.get("patternProperties").and_then(Value::as_object);
    if let Some(count) = patterns.map(Map::len).filter(|count| *count > MAX_PATTERNS) {
        let reason = format!("has {count} patterns, the limit is {MAX_PATTERNS}");
        return Err(fault(pointer, "patternProperties", &reason));
    }
    if let Some(options) = keywords.get("oneOf").and_then(Value::as_array) {
        let values: usize = options.iter().map(num_values).sum();
        if values.saturating_mul(values) > MAX_COMPARISONS {
            let reason = format!(
                "has {} options with {values} values, too many to compare",
                options.len()
            );
            return Err(fault(pointer, "oneOf", &reason));
        }
    }
    Ok(())
}

fn num_values(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(num_values).sum::<usize>() + 1,
        Value::Object(fields) => fields.values().map(num_values).sum::<usize>() + 1,
        _ => 1,
    }
}

/// The reference in a schema and the pointer that it stands for. References within the schema
/// alone: nothing is ever fetched.
fn references(
    keywords: &mut Map<String, Value>,
    pointer: &str,
) -> Result<Vec<(String, String)>, GrammarError> {
    let Some(reference) = keywords.get_mut("$ref") else {
        return Ok(Vec::new());
    };
    let Some(text) = reference.as_str().map(str::to_owned) else {
        return Err(fault(pointer, "$ref", "must be a string"));
    };
    if text == "#" || text == "#/" {
        return Ok(vec![(text, String::new())]);
    }
    let Some(target) = text
        .strip_prefix('#')
        .filter(|target| target.starts_with('/'))
    else {
        let reason = format!("`{text}` is not supported: only `#` and `#/…`, within the schema");
        return Err(fault(pointer, "$ref", &reason));
    };
    let target = target.to_owned();
    let segments: Vec<String> = target.split('/').skip(1).map(unescaped).collect();
    if segments.iter().any(|name| name.contains('/')) || target.contains('%') {
        let reason = format!("`{text}` is not supported: a name in it has to be escaped");
        return Err(fault(pointer, "$ref", &reason));
    }
    // llguidance takes names as they are.
    *reference = Value::from(format!("#/{}", segments.join("/")));
    Ok(vec![(text, target)])
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn unescaped(segment: &str) -> String {
    segment.replace("~1", "/").replace("~0", "~")
}
