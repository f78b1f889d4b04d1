//! The blocks of one group. A [`Block`] cannot be forgotten: dropping it gives it back. A
//! block whose content is known by a hash keeps it after that, until its place is needed: the
//! one that was given back first goes first.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::hash::BlockHash;
use crate::runner::BlockId;

/// All blocks of one group.
#[derive(Debug)]
pub(super) struct BlockPool(Shared);

/// A block and the right to read it; who took it may write it until its content is known by a
/// hash. Not `Clone`: another holder comes by [`BlockPool::share`].
#[derive(Debug)]
pub(super) struct Block {
    id: BlockId,
    holder: Holder,
    pool: Shared,
}

/// Why a block is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// A sequence computes with it.
    Sequence,
    /// It belongs to a template's prefix.
    Pin,
}

/// How many blocks are in which state; they add up to the pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PoolCounts {
    /// Held by sequences, pinned or not.
    pub(super) used: usize,
    /// Held by pins alone.
    pub(super) pinned: usize,
    /// Held by nobody, their content known by a hash.
    pub(super) cached: usize,
    /// Without content.
    pub(super) empty: usize,
}

/// Only the engine thread takes and frees, so nobody ever waits for the lock; it is there
/// because sequences are read by several threads while their tokens are drawn.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    blocks: Vec<BlockState>,
    empty: Vec<BlockId>,
    /// By hash; a hash has one block, though others may hold the same content.
    known: HashMap<BlockHash, BlockId>,
    /// Those of `known` that nobody holds, by the time of their return.
    evictable: BTreeMap<u64, BlockId>,
    num_returns: u64,
    num_used: usize,
    num_pinned: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct BlockState {
    num_sequences: u32,
    num_pins: u32,
    hash: Option<BlockHash>,
    /// Its key in `evictable`, where it is there.
    returned: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockPool {
    pub(super) fn new(num_blocks: u32) -> Self {
        Self(Shared(Arc::new(Mutex::new(State {
            blocks: vec![BlockState::default(); num_blocks as usize],
            // Reversed, so that low numbers go out first: easier to read in a log.
            empty: (0..num_blocks).rev().map(BlockId).collect(),
            known: HashMap::new(),
            evictable: BTreeMap::new(),
            num_returns: 0,
            num_used: 0,
            num_pinned: 0,
        }))))
    }

    pub(super) fn num_blocks(&self) -> usize {
        self.0.lock().blocks.len()
    }

    /// Blocks that can be taken: empty ones, and those that are kept only in case.
    pub(super) fn num_free(&self) -> usize {
        let state = self.0.lock();
        state.empty.len() + state.evictable.len()
    }

    pub(super) fn counts(&self) -> PoolCounts {
        let state = self.0.lock();
        PoolCounts {
            used: state.num_used,
            pinned: state.num_pinned,
            cached: state.evictable.len(),
            empty: state.empty.len(),
        }
    }

    /// Takes `count` blocks for a sequence to write, or as many as are free. Contents that
    /// nobody has asked for the longest are given up for it.
    pub(super) fn take(&self, count: usize) -> Vec<Block> {
        let mut state = self.0.lock();
        let taken: Vec<BlockId> = (0..count).map_while(|_| state.take_one()).collect();
        drop(state);
        taken
            .into_iter()
            .map(|id| self.block(id, Holder::Sequence))
            .collect()
    }

    /// Whether some block's content is known by `hash`.
    pub(super) fn knows(&self, hash: &BlockHash) -> bool {
        self.0.lock().known.contains_key(hash)
    }

    /// A further holder of the block that `hash` names.
    pub(super) fn share(&self, hash: &BlockHash, holder: Holder) -> Option<Block> {
        let mut state = self.0.lock();
        let id = *state.known.get(hash)?;
        state.hold(id, holder);
        drop(state);
        Some(self.block(id, holder))
    }

    /// Makes the content of `block`, complete from here on, known by `hash`. Where another
    /// block has that content already this one stays nameless.
    pub(super) fn name(&self, block: &Block, hash: BlockHash) {
        let mut state = self.0.lock();
        let own = &mut state.blocks[block.id.0 as usize];
        if own.hash.is_some() {
            return;
        }
        if let std::collections::hash_map::Entry::Vacant(place) = state.known.entry(hash) {
            place.insert(block.id);
            state.blocks[block.id.0 as usize].hash = Some(hash);
        }
    }

    /// Every hash with its block, in no order.
    #[cfg(test)]
    pub(super) fn known(&self) -> Vec<(BlockHash, BlockId)> {
        let state = self.0.lock();
        state.known.iter().map(|(hash, id)| (*hash, *id)).collect()
    }

    /// Gives a content up that nobody holds, out of turn.
    #[cfg(test)]
    pub(super) fn forget(&self, hash: &BlockHash) {
        let mut state = self.0.lock();
        let id = state.known.remove(hash).unwrap();
        let block = &mut state.blocks[id.0 as usize];
        block.hash = None;
        let returned = block.returned;
        state.evictable.remove(&returned).unwrap();
        state.empty.push(id);
    }

    fn block(&self, id: BlockId, holder: Holder) -> Block {
        Block {
            id,
            holder,
            pool: self.0.clone(),
        }
    }
}

impl State {
    fn take_one(&mut self) -> Option<BlockId> {
        let id = match self.empty.pop() {
            Some(id) => id,
            None => {
                let (_, id) = self.evictable.pop_first()?;
                if let Some(hash) = self.blocks[id.0 as usize].hash.take() {
                    self.known.remove(&hash);
                }
                id
            }
        };
        self.blocks[id.0 as usize].num_sequences = 1;
        self.num_used += 1;
        Some(id)
    }

    fn hold(&mut self, id: BlockId, holder: Holder) {
        let block = &mut self.blocks[id.0 as usize];
        let (had_sequences, had_pins) = (block.num_sequences > 0, block.num_pins > 0);
        match holder {
            Holder::Sequence => block.num_sequences += 1,
            Holder::Pin => block.num_pins += 1,
        }
        if !had_sequences && !had_pins {
            self.evictable.remove(&block.returned);
        }
        self.recount(id, had_sequences, had_pins);
    }

    fn release(&mut self, id: BlockId, holder: Holder) {
        let block = &mut self.blocks[id.0 as usize];
        let (had_sequences, had_pins) = (block.num_sequences > 0, block.num_pins > 0);
        match holder {
            Holder::Sequence => block.num_sequences -= 1,
            Holder::Pin => block.num_pins -= 1,
        }
        if block.num_sequences == 0 && block.num_pins == 0 {
            if block.hash.is_some() {
                self.num_returns += 1;
                block.returned = self.num_returns;
                self.evictable.insert(block.returned, id);
            } else {
                self.empty.push(id);
            }
        }
        self.recount(id, had_sequences, had_pins);
    }

    /// Brings the sums up to date after a block's holders have changed.
    fn recount(&mut self, id: BlockId, had_sequences: bool, had_pins: bool) {
        let block = &self.blocks[id.0 as usize];
        let (has_sequences, has_pins) = (block.num_sequences > 0, block.num_pins > 0);
        self.num_used += usize::from(has_sequences);
        self.num_used -= usize::from(had_sequences);
        self.num_pinned += usize::from(!has_sequences && has_pins);
        self.num_pinned -= usize::from(!had_sequences && had_pins);
    }
}

impl Block {
    pub(super) fn id(&self) -> BlockId {
        self.id
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.lock().release(self.id, self.holder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kv_cache::hash::HashChain, request::TokenId, runner::BLOCK_TOKENS};

    fn hashes(count: usize) -> Vec<BlockHash> {
        let tokens: Vec<TokenId> = (0..(count * BLOCK_TOKENS) as u32).map(TokenId).collect();
        HashChain::new(None).of(&tokens, count).to_vec()
    }

    fn counts(pool: &BlockPool) -> [usize; 4] {
        let counts = pool.counts();
        [counts.used, counts.pinned, counts.cached, counts.empty]
    }

    #[test]
    fn what_was_given_back_first_is_given_up_first_and_only_for_want_of_empty_blocks() {
        let pool = BlockPool::new(4);
        let hashes = hashes(3);
        let mut blocks = pool.take(3);
        for (block, hash) in blocks.iter().zip(&hashes) {
            pool.name(block, *hash);
        }
        // Given back in the order 2, 0, 1.
        drop(blocks.remove(2));
        drop(blocks);
        assert_eq!(counts(&pool), [0, 0, 3, 1]);
        let one = pool.take(1);
        assert!(hashes.iter().all(|hash| pool.knows(hash)));
        let two = pool.take(1);
        assert!(!pool.knows(&hashes[2]));
        // Use makes young again.
        drop(pool.share(&hashes[0], Holder::Sequence));
        let three = pool.take(1);
        assert!(pool.knows(&hashes[0]) && !pool.knows(&hashes[1]));
        assert_eq!(pool.take(9).len(), 1);
        drop((one, two, three));
        assert_eq!(counts(&pool), [0, 0, 0, 4]);
    }

    #[test]
    fn a_shared_block_returns_with_its_last_holder_and_a_pin_keeps_it() {
        let pool = BlockPool::new(2);
        let hash = hashes(1)[0];
        let block = pool.take(1).remove(0);
        pool.name(&block, hash);
        let other = pool.share(&hash, Holder::Sequence).unwrap();
        assert_eq!(other.id(), block.id());
        let pin = pool.share(&hash, Holder::Pin).unwrap();
        assert_eq!(counts(&pool), [1, 0, 0, 1]);
        drop((block, other));
        assert_eq!(counts(&pool), [0, 1, 0, 1]);
        assert_eq!(pool.take(2).len(), 1);
        drop(pin);
        assert_eq!(counts(&pool), [0, 0, 1, 1]);
    }

    #[test]
    fn a_content_has_one_name_and_a_block_at_most_one() {
        let pool = BlockPool::new(2);
        let hashes = hashes(2);
        let blocks = pool.take(2);
        pool.name(&blocks[0], hashes[0]);
        pool.name(&blocks[1], hashes[0]);
        pool.name(&blocks[0], hashes[1]);
        assert!(!pool.knows(&hashes[1]));
        drop(blocks);
        assert_eq!(counts(&pool), [0, 0, 1, 1]);
    }
}
