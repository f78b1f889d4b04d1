//! Splitting work over the threads of the current rayon pool.
//!
//! How work is split never changes a result: each item is computed whole, by one thread.

use std::ops::Range;

/// Less work than this is not worth waking a thread for.
const GRAIN_NS: usize = 20_000;

/// Pieces per thread of large work, for threads that are not equally fast.
const PIECES_PER_THREAD: usize = 4;

/// Into how many pieces to split `count` items of about `item_ns` each.
fn pieces(count: usize, item_ns: usize) -> usize {
    let worthwhile = (count.saturating_mul(item_ns) / GRAIN_NS).min(count);
    if worthwhile <= 1 {
        return 1;
    }
    let threads = rayon::current_num_threads();
    if threads == 1 {
        1
    } else {
        worthwhile.min(threads * PIECES_PER_THREAD)
    }
}

/// Calls `f` with disjoint ranges that together are `0..count`, each in some thread of the
/// current pool. `item_ns`: about what one item takes. Small work stays in this thread.
pub(crate) fn for_ranges(count: usize, item_ns: usize, f: impl Fn(Range<usize>) + Sync) {
    if count > 0 {
        split_range(0..count, pieces(count, item_ns), &f);
    }
}

fn split_range(range: Range<usize>, pieces: usize, f: &(impl Fn(Range<usize>) + Sync)) {
    if pieces == 1 {
        return f(range);
    }
    let left = pieces / 2;
    let middle = range.start + range.len() * left / pieces;
    rayon::join(
        || split_range(range.start..middle, left, f),
        || split_range(middle..range.end, pieces - left, f),
    );
}

/// Calls `f` with disjoint parts of `data`, which together are all of it, and the index of
/// each part's first item. An item is `item_len` elements and takes about `item_ns`.
pub(crate) fn for_parts<T: Send>(
    data: &mut [T],
    item_len: usize,
    item_ns: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    let count = data.len().div_ceil(item_len);
    if count > 0 {
        split_parts(data, 0, item_len, pieces(count, item_ns), &f);
    }
}

fn split_parts<T: Send>(
    data: &mut [T],
    first: usize,
    item_len: usize,
    pieces: usize,
    f: &(impl Fn(usize, &mut [T]) + Sync),
) {
    if pieces == 1 {
        return f(first, data);
    }
    let left = pieces / 2;
    let items = data.len().div_ceil(item_len) * left / pieces;
    let (before, after) = data.split_at_mut(items * item_len);
    rayon::join(
        || split_parts(before, first, item_len, left, f),
        || split_parts(after, first + items, item_len, pieces - left, f),
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::test_support::in_pool;

    #[test]
    fn ranges_cover_everything_once() {
        for (count, item_ns) in [
            (0, 1),
            (1, 1 << 30),
            (7, 1 << 30),
            (1000, 100),
            (1000, 50_000),
        ] {
            for threads in [1, 2, 3] {
                let seen = Mutex::new(vec![0; count]);
                in_pool(threads, || {
                    for_ranges(count, item_ns, |range| {
                        range.for_each(|i| seen.lock().unwrap()[i] += 1);
                    });
                });
                assert_eq!(seen.into_inner().unwrap(), vec![1; count]);
            }
        }
    }

    #[test]
    fn parts_know_where_they_begin() {
        for threads in [1, 2, 3] {
            let mut data: Vec<usize> = vec![0; 1003];
            in_pool(threads, || {
                for_parts(&mut data, 10, 10_000, |first, part| {
                    for (i, value) in part.iter_mut().enumerate() {
                        *value += first * 10 + i;
                    }
                });
            });
            assert_eq!(data, (0..1003).collect::<Vec<_>>());
        }
    }

    #[test]
    fn small_work_stays_in_its_thread() {
        in_pool(4, || {
            let here = std::thread::current().id();
            for_ranges(1000, 10, |range| {
                assert_eq!(range, 0..1000);
                assert_eq!(std::thread::current().id(), here);
            });
        });
    }
}
