//! What of an answer is held, and where a piece of it ends.

/// What was judged before is read again as far as it fits into so many bytes with what is not.
const MAX_CONTEXT_BYTES: usize = 8 << 10;
const MAX_CHAR_BYTES: usize = 4;

/// An answer in pieces.
pub(crate) struct Pieces {
    /// A piece ends with the sentence that ends behind so many bytes; `None`: with the answer.
    piece_bytes: Option<usize>,
    max_held_bytes: usize,
    /// The answer so far, or its end.
    text: String,
    /// Where in `text` what is held begins.
    held_from: usize,
}

impl Pieces {
    pub(crate) fn new(piece_bytes: Option<usize>, max_held_bytes: usize) -> Self {
        Self {
            piece_bytes,
            max_held_bytes,
            text: String::new(),
            held_from: 0,
        }
    }

    /// Takes the next text. Returns what ends a piece, if anything does: up to the end of the
    /// last sentence, or all where no more may be held.
    pub(crate) fn push(&mut self, text: &str) -> Option<String> {
        self.forget();
        self.text.push_str(text);
        let held = &self.text[self.held_from..];
        let sentence = self.piece_bytes.and_then(|least| {
            // What ends a sentence may lie in an earlier delta than the space behind it.
            let new_from = held.len().saturating_sub(text.len() + MAX_CHAR_BYTES);
            last_sentence_end(held, least, held.floor_char_boundary(new_from))
        });
        let whole = (held.len() >= self.max_held_bytes).then_some(held.len());
        sentence.or(whole).map(|length| self.take(length))
    }

    /// All that is held at the end, if anything.
    pub(crate) fn finish(&mut self) -> Option<String> {
        let length = self.text.len() - self.held_from;
        (length > 0).then(|| self.take(length))
    }

    /// The answer, or its end, up to the end of the piece that was returned last.
    pub(crate) fn so_far(&self) -> &str {
        &self.text[..self.held_from]
    }

    fn take(&mut self, length: usize) -> String {
        let until = self.held_from + length;
        let piece = self.text[self.held_from..until].to_owned();
        self.held_from = until;
        piece
    }

    /// Lets go what was judged and lies too far back to be read again.
    fn forget(&mut self) {
        let excess = self.text.len().saturating_sub(MAX_CONTEXT_BYTES);
        let from = self.text.floor_char_boundary(excess.min(self.held_from));
        self.text.drain(..from);
        self.held_from -= from;
    }
}

/// Where the last sentence in `text` ends whose end lies behind `from`, and `least` bytes or more
/// from the start. A line's end is one; a full stop only with white space behind it, for `3.5`
/// goes on.
fn last_sentence_end(text: &str, least: usize, from: usize) -> Option<usize> {
    let mut before = None;
    let ends = text[from..].char_indices().filter_map(|(at, c)| {
        let stopped = matches!(before.replace(c), Some('.' | '!' | '?' | '…'));
        let ends = matches!(c, '\n' | '。' | '！' | '？') || (c.is_whitespace() && stopped);
        ends.then(|| from + at + c.len_utf8())
    });
    ends.filter(|&end| end >= least).last()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(piece_bytes: Option<usize>, max: usize, deltas: &[&str]) -> Vec<String> {
        let mut pieces = Pieces::new(piece_bytes, max);
        let mut all: Vec<String> = deltas.iter().filter_map(|d| pieces.push(d)).collect();
        all.extend(pieces.finish());
        assert_eq!(all.concat(), deltas.concat());
        all
    }

    #[test]
    fn an_answer_is_one_piece_up_to_the_bound() {
        assert_eq!(pieces(None, 100, &["Satu. ", "Dua.\n", "Tiga"]).len(), 1);
        assert_eq!(
            pieces(None, 8, &["Satu. ", "Dua. ", "Tiga. "]),
            ["Satu. Dua. ", "Tiga. "]
        );
        assert!(pieces(None, 100, &[]).is_empty());
    }

    #[test]
    fn a_piece_ends_with_a_sentence_wherever_deltas_cut() {
        let one = |deltas: &[&str]| pieces(Some(0), 100, deltas);
        assert_eq!(
            one(&["Satu", ".", " Dua", "? ", "Tiga"]),
            ["Satu. ", "Dua? ", "Tiga"]
        );
        assert_eq!(one(&["Satu. Dua! Tig", "a"]), ["Satu. Dua! ", "Tiga"]);
        assert_eq!(one(&["Pi 3", ".", "14", "!", "\nya"]), ["Pi 3.14!\n", "ya"]);
        assert_eq!(one(&["はい。", "いいえ。"]), ["はい。", "いいえ。"]);
        assert_eq!(one(&["a\u{3000}é", "…", " b"]), ["a\u{3000}é… ", "b"]);
    }

    #[test]
    fn short_sentences_go_together() {
        assert_eq!(
            pieces(Some(10), 100, &["Satu. ", "Dua. ", "Tiga. ", "Empat. "]),
            ["Satu. Dua. ", "Tiga. Empat. "]
        );
        // What lies behind a piece counts for the next one from its own start.
        assert_eq!(
            pieces(Some(10), 100, &["Satu. Dua. Ti", "ga. Empat", ". "]),
            ["Satu. Dua. ", "Tiga. Empat. "]
        );
    }

    #[test]
    fn what_was_not_judged_is_never_forgotten() {
        let mut pieces = Pieces::new(None, 4 * MAX_CONTEXT_BYTES);
        for _ in 0..2 * MAX_CONTEXT_BYTES / 8 {
            assert_eq!(pieces.push("sepuluh "), None);
        }
        let piece = pieces.finish().unwrap();
        assert_eq!(piece.len(), 2 * MAX_CONTEXT_BYTES);
        assert_eq!(pieces.so_far(), piece);
    }

    #[test]
    fn what_was_judged_is_read_again_up_to_a_bound() {
        let mut pieces = Pieces::new(Some(0), 100);
        for _ in 0..2000 {
            assert!(pieces.push("sepuluh é. ").is_some());
            assert!(pieces.so_far().ends_with("sepuluh é. "));
            assert!(pieces.so_far().len() <= MAX_CONTEXT_BYTES + 16);
        }
        assert!(pieces.so_far().len() > MAX_CONTEXT_BYTES / 2);
    }
}
