//! What a processor was given and has not answered for yet.

/// Longest end of an emission that is looked for in the text that was given, in characters.
const ANCHOR: usize = 16;

/// The text that a processor holds back, as far as the host can know it: what it was given and has
/// not emitted, where emissions repeat the given text or replace parts of it.
///
/// After a replacement the held text is what follows the last place where the emission's end occurs
/// in the given text, as ` ya` does for `[email] ya`. An end that occurs nowhere leaves nothing
/// held. Where an end occurs more than once the last is taken: rather too little comes out than
/// something that was replaced on purpose.
#[derive(Debug, Default)]
pub(crate) struct Held {
    text: String,
}

impl Held {
    /// The processor was given `text` and emitted nothing.
    pub(crate) fn hold(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The processor was given `given` and emitted `emitted`. Answers whether that is exactly what
    /// it was given, with nothing held before.
    pub(crate) fn emit(&mut self, given: &str, emitted: &str) -> bool {
        if self.text.is_empty() && given == emitted {
            return true;
        }
        self.text.push_str(given);
        let kept = common_prefix(&self.text, emitted);
        self.text.drain(..kept);
        let replaced = &emitted[kept..];
        if !replaced.is_empty() {
            let answered = end_of_anchor(&self.text, replaced).unwrap_or(self.text.len());
            self.text.drain(..answered);
        }
        false
    }

    /// Bytes held.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Hands back what is held.
    pub(crate) fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }
}

/// Bytes of the longest common beginning.
fn common_prefix(left: &str, right: &str) -> usize {
    let pairs = left.chars().zip(right.chars());
    let same = pairs.take_while(|(a, b)| a == b);
    same.map(|(c, _)| c.len_utf8()).sum()
}

/// Where in `text` the longest end of `emitted` that occurs in it occurs last: the index behind it.
fn end_of_anchor(text: &str, emitted: &str) -> Option<usize> {
    let starts = emitted.char_indices().rev().take(ANCHOR);
    starts
        .map(|(at, _)| &emitted[at..])
        .map_while(|end| text.rfind(end).map(|at| at + end.len()))
        .last()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_passes_unchanged_is_not_held() {
        let mut held = Held::default();
        assert!(held.emit("selamat ", "selamat "));
        assert_eq!(held.len(), 0);
    }

    #[test]
    fn a_held_tail_is_what_was_not_emitted() {
        let mut held = Held::default();
        assert!(!held.emit("nomor 0812", "nomor "));
        held.hold("34");
        assert_eq!(held.take(), "081234");
    }

    #[test]
    fn replaced_text_is_answered_for() {
        let mut held = Held::default();
        held.hold("a@b.co");
        assert!(!held.emit(" ya", "[email] ya"));
        assert_eq!(held.take(), "");
    }

    #[test]
    fn what_follows_a_replacement_is_held() {
        let mut held = Held::default();
        held.hold("a@b.co");
        assert!(!held.emit(" ya 0812", "[email] ya "));
        assert_eq!(held.len(), 4);
        held.hold("34");
        assert_eq!(held.take(), "081234");
    }

    #[test]
    fn a_replacement_that_spells_what_came_before_it_holds_nothing() {
        let mut held = Held::default();
        assert!(!held.emit("foo bar", "foo foo"));
        assert_eq!(held.take(), "");
        assert!(!held.emit("halo", "halo!"));
        assert_eq!(held.take(), "");
    }

    #[test]
    fn an_empty_emission_holds() {
        let mut held = Held::default();
        assert!(!held.emit("abc", ""));
        assert_eq!(held.len(), 3);
    }

    proptest! {
        /// A processor that only delays text never makes the host lose or repeat any of it.
        #[test]
        fn delaying_loses_nothing(
            pieces in prop::collection::vec("[a-zé]{0,6}", 0..12),
            lags in prop::collection::vec(0_usize..20, 12),
        ) {
            let all: Vec<char> = pieces.concat().chars().collect();
            let (mut held, mut given, mut out) = (Held::default(), 0, 0);
            let mut received = String::new();
            for (piece, lag) in pieces.iter().zip(lags) {
                given += piece.chars().count();
                let until = out.max(given.saturating_sub(lag));
                let emitted: String = all[out..until].iter().collect();
                out = until;
                held.emit(piece, &emitted);
                received.push_str(&emitted);
            }
            received.push_str(&held.take());
            prop_assert_eq!(received, pieces.concat());
        }

        /// A processor that replaces words and holds the last one, as a redactor does, never makes
        /// the host lose what is held.
        #[test]
        fn replacing_loses_nothing_held(
            pieces in prop::collection::vec("(é|[a-f]|0{1,3}|  ?){0,4}", 0..12),
        ) {
            let redact = |text: &str| text.replace('0', "#");
            let (mut held, mut given, mut out) = (Held::default(), String::new(), 0);
            let mut received = String::new();
            for piece in &pieces {
                given.push_str(piece);
                let until = given.rfind(' ').map_or(out, |at| out.max(at + 1));
                let emitted = redact(&given[out..until]);
                out = until;
                held.emit(piece, &emitted);
                prop_assert_eq!(held.len(), given.len() - out);
                received.push_str(&emitted);
            }
            received.push_str(&held.take());
            prop_assert_eq!(received, redact(&given[..out]) + &given[out..]);
        }
    }
}
