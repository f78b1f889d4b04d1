//! One rule: what must hold of a chat, and where it goes then.

use std::cell::OnceCell;

use serde::Deserialize;

use crate::language::{self, Language};

/// All that is set must hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Rule {
    /// Where a chat goes that matches.
    pub(crate) route: String,
    /// The language of the last user message is one of these.
    language: Option<Vec<Language>>,
    /// The conversation has at least so many tokens.
    min_tokens: Option<u32>,
    /// And at most so many.
    max_tokens: Option<u32>,
    /// The last user message has one of these words or phrases.
    keywords: Option<Vec<String>>,
}

/// A chat as rules see it. What costs something is computed when a rule first asks.
pub(crate) struct Subject<C> {
    /// Its words, lower-case, each between two spaces.
    words: String,
    language: OnceCell<Option<Language>>,
    tokens: OnceCell<u32>,
    count: C,
}

impl<C: Fn() -> u32> Subject<C> {
    /// A chat whose last user message is `text` and whose tokens `count` counts.
    pub(crate) fn new(text: &str, count: C) -> Self {
        Self {
            words: spaced(text),
            language: OnceCell::new(),
            tokens: OnceCell::new(),
            count,
        }
    }

    fn language(&self) -> Option<Language> {
        *self.language.get_or_init(|| language::of(&self.words))
    }

    fn tokens(&self) -> u32 {
        *self.tokens.get_or_init(&self.count)
    }

    fn says(&self, keyword: &str) -> bool {
        self.words.contains(&spaced(keyword))
    }
}

impl Rule {
    /// # Errors
    /// The field that cannot be meant, and why.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.route.trim().is_empty() {
            return Err("route is empty; name the route that chats go to".to_owned());
        }
        let sets = self.language.is_some()
            || self.min_tokens.is_some()
            || self.max_tokens.is_some()
            || self.keywords.is_some();
        if !sets {
            let names = "language, min_tokens, max_tokens and keywords";
            return Err(format!(
                "route is all that is set; set one of {names}, or use `default`"
            ));
        }
        if self.language.as_ref().is_some_and(Vec::is_empty) {
            return Err("language is empty; name one of id, jv, su and en".to_owned());
        }
        if let (Some(min), Some(max)) = (self.min_tokens, self.max_tokens)
            && min > max
        {
            return Err(format!("max_tokens is {max}, less than min_tokens, {min}"));
        }
        match &self.keywords {
            Some(words) if words.is_empty() => Err("keywords is empty; name a word".to_owned()),
            Some(words) => match words.iter().position(|word| spaced(word) == " ") {
                Some(at) => Err(format!("keywords.{at} has no letter and no digit")),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// The cheap conditions first.
    pub(crate) fn matches<C: Fn() -> u32>(&self, subject: &Subject<C>) -> bool {
        let keyword = |words: &Vec<String>| words.iter().any(|word| subject.says(word));
        let language = |codes: &Vec<Language>| {
            let spoken = subject.language();
            spoken.is_some_and(|spoken| codes.contains(&spoken))
        };
        self.keywords.as_ref().is_none_or(keyword)
            && self.language.as_ref().is_none_or(language)
            && self.min_tokens.is_none_or(|min| subject.tokens() >= min)
            && self.max_tokens.is_none_or(|max| subject.tokens() <= max)
    }
}

/// The words of a text, lower-case, with one space before each and one behind the last; of
/// a text without words one space.
pub(crate) fn spaced(text: &str) -> String {
    let mut words = String::with_capacity(text.len() + 2);
    words.push(' ');
    for c in text.chars() {
        if c.is_alphanumeric() {
            words.extend(c.to_lowercase());
        } else if !words.ends_with(' ') {
            words.push(' ');
        }
    }
    if !words.ends_with(' ') {
        words.push(' ');
    }
    words
}
