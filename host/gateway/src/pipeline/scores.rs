//! Logprobs on their way beside the text, so that they never tell what a plugin withheld.

use std::collections::VecDeque;

use gapura_engine::TokenLogprobs;

/// The logprobs of text that processors have seen and the client has not. They go out with
/// the last byte of their text, and only while the text goes out as the model wrote it: once
/// a plugin has changed anything, the tokens no longer belong to the answer.
#[derive(Debug, Default)]
pub(super) struct Scores {
    /// Of tokens whose text is not decoded yet.
    undecoded: VecDeque<TokenLogprobs>,
    /// Text that the client has not got.
    text: String,
    /// Bytes of `text` that each group of tokens stands for, in order.
    groups: VecDeque<(usize, Vec<TokenLogprobs>)>,
    /// Bytes of the first group that the client has already.
    delivered: usize,
    rewritten: bool,
}

impl Scores {
    /// A token was generated.
    pub(super) fn sampled(&mut self, token: TokenLogprobs) {
        self.undecoded.push_back(token);
    }

    /// `count` tokens became `text`; answers their logprobs, for the processors.
    pub(super) fn decoded(&mut self, count: usize, text: &str) -> Vec<f32> {
        let count = count.min(self.undecoded.len());
        let tokens: Vec<_> = self.undecoded.drain(..count).collect();
        let logprobs = tokens.iter().map(|token| token.logprob).collect();
        if !self.rewritten {
            self.text.push_str(text);
            self.groups.push_back((text.len(), tokens));
        }
        logprobs
    }

    /// The client gets `text`; answers the tokens that it completes.
    pub(super) fn emitted(&mut self, text: &str) -> Vec<TokenLogprobs> {
        if self.rewritten {
            return Vec::new();
        }
        if !self.text.starts_with(text) {
            self.rewritten = true;
            self.groups.clear();
            return Vec::new();
        }
        self.text.drain(..text.len());
        self.delivered += text.len();
        let mut tokens = Vec::new();
        while let Some((len, _)) = self.groups.front()
            && *len <= self.delivered
        {
            let Some((len, group)) = self.groups.pop_front() else {
                break;
            };
            self.delivered -= len;
            tokens.extend(group);
        }
        tokens
    }
}

#[cfg(test)]
mod tests {
    use gapura_engine::TokenId;

    use super::*;

    fn scores(pieces: &[(u32, &str)]) -> Scores {
        let mut scores = Scores::default();
        for (id, text) in pieces {
            let token = TokenLogprobs {
                id: TokenId(*id),
                logprob: -1.0,
                top: Vec::new(),
            };
            scores.sampled(token);
            assert_eq!(scores.decoded(1, text), [-1.0]);
        }
        scores
    }

    fn ids(tokens: Vec<TokenLogprobs>) -> Vec<u32> {
        tokens.into_iter().map(|token| token.id.0).collect()
    }

    #[test]
    fn delayed_text_takes_its_tokens_along() {
        let mut scores = scores(&[(1, "ab"), (2, "cd"), (3, "ef")]);
        assert_eq!(ids(scores.emitted("")), [] as [u32; 0]);
        assert_eq!(ids(scores.emitted("abc")), [1]);
        assert_eq!(ids(scores.emitted("def")), [2, 3]);
    }

    #[test]
    fn changed_text_takes_none_from_there_on() {
        let mut scores = scores(&[(1, "halo "), (2, "a@b.id")]);
        assert_eq!(ids(scores.emitted("halo ")), [1]);
        assert_eq!(ids(scores.emitted("[email]")), [] as [u32; 0]);
        scores.sampled(TokenLogprobs {
            id: TokenId(3),
            logprob: -1.0,
            top: Vec::new(),
        });
        scores.decoded(1, "ya");
        assert_eq!(ids(scores.emitted("ya")), [] as [u32; 0]);
    }
}
