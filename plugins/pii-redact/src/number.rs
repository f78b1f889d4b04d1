//! Numbers in groups of digits: identity cards, phones, payment cards.
//!
//! A candidate starts at a digit that no digit stands before (or at a `+`), ends at the
//! end of a group, and is the longest that is one of the kinds looked for.

use crate::redactor::{Kind, Look};

/// Most digits of any kind: a payment card's.
const MOST_DIGITS: usize = 19;
/// Most separators between two groups, as in `(0812) 3456`.
const MOST_SEPARATORS: usize = 2;
/// Most bytes that are looked at: a sign, the digits and one more, and separators of up to
/// two bytes before each.
pub(crate) const LONGEST: usize = 1 + (MOST_DIGITS + 1) * (1 + 2 * MOST_SEPARATORS);

/// Whether a number may start with `first`.
pub(crate) fn may_start(before: Option<char>, first: char) -> bool {
    first == '+' || (first.is_ascii_digit() && !before.is_some_and(|c| c.is_ascii_digit()))
}

/// What may stand between two groups of one number.
pub(crate) fn is_separator(c: char) -> bool {
    matches!(c, ' ' | '-' | '.' | '(' | ')' | '\u{a0}')
}

/// Looks for a number at the start of `text`. The kind means something where one is found.
pub(crate) fn look(text: &str, last: bool, wanted: impl Fn(Kind) -> bool) -> (Look, Kind) {
    let groups = Groups::read(text);
    if groups.open && !last {
        return (Look::Maybe, Kind::Nik);
    }
    let mut ends = groups.ends;
    if groups.open && groups.in_digits {
        ends.push((text.len(), groups.digits.len()));
    }
    for &(end, count) in ends.iter().rev() {
        let digits = &groups.digits[..count];
        let is_one = |kind| wanted(kind) && is_kind(kind, digits, groups.plus);
        if let Some(kind) = [Kind::Nik, Kind::Phone, Kind::Card]
            .into_iter()
            .find(|&kind| is_one(kind))
        {
            return (Look::Found(end), kind);
        }
    }
    (Look::No, Kind::Nik)
}

/// The digits at the start of a text, up to one more than any number has.
struct Groups {
    /// Whether a `+` stands before them.
    plus: bool,
    /// Their values.
    digits: Vec<u8>,
    /// Where groups end that are seen to: byte offset, and digits up to there.
    ends: Vec<(usize, usize)>,
    /// The text ends before it shows where the number does.
    open: bool,
    /// The text ends with a digit.
    in_digits: bool,
}

impl Groups {
    fn read(text: &str) -> Self {
        let mut groups = Self {
            plus: false,
            digits: Vec::new(),
            ends: Vec::new(),
            open: false,
            in_digits: false,
        };
        let mut separators = 0;
        for (at, c) in text.char_indices() {
            if let Some(digit) = c.to_digit(10) {
                if groups.digits.len() == MOST_DIGITS {
                    return groups;
                }
                #[expect(clippy::cast_possible_truncation, reason = "a digit is below 10")]
                groups.digits.push(digit as u8);
                groups.in_digits = true;
                separators = 0;
                continue;
            }
            if groups.in_digits {
                groups.ends.push((at, groups.digits.len()));
                groups.in_digits = false;
            }
            if at == 0 && c == '+' {
                groups.plus = true;
            } else if is_separator(c) && separators < MOST_SEPARATORS && !groups.digits.is_empty() {
                separators += 1;
            } else {
                return groups;
            }
        }
        groups.open = true;
        groups
    }
}

/// Whether these digits are a number of this kind.
fn is_kind(kind: Kind, digits: &[u8], plus: bool) -> bool {
    match kind {
        Kind::Nik => is_nik(digits, plus),
        Kind::Phone => is_phone(digits, plus),
        Kind::Card => is_card(digits, plus),
        Kind::Email => false,
    }
}

/// 16 digits: a province, a regency and a district, the day of birth (women's plus 40),
/// month and year, and a serial number.
fn is_nik(digits: &[u8], plus: bool) -> bool {
    if digits.len() != 16 || plus {
        return false;
    }
    let two = |at: usize| digits[at] * 10 + digits[at + 1];
    let province =
        matches!(two(0), 11..=19 | 21 | 31..=36 | 51..=53 | 61..=65 | 71..=76 | 81 | 82 | 91..=97);
    let day = if two(6) > 40 { two(6) - 40 } else { two(6) };
    let days = match two(8) {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 29,
        _ => return false,
    };
    let serial = digits[12..].iter().any(|&digit| digit != 0);
    province && two(2) > 0 && two(4) > 0 && (1..=days).contains(&day) && serial
}

/// `+62` and a subscriber, `628…` or `08…`.
fn is_phone(digits: &[u8], plus: bool) -> bool {
    match digits {
        // Some write the trunk's zero behind the country: +62 0812…
        [6, 2, 0, rest @ ..] | [6, 2, rest @ ..] if plus => {
            (8..=12).contains(&rest.len()) && rest[0] != 0
        }
        [6, 2, 8, rest @ ..] => (8..=11).contains(&rest.len()),
        [0, 8, rest @ ..] if !plus => (8..=11).contains(&rest.len()),
        _ => false,
    }
}

/// 13 to 19 digits that an issuer of payment cards may have given and whose last one is
/// Luhn's check digit.
fn is_card(digits: &[u8], plus: bool) -> bool {
    if !(13..=19).contains(&digits.len()) || plus || !(2..=6).contains(&digits[0]) {
        return false;
    }
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(index, &digit)| {
            let value = u32::from(digit) * if index % 2 == 1 { 2 } else { 1 };
            value / 10 + value % 10
        })
        .sum();
    sum.is_multiple_of(10)
}
