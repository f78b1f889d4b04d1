//! Typed reading of a JSON object, with errors that name the field and what it holds.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::LoadError;

/// An object of a JSON file. A field that is `null` counts as missing.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    path: &'a Path,
    expected: &'static str,
    /// Of the object within the file, with a dot at its end; empty for the whole.
    prefix: &'a str,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The file's top-level object; `expected` is the kind of file for messages.
    pub(crate) fn new(
        path: &'a Path,
        expected: &'static str,
        value: &'a Value,
    ) -> Result<Self, LoadError> {
        match value {
            Value::Object(object) => Ok(Self {
                path,
                expected,
                prefix: "",
                object,
            }),
            _ => Err(LoadError::Malformed {
                path: path.to_path_buf(),
                expected,
                reason: "it is no JSON object".to_owned(),
            }),
        }
    }

    /// An object within the object. `prefix` is its name with a dot, for messages.
    pub(crate) fn object(&self, prefix: &'static str) -> Result<Option<Fields<'a>>, LoadError> {
        let name = prefix.trim_end_matches('.');
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Fields {
                prefix,
                object,
                ..*self
            })),
            Some(other) => Err(self.wrong(name, other, "an object")),
        }
    }

    /// The field's value as it is.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Whether the field is there and says `null`.
    pub(crate) fn is_null(&self, name: &str) -> bool {
        self.object.get(name).is_some_and(Value::is_null)
    }

    /// A whole number in `1..=limit`.
    pub(crate) fn size(&self, name: &str, limit: usize) -> Result<Option<usize>, LoadError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok());
        match number.filter(|number| (1..=limit).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, value, &format!("a whole number from 1 to {limit}"))),
        }
    }

    /// As [`size`](Self::size), and it must be there.
    pub(crate) fn required_size(&self, name: &str, limit: usize) -> Result<usize, LoadError> {
        self.size(name, limit)?
            .ok_or_else(|| self.error(format!("`{}{name}` is missing", self.prefix)))
    }

    /// A number.
    pub(crate) fn float(&self, name: &str) -> Result<Option<f32>, LoadError> {
        self.typed(name, "a number", |value| {
            value.as_f64().map(|value| value as f32)
        })
    }

    /// True or false.
    pub(crate) fn bool(&self, name: &str) -> Result<Option<bool>, LoadError> {
        self.typed(name, "true or false", Value::as_bool)
    }

    /// Text.
    pub(crate) fn str(&self, name: &str) -> Result<Option<&'a str>, LoadError> {
        self.typed(name, "text", Value::as_str)
    }

    /// One token id or a list of them; none where the field is missing.
    pub(crate) fn token_ids(&self, name: &str) -> Result<Vec<u32>, LoadError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = self.typed(name, "a token id or a list of them", |value| match value {
            Value::Array(ids) => ids.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    fn typed<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.wrong(name, value, expected)),
            },
        }
    }

    /// The field holds something else than expected.
    pub(crate) fn wrong(&self, name: &str, value: &Value, expected: &str) -> LoadError {
        let found: String = value.to_string().chars().take(80).collect();
        self.error(format!(
            "`{}{name}` is {found}, expected {expected}",
            self.prefix
        ))
    }

    /// Something else is wrong with the file.
    pub(crate) fn error(&self, reason: String) -> LoadError {
        LoadError::Malformed {
            path: self.path.to_path_buf(),
            expected: self.expected,
            reason,
        }
    }

    /// The field asks for something that is not built.
    pub(crate) fn unsupported(&self, name: &str, supported: &'static str) -> LoadError {
        let value = self.get(name).map(Value::to_string).unwrap_or_default();
        LoadError::UnsupportedFeature {
            path: self.path.to_path_buf(),
            feature: format!("`{}{name}` = {value}", self.prefix),
            supported,
        }
    }
}
