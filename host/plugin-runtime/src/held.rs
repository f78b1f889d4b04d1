//! What a processor was given and has not answered for yet.

/// The text that a processor holds back, as far as the host can know it: everything since the last
/// emission that was not a verbatim beginning of it. Text that was replaced counts as answered for.
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
        match self.text.strip_prefix(emitted) {
            Some(rest) => self.text = rest.to_owned(),
            None => self.text.clear(),
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
    }
}
