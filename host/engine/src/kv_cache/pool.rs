//! The free list of one group. A [`Block`] cannot be forgotten: dropping it frees it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::runner::BlockId;

/// All blocks of one group.
#[derive(Debug)]
pub(super) struct BlockPool {
    free: FreeList,
    num_blocks: usize,
}

/// A block and the right to use it. Not `Clone`, so it has one holder.
#[derive(Debug)]
pub(super) struct Block {
    id: BlockId,
    free: FreeList,
}

/// Only the engine thread takes and frees, so nobody ever waits for the lock; it is there
/// because sequences are read by several threads while their tokens are drawn.
#[derive(Debug, Clone)]
struct FreeList(Arc<Mutex<Vec<BlockId>>>);

impl FreeList {
    fn lock(&self) -> MutexGuard<'_, Vec<BlockId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockPool {
    pub(super) fn new(num_blocks: u32) -> Self {
        // Reversed, so that low numbers go out first: easier to read in a log.
        let free = (0..num_blocks).rev().map(BlockId).collect();
        Self {
            free: FreeList(Arc::new(Mutex::new(free))),
            num_blocks: num_blocks as usize,
        }
    }

    pub(super) fn num_free(&self) -> usize {
        self.free.lock().len()
    }

    pub(super) fn num_used(&self) -> usize {
        self.num_blocks - self.num_free()
    }

    /// Takes `count` blocks, or as many as are free.
    pub(super) fn take(&self, count: usize) -> Vec<Block> {
        let mut free = self.free.lock();
        let rest = free.len().saturating_sub(count);
        free.drain(rest..)
            .rev()
            .map(|id| Block {
                id,
                free: self.free.clone(),
            })
            .collect()
    }
}

impl Block {
    pub(super) fn id(&self) -> BlockId {
        self.id
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.free.lock().push(self.id);
    }
}
