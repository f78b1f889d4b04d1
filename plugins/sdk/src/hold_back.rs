//! Holding back text whose meaning the next delta may change.
//!
//! Deltas cut an answer anywhere. A plugin that looks for something longer than one
//! character must keep the end of what it has seen until it knows; [`HoldBack`] keeps it,
//! and the plugin's [`Matcher`] only says what the text at hand is.

/// What a [`Matcher`] knows about the start of a text. Lengths are in bytes, at least 1,
/// and end between characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scan {
    /// The first so many bytes are ordinary.
    Pass(usize),
    /// The first so many bytes become this text.
    Replace(usize, String),
    /// It depends on what follows.
    Wait,
}

/// Says what a text starts with.
///
/// Whatever a matcher answers other than [`Scan::Wait`] must stay true whatever follows:
/// then the result does not depend on where the answer was cut into deltas.
pub trait Matcher {
    /// The most bytes that a match, and what must be seen behind it to be sure, can have.
    /// No more than this is held for long.
    fn window(&self) -> usize;

    /// Looks at `text`, never empty. `before` is the character before it, for matches that
    /// must start a word. Where `last` is true nothing follows: no answer but a decision
    /// makes sense, and `Wait` is read as `Pass` of one character.
    fn scan(&mut self, text: &str, before: Option<char>, last: bool) -> Scan;
}

/// Runs a [`Matcher`] over text that comes in pieces, and holds no more of it than the
/// matcher waits for.
///
/// ```
/// use gapura_plugin_sdk::{HoldBack, Matcher, Scan};
///
/// /// Calls the secret project by its public name.
/// struct Codename;
///
/// impl Matcher for Codename {
///     fn window(&self) -> usize {
///         "Garuda".len()
///     }
///
///     fn scan(&mut self, text: &str, _before: Option<char>, last: bool) -> Scan {
///         if text.starts_with("Garuda") {
///             Scan::Replace("Garuda".len(), "Project 7".to_owned())
///         } else if !last && "Garuda".starts_with(text) {
///             Scan::Wait
///         } else {
///             // Ordinary at least up to the next G.
///             let next = text.char_indices().skip(1).find(|&(_, c)| c == 'G');
///             Scan::Pass(next.map_or(text.len(), |(at, _)| at))
///         }
///     }
/// }
///
/// let mut codename = HoldBack::new(Codename);
/// assert_eq!(codename.push("We call it Gar"), "We call it ");
/// assert_eq!(codename.push("uda é."), "Project 7 é.");
/// assert_eq!(codename.finish(), "");
/// ```
#[derive(Debug)]
pub struct HoldBack<M> {
    matcher: M,
    held: String,
    before: Option<char>,
}

impl<M: Matcher> HoldBack<M> {
    /// Nothing seen yet.
    pub fn new(matcher: M) -> Self {
        Self {
            matcher,
            held: String::new(),
            before: None,
        }
    }

    /// Takes the next piece. Returns what is now sure, which may be nothing.
    pub fn push(&mut self, text: &str) -> String {
        self.held.push_str(text);
        self.release(false)
    }

    /// Says that nothing follows. Returns the rest.
    pub fn finish(&mut self) -> String {
        self.release(true)
    }

    /// What is held at this moment.
    pub fn held(&self) -> &str {
        &self.held
    }

    /// The matcher, such as for what it counted.
    pub fn matcher(&self) -> &M {
        &self.matcher
    }

    fn release(&mut self, last: bool) -> String {
        let mut sure = String::with_capacity(self.held.len());
        let mut from = 0;
        while from < self.held.len() {
            let rest = &self.held[from..];
            // The matcher sees the same window of a text however much lies behind it.
            let window = &rest[..rest.floor_char_boundary(self.matcher.window().max(4))];
            let whole = window.len() == rest.len();
            let length = match self.matcher.scan(window, self.before, last && whole) {
                Scan::Wait if whole && !last => break,
                Scan::Wait => first_char(window),
                Scan::Pass(length) => length,
                Scan::Replace(length, replacement) => {
                    sure.push_str(&replacement);
                    self.before = window[..length].chars().next_back();
                    from += length;
                    assert!(length > 0, "a match of nothing would never end");
                    continue;
                }
            };
            assert!(length > 0, "passing nothing would never end");
            sure.push_str(&window[..length]);
            self.before = window[..length].chars().next_back();
            from += length;
        }
        self.held.drain(..from);
        sure
    }
}

fn first_char(text: &str) -> usize {
    text.chars().next().map_or(1, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replaces runs of `a` that are exactly three long and start a word.
    struct Three {
        scans: usize,
    }

    impl Matcher for Three {
        fn window(&self) -> usize {
            4
        }

        fn scan(&mut self, text: &str, before: Option<char>, last: bool) -> Scan {
            self.scans += 1;
            let run = text.len() - text.trim_start_matches('a').len();
            if run == 0 || before == Some('a') {
                return Scan::Pass(first_char(text));
            }
            match run {
                _ if run == text.len() && !last => Scan::Wait,
                3 => Scan::Replace(3, "<3>".to_owned()),
                _ => Scan::Pass(run),
            }
        }
    }

    fn in_pieces(pieces: &[&str]) -> String {
        let mut hold_back = HoldBack::new(Three { scans: 0 });
        let mut text: String = pieces.iter().map(|piece| hold_back.push(piece)).collect();
        text.push_str(&hold_back.finish());
        assert_eq!(hold_back.held(), "");
        text
    }

    #[test]
    fn every_split_gives_what_the_whole_gives() {
        for text in [
            "aaa",
            "é aaa aa aaaa",
            "aaaaaaa aaab",
            "caaa",
            "日aaa日本aaaa本",
        ] {
            let whole = in_pieces(&[text]);
            let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            for &first in &ends {
                for &second in ends.iter().filter(|&&second| second >= first) {
                    let pieces = [&text[..first], &text[first..second], &text[second..]];
                    assert_eq!(in_pieces(&pieces), whole, "{pieces:?}");
                }
            }
        }
        assert_eq!(in_pieces(&["é aaa aa aaaa aaa"]), "é <3> aa aaaa <3>");
    }

    #[test]
    fn only_what_may_still_match_is_held() {
        let mut hold_back = HoldBack::new(Three { scans: 0 });
        assert_eq!(hold_back.push("xyz a"), "xyz ");
        assert_eq!(hold_back.held(), "a");
        assert_eq!(hold_back.push("a"), "");
        assert_eq!(hold_back.push("b"), "aab");
        assert_eq!(hold_back.held(), "");
    }

    #[test]
    fn a_matcher_that_always_waits_holds_its_window_and_loses_nothing() {
        struct Undecided;
        impl Matcher for Undecided {
            fn window(&self) -> usize {
                8
            }
            fn scan(&mut self, _: &str, _: Option<char>, _: bool) -> Scan {
                Scan::Wait
            }
        }
        let mut hold_back = HoldBack::new(Undecided);
        let mut text = String::new();
        for _ in 0..100 {
            text.push_str(&hold_back.push("äb"));
            assert!(hold_back.held().len() <= 8, "{}", hold_back.held().len());
        }
        text.push_str(&hold_back.finish());
        assert_eq!(text, "äb".repeat(100));
    }
}
