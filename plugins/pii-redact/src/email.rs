//! E-mail addresses, as people write them: no quoted local parts, no bare hosts.

use crate::redactor::Look;

/// Most bytes before the `@`, and of the domain behind it (RFC 5321).
const LONGEST_LOCAL: usize = 64;
const LONGEST_DOMAIN: usize = 253;

/// Most bytes of an address and of the character behind it that shows its end.
pub(crate) const LONGEST: usize = LONGEST_LOCAL + 1 + LONGEST_DOMAIN + 4;

/// Whether an address may start with `first`: a letter or digit that starts a word.
pub(crate) fn may_start(before: Option<char>, first: char) -> bool {
    first.is_ascii_alphanumeric() && !before.is_some_and(is_local)
}

/// Looks for an address at the start of `text`; it ends where its domain does.
pub(crate) fn look(text: &str, last: bool) -> Look {
    let local = run(text, is_local);
    if local > LONGEST_LOCAL {
        return Look::No;
    }
    if local == text.len() {
        return if last { Look::No } else { Look::Maybe };
    }
    let Some(rest) = text[local..].strip_prefix('@') else {
        return Look::No;
    };
    let domain = run(rest, |c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
    if domain > LONGEST_DOMAIN {
        return Look::No;
    }
    if domain == rest.len() && !last {
        return Look::Maybe;
    }
    match longest_domain(&rest[..domain]) {
        Some(length) => Look::Found(local + 1 + length),
        None => Look::No,
    }
}

/// The length of the longest domain name at the start of `text`: a full stop at the end is
/// the sentence's.
fn longest_domain(text: &str) -> Option<usize> {
    let ends = text
        .char_indices()
        .filter(|&(_, c)| c == '.' || c == '-')
        .map(|(at, _)| at);
    let ends: Vec<usize> = ends.chain([text.len()]).collect();
    ends.into_iter().rev().find(|&end| is_domain(&text[..end]))
}

/// Two labels at least, none empty or with a hyphen at an edge, the last of letters.
fn is_domain(text: &str) -> bool {
    let label_ok =
        |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
    let Some((_, top)) = text.rsplit_once('.') else {
        return false;
    };
    text.split('.').all(label_ok) && top.len() >= 2 && top.chars().all(|c| c.is_ascii_alphabetic())
}

fn is_local(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '%' | '+' | '-')
}

/// How many bytes at the start of `text` are characters of this kind.
fn run(text: &str, is: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is(c)).unwrap_or(text.len())
}
