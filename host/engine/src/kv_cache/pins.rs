//! Prefixes of templates, kept although nobody computes with them: the next request of the
//! route begins with them. Keyed by content, so that a template that stays the same keeps its
//! prefix over any change of plugins. At most a quarter of either pool, and never in the way
//! of a sequence that could not run otherwise.

use super::{
    KvCache,
    hash::BlockHash,
    pool::{Block, BlockPool, Holder},
};

/// The part of each pool that pins may keep.
const MOST_PINNED: usize = 4;

/// What is pinned, the least recently used first.
#[derive(Debug, Default)]
pub(super) struct Pins(Vec<Pin>);

#[derive(Debug)]
struct Pin {
    /// Of the prefix's last block, and so of all of it.
    hash: BlockHash,
    full: Vec<Block>,
    windowed: Vec<Block>,
}

impl KvCache {
    /// Keeps the prefix whose blocks have `hashes`: all of the full group, and of the windowed
    /// one what a query behind the prefix sees. The least recently used prefixes make room; one
    /// that is too large for its share, or not all there, is not pinned.
    pub(crate) fn pin(&mut self, hashes: &[BlockHash]) {
        let Some(&hash) = hashes.last() else {
            return;
        };
        if let Some(index) = self.pins.0.iter().position(|pin| pin.hash == hash) {
            let pin = self.pins.0.remove(index);
            self.pins.0.push(pin);
            return;
        }
        let first_windowed = self.first_visible_block(hashes.len());
        let Some(pin) = (|| {
            Some(Pin {
                hash,
                full: share_all(self.full.as_ref(), hashes)?,
                windowed: share_all(
                    self.windowed.as_ref().map(|group| &group.pool),
                    &hashes[first_windowed..],
                )?,
            })
        })() else {
            return;
        };
        let share =
            |pool: Option<&BlockPool>| pool.map_or(0, |pool| pool.num_blocks() / MOST_PINNED);
        let most_full = share(self.full.as_ref());
        let most_windowed = share(self.windowed.as_ref().map(|group| &group.pool));
        let (mut num_full, mut num_windowed) = (pin.full.len(), pin.windowed.len());
        if num_full > most_full || num_windowed > most_windowed {
            return;
        }
        // From the most recently used back: what does not fit with those after it goes.
        let fits = |old: &Pin| {
            num_full += old.full.len();
            num_windowed += old.windowed.len();
            num_full <= most_full && num_windowed <= most_windowed
        };
        let num_kept = self
            .pins
            .0
            .iter()
            .rev()
            .map(fits)
            .take_while(|fits| *fits)
            .count();
        self.pins.0.drain(..self.pins.0.len() - num_kept);
        self.pins.0.push(pin);
    }

    /// Gives up the least recently used prefix. False if there is none.
    pub(crate) fn unpin_oldest(&mut self) -> bool {
        let has_pins = !self.pins.0.is_empty();
        if has_pins {
            self.pins.0.remove(0);
        }
        has_pins
    }

    /// Prefixes that are pinned.
    #[cfg(test)]
    pub(crate) fn num_pins(&self) -> usize {
        self.pins.0.len()
    }
}

/// A pin of every block of `hashes`; nothing of a group that is not there. `None` if one has
/// been given up meanwhile.
fn share_all(pool: Option<&BlockPool>, hashes: &[BlockHash]) -> Option<Vec<Block>> {
    let Some(pool) = pool else {
        return Some(Vec::new());
    };
    hashes
        .iter()
        .map(|hash| pool.share(hash, Holder::Pin))
        .collect()
}
