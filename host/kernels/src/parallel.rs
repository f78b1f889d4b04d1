//! Splitting work over the threads of the current rayon pool.

use std::ops::Range;

/// Less work than this is not worth waking a thread for.
const GRAIN_NS: usize = 20_000;

/// Pieces per thread of large work, for threads that are not equally fast.
const PIECES_PER_THREAD: usize = 4;

/// Calls `f` with disjoint ranges that together are `0..count`, each in some thread of the
/// current pool. `item_ns`: about what one item takes. Small work stays in this thread.
pub(crate) fn for_ranges(count: usize, item_ns: usize, f: impl Fn(Range<usize>) + Sync) {
    if count == 0 {
        return;
    }
    let threads = rayon::current_num_threads();
    let pieces = (count.saturating_mul(item_ns) / GRAIN_NS).min(count);
    let pieces = pieces.min(threads * PIECES_PER_THREAD);
    if threads == 1 || pieces <= 1 {
        return f(0..count);
    }
    split(0..pieces, &|piece: usize| {
        f(count * piece / pieces..count * (piece + 1) / pieces);
    });
}

fn split(pieces: Range<usize>, f: &(impl Fn(usize) + Sync)) {
    if pieces.len() == 1 {
        return f(pieces.start);
    }
    let middle = pieces.start + pieces.len() / 2;
    rayon::join(
        || split(pieces.start..middle, f),
        || split(middle..pieces.end, f),
    );
}
