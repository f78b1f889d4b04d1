//! Which tokens may come next, one bit each.

use std::sync::Arc;

use llguidance::toktrie::SimpleVob;

use crate::request::TokenId;

/// A set of tokens. Ids beyond the vocabulary that it was made for are not in it. Cheap to
/// clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask(Arc<[u32]>);

impl TokenMask {
    pub(super) fn of(set: &SimpleVob) -> Self {
        Self(set.as_slice().into())
    }

    /// The set of `ids`.
    #[must_use]
    pub fn from_ids(ids: &[TokenId]) -> Self {
        let greatest = ids.iter().map(|id| id.0).max();
        let mut words = vec![0; greatest.map_or(0, |id| id as usize / 32 + 1)];
        for id in ids {
            words[id.0 as usize / 32] |= 1 << (id.0 % 32);
        }
        Self(words.into())
    }

    /// Whether `id` is in the set.
    #[must_use]
    pub fn contains(&self, id: TokenId) -> bool {
        let word = self.0.get(id.0 as usize / 32);
        word.is_some_and(|word| word & (1 << (id.0 % 32)) != 0)
    }

    /// How many tokens are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no token is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether nothing is left of the set without `others`.
    pub(crate) fn is_within(&self, others: &[TokenId]) -> bool {
        let mut distinct: Vec<TokenId> = others.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let shared = distinct.into_iter().filter(|id| self.contains(*id));
        shared.count() == self.len()
    }

    /// The set without `others`.
    pub(crate) fn without(&self, others: &[TokenId]) -> Self {
        if others.is_empty() {
            return self.clone();
        }
        let mut words = self.0.to_vec();
        for id in others {
            if let Some(word) = words.get_mut(id.0 as usize / 32) {
                *word &= !(1 << (id.0 % 32));
            }
        }
        Self(words.into())
    }

    /// Bit `id % 32` of word `id / 32` says whether `id` is in the set; the words beyond are 0.
    pub(crate) fn words(&self) -> &[u32] {
        &self.0
    }

    /// Makes impossible what is not in the set; `logits`: `[vocab_size]`.
    pub(crate) fn apply(&self, logits: &mut [f32]) {
        let words = self.0.iter().copied().chain(std::iter::repeat(0));
        for (logits, word) in logits.chunks_mut(32).zip(words) {
            match word {
                u32::MAX => {}
                0 => logits.fill(f32::NEG_INFINITY),
                _ => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        if word & (1 << bit) == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_members_stay_possible() {
        let mask = TokenMask::from_ids(&[TokenId(1), TokenId(33), TokenId(33)]);
        let mut logits = [1.0; 70];
        mask.apply(&mut logits);
        let left: Vec<usize> = (0..70).filter(|&id| logits[id] == 1.0).collect();
        assert_eq!(left, [1, 33]);
        assert_eq!(mask.len(), 2);
        assert!(!mask.contains(TokenId(0)) && !mask.contains(TokenId(4096)));
        assert!(TokenMask::from_ids(&[]).is_empty());
    }

    #[test]
    fn a_set_is_within_what_covers_it() {
        let mask = TokenMask::from_ids(&[TokenId(2), TokenId(40)]);
        assert!(mask.is_within(&[TokenId(40), TokenId(2), TokenId(2), TokenId(7)]));
        assert!(!mask.is_within(&[TokenId(2), TokenId(2)]));
        assert_eq!(mask.without(&[TokenId(40), TokenId(99)]).words(), [4, 0]);
    }
}
