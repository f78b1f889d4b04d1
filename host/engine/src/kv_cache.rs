//! Who holds which KV block: two pools (full, windowed), each sequence's share of them, and
//! what is kept of those that ended, by the hash of its content. Bookkeeping alone: the keys
//! and values lie with the runner.

mod hash;
mod pins;
mod plan;
mod pool;
mod prefix;

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    ops::{Add, AddAssign},
};

pub(crate) use hash::{BlockHash, HashChain};
use pins::Pins;
pub(crate) use plan::PlanDemand;
use pool::{Block, BlockPool, PoolCounts};

use crate::runner::{BLOCK_TOKENS, BlockId, KvLayout, KvPlan};

/// The pools of both groups.
#[derive(Debug)]
pub(crate) struct KvCache {
    full: Option<BlockPool>,
    windowed: Option<Windowed>,
    pins: Pins,
}

#[derive(Debug)]
struct Windowed {
    pool: BlockPool,
    window_tokens: usize,
}

/// The blocks of one sequence; they return to their pools when it is dropped. Those of the full
/// group return the last first, for what is kept of them is of use only together with all
/// before it; those of the windowed group the first first, for only what is before a prefix's
/// end is of use.
#[derive(Debug, Default)]
pub(crate) struct SequenceBlocks {
    full: Vec<Block>,
    windowed: VecDeque<Block>,
    /// Windowed blocks that were freed because they left the window, or never held because
    /// they had left it already.
    num_windowed_freed: usize,
    /// Blocks from the start whose content is known by a hash.
    num_named: usize,
}

impl Drop for SequenceBlocks {
    fn drop(&mut self) {
        while self.full.pop().is_some() {}
        while self.windowed.pop_front().is_some() {}
    }
}

/// Blocks that are wanted, by group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BlockDemand {
    pub(crate) full: usize,
    pub(crate) windowed: usize,
}

/// What each group's blocks are used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KvUse {
    /// Held by sequences.
    pub(crate) used: BlockDemand,
    /// Kept for templates, and held by no sequence.
    pub(crate) pinned: BlockDemand,
    /// Kept in case, until their place is needed.
    pub(crate) cached: BlockDemand,
}

impl Add for BlockDemand {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for BlockDemand {
    fn add_assign(&mut self, other: Self) {
        self.full += other.full;
        self.windowed += other.windowed;
    }
}

impl KvCache {
    /// Pools as large as `plan`; a group that `layout` lacks needs no blocks.
    pub(crate) fn new(layout: &KvLayout, plan: KvPlan) -> Self {
        Self {
            full: (layout.full_block_bytes > 0).then(|| BlockPool::new(plan.num_full_blocks)),
            windowed: (layout.windowed_block_bytes > 0).then(|| Windowed {
                pool: BlockPool::new(plan.num_windowed_blocks),
                window_tokens: layout.window_tokens,
            }),
            pins: Pins::default(),
        }
    }

    /// Makes `blocks` cover the positions up to `end`, computing from `first_position` on,
    /// and frees those that no query from there on can see. False, with nothing taken, if a
    /// pool has too few.
    pub(crate) fn reserve(
        &self,
        blocks: &mut SequenceBlocks,
        first_position: usize,
        end: usize,
    ) -> bool {
        if let Some(windowed) = &self.windowed {
            blocks.free_behind(first_position, windowed.window_tokens);
        }
        let missing = self.missing(blocks, end);
        if !self.has_free(missing) {
            return false;
        }
        if let Some(pool) = &self.full {
            blocks.full.extend(pool.take(missing.full));
        }
        if let Some(windowed) = &self.windowed {
            blocks.windowed.extend(windowed.pool.take(missing.windowed));
        }
        true
    }

    /// What `blocks` lacks to cover the positions up to `end`, none of the freed ones again.
    fn missing(&self, blocks: &SequenceBlocks, end: usize) -> BlockDemand {
        let wanted = end.div_ceil(BLOCK_TOKENS);
        let windowed_held = blocks.num_windowed_freed + blocks.windowed.len();
        BlockDemand {
            full: self
                .full
                .as_ref()
                .map_or(0, |_| wanted.saturating_sub(blocks.full.len())),
            windowed: self
                .windowed
                .as_ref()
                .map_or(0, |_| wanted.saturating_sub(windowed_held)),
        }
    }

    /// What `blocks` will still take until all positions up to `end` are computed, in chunks
    /// of at most `chunk_tokens`.
    pub(crate) fn outstanding(
        &self,
        blocks: &SequenceBlocks,
        end: usize,
        chunk_tokens: usize,
    ) -> BlockDemand {
        let mut demand = self.missing(blocks, end);
        if let Some(windowed) = &self.windowed {
            let most_at_once = plan::most_windowed_blocks(windowed.window_tokens, chunk_tokens);
            demand.windowed = demand
                .windowed
                .min(most_at_once.saturating_sub(blocks.windowed.len()));
        }
        demand
    }

    /// Whether both pools have as many as `demand`.
    pub(crate) fn has_free(&self, demand: BlockDemand) -> bool {
        let free = |pool: Option<&BlockPool>| pool.map_or(0, BlockPool::num_free);
        demand.full <= free(self.full.as_ref())
            && demand.windowed <= free(self.windowed.as_ref().map(|group| &group.pool))
    }

    /// What all blocks are used for.
    pub(crate) fn usage(&self) -> KvUse {
        let counts =
            |pool: Option<&BlockPool>| pool.map_or_else(PoolCounts::default, BlockPool::counts);
        let full = counts(self.full.as_ref());
        let windowed = counts(self.windowed.as_ref().map(|group| &group.pool));
        let both = |count: fn(&PoolCounts) -> usize| BlockDemand {
            full: count(&full),
            windowed: count(&windowed),
        };
        KvUse {
            used: both(|counts| counts.used),
            pinned: both(|counts| counts.pinned),
            cached: both(|counts| counts.cached),
        }
    }
}

#[cfg(test)]
impl KvCache {
    /// Every hash of both groups with its block.
    pub(crate) fn known(&self) -> [Vec<(BlockHash, BlockId)>; 2] {
        let known = |pool: Option<&BlockPool>| pool.map_or_else(Vec::new, BlockPool::known);
        let windowed = self.windowed.as_ref().map(|group| &group.pool);
        [known(self.full.as_ref()), known(windowed)]
    }

    /// Has the windowed group give up so many contents, as if others needed the blocks.
    pub(crate) fn give_up_windowed(&self, count: usize) {
        let pool = &self.windowed.as_ref().unwrap().pool;
        drop(pool.take(pool.counts().empty + count));
    }

    /// Has the windowed group give up the block at `index` of `tokens`.
    pub(crate) fn give_up_windowed_block(&self, tokens: &[crate::TokenId], index: usize) {
        let pool = &self.windowed.as_ref().unwrap().pool;
        let hash = HashChain::new(None).of(tokens, index + 1)[index];
        pool.forget(&hash);
    }
}

impl SequenceBlocks {
    /// The block table of the full group, as [`BatchSequence`](crate::BatchSequence) wants it.
    pub(crate) fn full_table(&self) -> Vec<BlockId> {
        self.full.iter().map(Block::id).collect()
    }

    /// The block table of the windowed group, `None` for each block behind the window.
    pub(crate) fn windowed_table(&self) -> Vec<Option<BlockId>> {
        let freed = std::iter::repeat_n(None, self.num_windowed_freed);
        freed
            .chain(self.windowed.iter().map(|block| Some(block.id())))
            .collect()
    }

    /// Frees what the query at `first_position`, and so every later one, cannot see. A query
    /// sees `window_tokens` keys, its own included.
    fn free_behind(&mut self, first_position: usize, window_tokens: usize) {
        while self.num_windowed_freed < first_visible_block(first_position, window_tokens)
            && self.windowed.pop_front().is_some()
        {
            self.num_windowed_freed += 1;
        }
    }
}

/// The windowed block of the first key that the query at `position` sees.
fn first_visible_block(position: usize, window_tokens: usize) -> usize {
    (position + 1).saturating_sub(window_tokens) / BLOCK_TOKENS
}
