//! Blocks without any model.

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
        cache.usage().used,
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
    assert_eq!(cache.usage().used, BlockDemand::default());
    assert!(cache.reserve(&mut blocks, 0, 16));
    assert_eq!(
        cache.usage().used,
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
            prop_assert_eq!(cache.usage().used, used);
        }
        drop(sequences);
        prop_assert_eq!(cache.usage().used, BlockDemand::default());
    }
}
