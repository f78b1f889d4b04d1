//! From token ids to text as they come: never half a character, never a piece of a stop
//! string. Runs on the caller's side, beside the engine thread.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::{request::TokenId, tokenizer::Tokenizer};

/// What each token adds to a text.
pub trait Detokenizer {
    /// Often a part of a character; nothing for special tokens.
    fn token_bytes(&self, token: TokenId) -> &[u8];
}

impl Detokenizer for Tokenizer {
    fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.token_bytes(token)
    }
}

/// Text that is ready, and the tokens that it completes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextDelta {
    /// Follows all text before it. May be empty.
    pub text: String,
    /// The tokens whose text is now out to its end, in order, special ones included. Over all
    /// deltas of a stream these are the tokens pushed, but for those that begin with or after
    /// the stop string.
    pub tokens: Vec<TokenId>,
    /// A stop string came: the text ends before it, and nothing follows.
    pub stopped: bool,
}

/// The text of one answer.
#[derive(Debug)]
pub struct TextStream<D = Tokenizer> {
    detokenizer: D,
    stop_strings: Vec<String>,
    /// The beginning of a character, at most three bytes.
    incomplete: Vec<u8>,
    /// Whole characters that may be the beginning of a stop string.
    held: String,
    /// Tokens not reported yet, each with the length of all text up to its end; without one
    /// while its last character is incomplete.
    unreported: VecDeque<(TokenId, Option<usize>)>,
    /// Where the text of the last reported token ends.
    reported_end: usize,
    /// Bytes of text handed out.
    num_emitted: usize,
    stopped: bool,
}

impl<D: Detokenizer> TextStream<D> {
    /// An empty stream. Text ends before the first of `stop_strings` to be complete; of those
    /// complete at the same place, the one that begins first. Empty ones never match.
    #[must_use]
    pub fn new(detokenizer: D, stop_strings: Vec<String>) -> Self {
        Self {
            detokenizer,
            stop_strings: stop_strings
                .into_iter()
                .filter(|stop| !stop.is_empty())
                .collect(),
            incomplete: Vec::new(),
            held: String::new(),
            unreported: VecDeque::new(),
            reported_end: 0,
            num_emitted: 0,
            stopped: false,
        }
    }

    /// Takes in the next token. After a stop string everything is ignored.
    pub fn push(&mut self, token: TokenId) -> TextDelta {
        if self.stopped {
            return TextDelta::default();
        }
        self.decode(token);
        if let Some(cut) = self.find_stop() {
            return self.stop_at(cut);
        }
        let ready = self.held.len() - self.len_of_possible_stop();
        self.emit(ready)
    }

    /// What was held back, now that no token follows. The beginning of a character that was
    /// never completed is left out.
    pub fn finish(&mut self) -> TextDelta {
        if self.stopped {
            return TextDelta::default();
        }
        let mut delta = self.emit(self.held.len());
        let rest = self.unreported.drain(..).map(|(token, _)| token);
        delta.tokens.extend(rest);
        delta
    }

    /// Adds a token's bytes and moves whole characters to `held`, U+FFFD for bytes that are
    /// none.
    fn decode(&mut self, token: TokenId) {
        let bytes = self.detokenizer.token_bytes(token);
        let num_bytes = bytes.len();
        self.incomplete.extend_from_slice(bytes);
        while let Err(error) = self.move_valid() {
            let Some(num_invalid) = error.error_len() else {
                break;
            };
            self.incomplete.drain(..num_invalid);
            self.held.push(char::REPLACEMENT_CHARACTER);
        }
        let end = Some(self.num_emitted + self.held.len());
        // What is incomplete begins in this token or, if that is too short, before it.
        let mut earlier = self.unreported.iter_mut();
        while self.incomplete.len() <= num_bytes
            && let Some((_, unknown @ None)) = earlier.next_back()
        {
            *unknown = end;
        }
        let is_whole = self.incomplete.is_empty();
        self.unreported.push_back((token, end.filter(|_| is_whole)));
    }

    /// Moves the characters that `incomplete` begins with; an error says what follows them.
    fn move_valid(&mut self) -> Result<(), std::str::Utf8Error> {
        let (valid, rest) = match std::str::from_utf8(&self.incomplete) {
            Ok(text) => (text, Ok(())),
            Err(error) => {
                let valid = &self.incomplete[..error.valid_up_to()];
                (str::from_utf8(valid).unwrap_or_default(), Err(error))
            }
        };
        self.held.push_str(valid);
        let num_valid = valid.len();
        self.incomplete.drain(..num_valid);
        rest
    }

    /// Where in `held` the first stop string to be complete begins.
    fn find_stop(&self) -> Option<usize> {
        let matches = self.stop_strings.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        matches.min().map(|(_, start)| start)
    }

    /// Length of the longest end of `held` that a stop string begins with.
    fn len_of_possible_stop(&self) -> usize {
        let begins_stop = |end: &&str| self.stop_strings.iter().any(|stop| stop.starts_with(end));
        let starts = self.held.char_indices().map(|(start, _)| start);
        let mut ends = starts.map(|start| &self.held[start..]);
        ends.find(begins_stop).map_or(0, str::len)
    }

    fn stop_at(&mut self, cut: usize) -> TextDelta {
        let mut delta = self.emit(cut);
        // Tokens that gave text before the stop string but end after it began.
        if self.reported_end < self.num_emitted {
            let split_end = self.unreported.front().and_then(|(_, end)| *end);
            let split = self
                .unreported
                .iter()
                .take_while(|(_, end)| *end == split_end);
            delta.tokens.extend(split.map(|(token, _)| token));
        }
        delta.stopped = true;
        self.stopped = true;
        delta
    }

    /// Hands out the first `len` bytes of `held` and the tokens that end within.
    fn emit(&mut self, len: usize) -> TextDelta {
        let text: String = self.held.drain(..len).collect();
        self.num_emitted += len;
        let mut tokens = Vec::new();
        while let Some(&(token, Some(end))) = self.unreported.front()
            && end <= self.num_emitted
        {
            tokens.push(token);
            self.reported_end = end;
            self.unreported.pop_front();
        }
        TextDelta {
            text,
            tokens,
            stopped: false,
        }
    }
}
