//! Reuse of what other sequences have computed, by the hashes of their blocks.

use super::{
    KvCache, SequenceBlocks, first_visible_block,
    hash::BlockHash,
    pool::{BlockPool, Holder},
};
use crate::runner::BLOCK_TOKENS;

impl KvCache {
    /// The blocks of the longest known prefix of a sequence whose full blocks have `hashes`.
    /// All of a prefix must be known in the full group, and in the windowed one what the query
    /// behind it sees. [`SequenceBlocks::num_known_tokens`] says how long it is.
    pub(crate) fn share_prefix(&self, hashes: &[BlockHash]) -> SequenceBlocks {
        let num_blocks = self.num_known(hashes);
        let mut blocks = SequenceBlocks::default();
        blocks.num_named = num_blocks;
        if let Some(pool) = &self.full {
            blocks.full.extend(shared(pool, &hashes[..num_blocks]));
        }
        if let Some(windowed) = &self.windowed {
            let first = self.first_visible_block(num_blocks);
            blocks.num_windowed_freed = first;
            let visible = shared(&windowed.pool, &hashes[first..num_blocks]);
            blocks.windowed.extend(visible);
        }
        blocks
    }

    /// Makes the blocks that `blocks` has filled known: the first of `hashes` belongs to its
    /// first block. Only what a step has really computed may be named.
    pub(crate) fn name(&self, blocks: &mut SequenceBlocks, hashes: &[BlockHash]) {
        for (index, hash) in hashes.iter().enumerate().skip(blocks.num_named) {
            if let (Some(pool), Some(block)) = (&self.full, blocks.full.get(index)) {
                pool.name(block, *hash);
            }
            let place = index.checked_sub(blocks.num_windowed_freed);
            let block = place.and_then(|place| blocks.windowed.get(place));
            if let (Some(windowed), Some(block)) = (&self.windowed, block) {
                windowed.pool.name(block, *hash);
            }
        }
        blocks.num_named = blocks.num_named.max(hashes.len());
    }

    /// The windowed block of the first key that the query behind `num_blocks` blocks sees;
    /// 0 without a windowed group.
    pub(super) fn first_visible_block(&self, num_blocks: usize) -> usize {
        self.windowed.as_ref().map_or(0, |group| {
            first_visible_block(num_blocks * BLOCK_TOKENS, group.window_tokens).min(num_blocks)
        })
    }

    /// Blocks of the longest known prefix.
    fn num_known(&self, hashes: &[BlockHash]) -> usize {
        let is_known = |pool: &BlockPool, index: usize| pool.knows(&hashes[index]);
        let mut num_blocks = match &self.full {
            Some(pool) => hashes.iter().take_while(|hash| pool.knows(hash)).count(),
            None => hashes.len(),
        };
        let Some(windowed) = &self.windowed else {
            return num_blocks;
        };
        // From the end back; a hole within the window ends the prefix there, and the search
        // goes on before it, so that each block is looked up once.
        let mut index = num_blocks;
        while index > self.first_visible_block(num_blocks) {
            index -= 1;
            if !is_known(&windowed.pool, index) {
                num_blocks = index;
            }
        }
        num_blocks
    }
}

impl SequenceBlocks {
    /// Tokens from the start whose blocks are known by a hash.
    pub(crate) fn num_known_tokens(&self) -> usize {
        self.num_named * BLOCK_TOKENS
    }
}

fn shared(pool: &BlockPool, hashes: &[BlockHash]) -> Vec<super::Block> {
    hashes
        .iter()
        .map_while(|hash| pool.share(hash, Holder::Sequence))
        .collect()
}
