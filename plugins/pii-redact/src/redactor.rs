//! The matcher: where in a text something personal may start, what it is, and what takes
//! its place.

use core::fmt;
use core::ops::AddAssign;

use gapura_plugin_sdk::{Matcher, Scan};
use serde::Deserialize;

use crate::{Settings, email, number};

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// The number of an Indonesian identity card (Nomor Induk Kependudukan).
    Nik,
    /// An Indonesian phone number.
    Phone,
    /// An e-mail address.
    Email,
    /// The number of a payment card.
    Card,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Nik, Self::Phone, Self::Email, Self::Card];

    /// What `{kind}` becomes.
    fn name(self) -> &'static str {
        match self {
            Self::Nik => "NIK",
            Self::Phone => "PHONE",
            Self::Email => "EMAIL",
            Self::Card => "CARD",
        }
    }
}

/// How many of each kind were replaced, in the order of [`Kind::ALL`].
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts([u32; Kind::ALL.len()]);

impl Counts {
    pub(crate) fn is_empty(self) -> bool {
        self.0.iter().all(|&count| count == 0)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Kind::ALL.iter().zip(self.0).filter(|&(_, count)| count > 0);
        for (index, (kind, count)) in found.enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {}", kind.name())?;
        }
        Ok(())
    }
}

/// What looking for one kind of thing at the start of a text comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// The text starts with no such thing, whatever follows.
    No,
    /// It may, depending on what follows.
    Maybe,
    /// It does: the first so many bytes are one, whatever follows.
    Found(usize),
}

/// Finds and replaces. Every decision is final: see [`Matcher`].
#[derive(Debug)]
pub(crate) struct Redactor {
    kinds: Vec<Kind>,
    replacement: String,
    /// Normalized by [`normalize`].
    allow: Vec<String>,
    found: Counts,
}

impl Redactor {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            kinds: settings.kinds.clone(),
            replacement: settings.replacement.clone(),
            allow: settings
                .allow
                .iter()
                .map(|value| normalize(value))
                .collect(),
            found: Counts::default(),
        }
    }

    pub(crate) fn found(&self) -> Counts {
        self.found
    }

    fn looks_for(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    fn replace(&mut self, text: &str, kind: Kind) -> Scan {
        if !self.allow.is_empty() && self.allow.contains(&normalize(text)) {
            return Scan::Pass(text.len());
        }
        let at = Kind::ALL.iter().position(|&other| other == kind);
        self.found.0[at.expect("ALL holds every kind")] += 1;
        Scan::Replace(text.len(), self.replacement.replace("{kind}", kind.name()))
    }

    /// How far it is to the next place where something may start, past the first character.
    fn ordinary(&self, text: &str) -> usize {
        let mut before = None;
        for (at, c) in text.char_indices() {
            if before.is_some() && (email::may_start(before, c) || number::may_start(before, c)) {
                return at;
            }
            before = Some(c);
        }
        text.len()
    }
}

impl Matcher for Redactor {
    fn window(&self) -> usize {
        email::LONGEST.max(number::LONGEST)
    }

    fn scan(&mut self, text: &str, before: Option<char>, last: bool) -> Scan {
        let Some(first) = text.chars().next() else {
            return Scan::Wait;
        };
        if self.looks_for(Kind::Email) && email::may_start(before, first) {
            match email::look(text, last) {
                Look::Found(length) => return self.replace(&text[..length], Kind::Email),
                Look::Maybe => return Scan::Wait,
                Look::No => {}
            }
        }
        if number::may_start(before, first) {
            match number::look(text, last, |kind| self.looks_for(kind)) {
                (Look::Found(length), kind) => return self.replace(&text[..length], kind),
                (Look::Maybe, _) => return Scan::Wait,
                (Look::No, _) => {}
            }
        }
        Scan::Pass(self.ordinary(text))
    }
}

/// What two spellings of one address or number have in common: lower case, and of the
/// separators that numbers are written with none.
fn normalize(value: &str) -> String {
    let kept = value
        .chars()
        .filter(|&c| !number::is_separator(c) || value.contains('@'));
    kept.flat_map(char::to_lowercase).collect()
}
