//! Who holds which KV block: two pools (full, windowed), and each sequence's share of them.
//! Bookkeeping alone: the keys and values lie with the runner.

mod plan;
mod pool;

use std::{collections::VecDeque, ops::AddAssign};

pub(crate) use plan::PlanDemand;
use pool::{Block, BlockPool};

use crate::runner::{BLOCK_TOKENS, BlockId, KvLayout, KvPlan};

/// The pools of both groups.
#[derive(Debug)]
pub(crate) struct KvCache {
    full: Option<BlockPool>,
    windowed: Option<Windowed>,
}

#[derive(Debug)]
struct Windowed {
    pool: BlockPool,
    window_tokens: usize,
}

/// The blocks of one sequence; they return to their pools when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct SequenceBlocks {
    full: Vec<Block>,
    windowed: VecDeque<Block>,
    /// Windowed blocks that were freed because they left the window.
    num_windowed_freed: usize,
}

/// Blocks that are wanted, by group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BlockDemand {
    pub(crate) full: usize,
    pub(crate) windowed: usize,
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

    /// Blocks that sequences hold.
    pub(crate) fn used(&self) -> BlockDemand {
        BlockDemand {
            full: self.full.as_ref().map_or(0, BlockPool::num_used),
            windowed: self
                .windowed
                .as_ref()
                .map_or(0, |group| group.pool.num_used()),
        }
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
        let first_visible = (first_position + 1).saturating_sub(window_tokens);
        while self.num_windowed_freed < first_visible / BLOCK_TOKENS
            && self.windowed.pop_front().is_some()
        {
            self.num_windowed_freed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAYOUT: KvLayout = KvLayout {
        full_block_bytes: 1,
        windowed_block_bytes: 1,
        window_tokens: 20,
    };

    fn cache(num_full_blocks: u32, num_windowed_blocks: u32) -> KvCache {
        KvCache::new(
            &LAYOUT,
            KvPlan {
                num_full_blocks,
                num_windowed_blocks,
            },
        )
    }

    #[test]
    fn a_block_is_freed_exactly_when_its_last_key_leaves_the_window() {
        let cache = cache(8, 8);
        let mut blocks = SequenceBlocks::default();
        assert!(cache.reserve(&mut blocks, 0, 34));
        // The query at 34 sees keys 15..=34, the last of block 0 among them.
        assert!(cache.reserve(&mut blocks, 34, 35));
        assert_eq!(blocks.windowed_table().iter().flatten().count(), 3);
        // The query at 35 sees 16..=35.
        assert!(cache.reserve(&mut blocks, 35, 36));
        assert_eq!(blocks.windowed_table()[0], None);
        assert_eq!(blocks.windowed_table().iter().flatten().count(), 2);
        assert_eq!(
            cache.used(),
            BlockDemand {
                full: 3,
                windowed: 2
            }
        );
    }

    #[test]
    fn a_reservation_takes_all_or_nothing() {
        let cache = cache(8, 1);
        let mut blocks = SequenceBlocks::default();
        assert!(!cache.reserve(&mut blocks, 0, 17));
        assert_eq!(cache.used(), BlockDemand::default());
        assert!(cache.reserve(&mut blocks, 0, 16));
        assert_eq!(
            cache.used(),
            BlockDemand {
                full: 1,
                windowed: 1
            }
        );
    }

    #[test]
    fn a_group_without_layers_takes_no_blocks() {
        let layout = KvLayout {
            windowed_block_bytes: 0,
            ..LAYOUT
        };
        let plan = KvPlan {
            num_full_blocks: 2,
            num_windowed_blocks: 0,
        };
        let cache = KvCache::new(&layout, plan);
        let mut blocks = SequenceBlocks::default();
        assert!(cache.reserve(&mut blocks, 0, 32));
        assert_eq!(blocks.full_table().len(), 2);
        assert_eq!(blocks.windowed_table(), vec![]);
    }

    proptest! {
        /// Sequences grow by random chunks, are dropped and grow anew: no block has two
        /// holders, every visible position has its block, and in the end all are free.
        #[test]
        fn blocks_have_one_holder_and_come_back(
            turns in prop::collection::vec((0_usize..4, 0_usize..40), 1..200),
        ) {
            let cache = cache(24, 16);
            let mut sequences: Vec<(SequenceBlocks, usize)> = Vec::new();
            sequences.resize_with(4, Default::default);
            for (who, chunk) in turns {
                let (blocks, computed) = &mut sequences[who];
                if chunk == 0 {
                    (*blocks, *computed) = Default::default();
                } else if cache.reserve(blocks, *computed, *computed + chunk) {
                    let first_visible = (*computed + 1).saturating_sub(LAYOUT.window_tokens);
                    *computed += chunk;
                    let wanted = computed.div_ceil(BLOCK_TOKENS);
                    prop_assert_eq!(blocks.full_table().len(), wanted);
                    let windowed = blocks.windowed_table();
                    prop_assert_eq!(windowed.len(), wanted);
                    prop_assert!(windowed[first_visible / BLOCK_TOKENS..].iter().all(Option::is_some));
                    prop_assert!(windowed[..first_visible / BLOCK_TOKENS].iter().all(Option::is_none));
                }
                let mut full: Vec<_> = sequences.iter().flat_map(|s| s.0.full_table()).collect();
                let mut windowed: Vec<_> =
                    sequences.iter().flat_map(|s| s.0.windowed_table()).flatten().collect();
                let used = BlockDemand { full: full.len(), windowed: windowed.len() };
                full.sort_unstable();
                full.dedup();
                windowed.sort_unstable();
                windowed.dedup();
                prop_assert_eq!(used, BlockDemand { full: full.len(), windowed: windowed.len() });
                prop_assert_eq!(cache.used(), used);
            }
            drop(sequences);
            prop_assert_eq!(cache.used(), BlockDemand::default());
        }
    }
}
