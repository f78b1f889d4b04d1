//! The matcher: numbers in brackets, such as `[1]` or `[1, 3]`, and whether they are sources.

use gapura_plugin_sdk::{Matcher, Scan};

/// Most digits of one number.
const MAX_DIGITS: usize = 3;
/// Most bytes of a citation, the space before it included; longer ones are no citations.
const LONGEST: usize = 48;

/// Takes the numbers that are no sources out of citations.
#[derive(Debug)]
pub(crate) struct Citations {
    sources: usize,
    /// Nothing passes from the first unknown number on.
    cuts: bool,
    num_unknown: usize,
}

impl Citations {
    pub(crate) fn new(sources: usize, cuts: bool) -> Self {
        Self {
            sources,
            cuts,
            num_unknown: 0,
        }
    }

    /// Numbers so far that are no sources.
    pub(crate) fn num_unknown(&self) -> usize {
        self.num_unknown
    }

    fn is_source(&self, number: &usize) -> bool {
        (1..=self.sources).contains(number)
    }
}

impl Matcher for Citations {
    fn window(&self) -> usize {
        LONGEST
    }

    fn scan(&mut self, text: &str, _: Option<char>, last: bool) -> Scan {
        if self.cuts && self.num_unknown > 0 {
            return Scan::Replace(text.len(), String::new());
        }
        let Some(start) = text.find([' ', '[']) else {
            return Scan::Pass(text.len());
        };
        if start > 0 {
            return Scan::Pass(start);
        }
        match read(text) {
            Read::No(length) => Scan::Pass(length),
            Read::Open if last || text.len() >= LONGEST => Scan::Pass(1),
            Read::Open => Scan::Wait,
            Read::Numbers(length, numbers) => {
                let known: Vec<usize> = numbers
                    .iter()
                    .copied()
                    .filter(|number| self.is_source(number))
                    .collect();
                let unknown = numbers.len() - known.len();
                if unknown == 0 {
                    return Scan::Pass(length);
                }
                self.num_unknown += unknown;
                if self.cuts || known.is_empty() {
                    // With the space before it: `air [9].` becomes `air.`
                    return Scan::Replace(length, String::new());
                }
                let space = if text.starts_with(' ') { " " } else { "" };
                let known: Vec<String> = known.iter().map(usize::to_string).collect();
                Scan::Replace(length, format!("{space}[{}]", known.join(", ")))
            }
        }
    }
}

/// What a text starts with.
enum Read {
    /// So many bytes that are no citation, whatever follows.
    No(usize),
    /// A citation, as far as it goes.
    Open,
    /// A citation of so many bytes.
    Numbers(usize, Vec<usize>),
}

/// Reads a space, if there is one, and numbers between brackets, with commas and spaces between
/// them.
fn read(text: &str) -> Read {
    let space = usize::from(text.starts_with(' '));
    let mut rest = text[space..].char_indices();
    match rest.next() {
        None => return Read::Open,
        Some((_, '[')) => {}
        Some(_) => return Read::No(space.max(1)),
    }
    let mut numbers = Vec::new();
    let mut digits = 0;
    let mut number = 0;
    let mut wants_number = true;
    for (at, c) in rest {
        match (c, c.to_digit(10)) {
            (_, Some(digit)) if digits < MAX_DIGITS && wants_number => {
                digits += 1;
                number = number * 10 + digit as usize;
            }
            (',' | ' ' | ']', None) => {
                if digits > 0 {
                    numbers.push(number);
                    (digits, number, wants_number) = (0, 0, false);
                }
                match c {
                    ',' if wants_number => return Read::No(space + 1),
                    ',' => wants_number = true,
                    ']' if wants_number => return Read::No(space + 1),
                    ']' => return Read::Numbers(space + at + 1, numbers),
                    _ => {}
                }
            }
            _ => return Read::No(space + 1),
        }
    }
    Read::Open
}
