//! Where in a TOML file a value stands, so that every complaint can say `file:line:column`.

use std::{ops::Range, path::Path};

use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// A configuration file's text and name.
pub(super) struct Document<'a> {
    pub(super) path: Option<&'a Path>,
    pub(super) source: &'a str,
}

impl Document<'_> {
    /// The complaint `message` about the value at `key`, such as `routes.1.plugins.0.plugin`.
    /// Falls back to the nearest part of the key that the file has.
    pub(super) fn invalid(&self, key: &str, message: impl Into<String>) -> ConfigError {
        ConfigError::Invalid {
            at: self.place(self.span_of(key), key),
            message: message.into(),
        }
    }

    /// `FILE:LINE:COLUMN` of `span`; without a file or span, the key.
    pub(super) fn place(&self, span: Option<Range<usize>>, key: &str) -> String {
        match (self.path, span) {
            (Some(path), Some(span)) => {
                let before = &self.source[..span.start.min(self.source.len())];
                let line = before.matches('\n').count() + 1;
                let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
                format!("{}:{line}:{column}", path.display())
            }
            (Some(path), None) => format!("{}: {key}", path.display()),
            (None, _) => key.to_owned(),
        }
    }

    fn span_of(&self, key: &str) -> Option<Range<usize>> {
        let table = DeTable::parse(self.source).ok()?;
        let mut span = None;
        let mut value: Option<&DeValue<'_>> = None;
        for part in key.split('.') {
            let next = match (value, part.parse::<usize>()) {
                (None, _) => table.get_ref().get(part),
                (Some(DeValue::Array(array)), Ok(index)) => array.get(index),
                (Some(DeValue::Table(table)), _) => table.get(part),
                _ => None,
            };
            let Some(next) = next else { break };
            span = Some(next.span());
            value = Some(next.get_ref());
        }
        span
    }
}
