//! Where in a TOML file a value stands, so that every complaint can say `file:line:column`.

use std::{ops::Range, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

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
        let mut rest = key;
        while !rest.is_empty() {
            let next = match value {
                None => of_table(table.get_ref(), rest),
                Some(DeValue::Table(table)) => of_table(table, rest),
                Some(DeValue::Array(array)) => {
                    let (index, rest) = rest.split_once('.').unwrap_or((rest, ""));
                    let found = index.parse().ok().and_then(|index: usize| array.get(index));
                    found.map(|found| (found, rest))
                }
                _ => None,
            };
            let Some((next, after)) = next else { break };
            span = Some(next.span());
            value = Some(next.get_ref());
            rest = after;
        }
        span
    }
}

/// The value at the beginning of `key`, and what is left of the key. Names may have dots.
fn of_table<'t, 'k>(
    table: &'t DeTable<'t>,
    key: &'k str,
) -> Option<(&'t Spanned<DeValue<'t>>, &'k str)> {
    let entries = table.iter().filter_map(|(name, value)| {
        let rest = key.strip_prefix(name.get_ref().as_ref())?;
        match rest.strip_prefix('.') {
            Some(rest) => Some((value, rest)),
            None => rest.is_empty().then_some((value, rest)),
        }
    });
    entries.min_by_key(|(_, rest)| rest.len())
}
