//! What names the content of a full block: a hash of its tokens and of all before them, so
//! that two blocks of equal hash hold equal keys and values.

use sha2::{Digest as _, Sha256};

use crate::{request::TokenId, runner::BLOCK_TOKENS};

/// The first 16 bytes of a SHA-256. A hash that can be forged would let one tenant read the
/// answers to another's prompt, so it is a cryptographic one; a block takes it 0.3 µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockHash([u8; 16]);

/// The hashes of a sequence's full blocks, computed as they are asked for. Chains with
/// different salts have no hash in common.
#[derive(Debug, Clone)]
pub(crate) struct HashChain {
    root: BlockHash,
    hashes: Vec<BlockHash>,
}

impl HashChain {
    /// A chain without blocks yet. `salt` keeps it apart from all others.
    pub(crate) fn new(salt: Option<&str>) -> Self {
        let root = match salt {
            None => Sha256::digest(b"gapura kv"),
            Some(salt) => Sha256::new()
                .chain_update(b"gapura kv, salted\0")
                .chain_update(salt.as_bytes())
                .finalize(),
        };
        Self {
            root: BlockHash::cut(&root),
            hashes: Vec::new(),
        }
    }

    /// The hashes of the first `num_blocks` blocks of `tokens`, which never change from call
    /// to call but at their end; of as many as are full, if these are fewer.
    pub(crate) fn of(&mut self, tokens: &[TokenId], num_blocks: usize) -> &[BlockHash] {
        let num_blocks = num_blocks.min(tokens.len() / BLOCK_TOKENS);
        let known = self.hashes.len();
        for block in tokens
            .chunks_exact(BLOCK_TOKENS)
            .take(num_blocks)
            .skip(known)
        {
            let parent = *self.hashes.last().unwrap_or(&self.root);
            self.hashes.push(parent.child(block));
        }
        &self.hashes[..num_blocks]
    }
}

impl BlockHash {
    fn cut(digest: &[u8]) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Self(hash)
    }

    /// The hash of the block that holds `tokens` and follows this one.
    fn child(self, tokens: &[TokenId]) -> Self {
        let mut bytes = [0; 4 * BLOCK_TOKENS];
        for (slot, token) in bytes.chunks_exact_mut(4).zip(tokens) {
            slot.copy_from_slice(&token.0.to_le_bytes());
        }
        let digest = Sha256::new()
            .chain_update(self.0)
            .chain_update(bytes)
            .finalize();
        Self::cut(&digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(count: u32) -> Vec<TokenId> {
        (0..count).map(TokenId).collect()
    }

    #[test]
    fn only_full_blocks_have_a_hash_and_asking_in_parts_gives_the_same() {
        let tokens = tokens(40);
        let whole = HashChain::new(None).of(&tokens, 9).to_vec();
        assert_eq!(whole.len(), 2);
        let mut chain = HashChain::new(None);
        assert_eq!(chain.of(&tokens, 1), &whole[..1]);
        assert_eq!(chain.of(&tokens[..31], 9), &whole[..1]);
        assert_eq!(chain.of(&tokens, 9), whole);
    }

    #[test]
    fn a_hash_stands_for_all_tokens_before_and_for_the_salt() {
        let hashes = |change: usize, salt| {
            let mut tokens = tokens(48);
            tokens[change] = TokenId(1000);
            HashChain::new(salt).of(&tokens, 3).to_vec()
        };
        let (first, last) = (hashes(0, None), hashes(47, None));
        assert!(std::iter::zip(&first, &last).all(|(a, b)| a != b));
        let middle = hashes(20, None);
        assert_eq!(middle[0], last[0]);
        assert_ne!(middle[1], last[1]);
        for other in [Some(""), Some("a"), Some("b")] {
            assert!(hashes(0, other).iter().all(|hash| !first.contains(hash)));
        }
        assert_ne!(hashes(0, Some("a")), hashes(0, Some("b")));
    }
}
