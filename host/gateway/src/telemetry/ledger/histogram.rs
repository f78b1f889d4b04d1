//! How long things take, counted in buckets that grow with the time: eight to each doubling, so
//! that a quantile is right within a sixteenth of itself. Recording takes two additions and no
//! lock.

use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Shorter times count as this: 2^7 nanoseconds.
const FIRST_OCTAVE: u32 = 7;
/// Longer times count as the last below 2^37 nanoseconds, two minutes.
const END_OCTAVE: u32 = 37;
/// 2^3 buckets to an octave.
const SUB_BITS: u32 = 3;
const NUM_BUCKETS: usize = ((END_OCTAVE - FIRST_OCTAVE) as usize) << SUB_BITS;

/// A histogram that is being filled.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; NUM_BUCKETS],
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; NUM_BUCKETS],
            sum_ns: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts one time, in nanoseconds.
    pub(crate) fn record(&self, ns: u64) {
        self.buckets[bucket(ns)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// What was counted so far. What is counted meanwhile may be missing.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let count = |bucket: &AtomicU64| bucket.load(Ordering::Relaxed);
        Snapshot {
            buckets: self.buckets.iter().map(count).collect(),
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
        }
    }
}

/// A histogram at a moment, or the difference of two moments: what a window of time has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Empty, or one count for each bucket.
    buckets: Vec<u64>,
    sum_ns: u64,
}

impl Snapshot {
    /// Times that were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// The time that the share `q` of them, in [0, 1], does not exceed; right within 6.3 % for
    /// times of 128 ns to two minutes. `None` where there are none.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let rank = (q.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0);
        let mut seen = 0;
        let place = self.buckets.iter().position(|count| {
            seen += count;
            seen as f64 >= rank
        })?;
        let (start, end) = (bucket_start(place), bucket_start(place + 1));
        Some(Duration::from_nanos(start.midpoint(end)))
    }

    /// Those below 2^`octave` nanoseconds, of the octaves between the first and the last.
    pub(super) fn below_octave(&self, octave: u32) -> u64 {
        let octaves = octave.saturating_sub(FIRST_OCTAVE) as usize;
        self.buckets.iter().take(octaves << SUB_BITS).sum()
    }

    fn zip(self, other: &Self, of_two: impl Fn(u64, u64) -> u64) -> Self {
        let count = |of: &Self, place: usize| of.buckets.get(place).copied().unwrap_or(0);
        let len = self.buckets.len().max(other.buckets.len());
        let of_place = |place| of_two(count(&self, place), count(other, place));
        Self {
            buckets: (0..len).map(of_place).collect(),
            sum_ns: of_two(self.sum_ns, other.sum_ns),
        }
    }
}

impl Add for Snapshot {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.zip(&other, u64::saturating_add)
    }
}

/// What came between `earlier` and `self`.
impl Sub for Snapshot {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        self.zip(&earlier, u64::saturating_sub)
    }
}

fn bucket(ns: u64) -> usize {
    let ns = ns.clamp(1 << FIRST_OCTAVE, (1 << END_OCTAVE) - 1);
    let octave = ns.ilog2();
    let sub = (ns >> (octave - SUB_BITS)) as usize & ((1 << SUB_BITS) - 1);
    (((octave - FIRST_OCTAVE) as usize) << SUB_BITS) + sub
}

/// The shortest time of a bucket, in nanoseconds.
fn bucket_start(place: usize) -> u64 {
    let octave = u32::try_from(place >> SUB_BITS).unwrap_or(u32::MAX) + FIRST_OCTAVE;
    let sub = (place as u64) & ((1 << SUB_BITS) - 1);
    ((1 << SUB_BITS) + sub) << (octave - SUB_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_falls_into_the_bucket_that_holds_it() {
        for ns in (7..36).flat_map(|bit| [1_u64 << bit, (1 << bit) + 1, (1 << (bit + 1)) - 1]) {
            let place = bucket(ns);
            assert!(
                bucket_start(place) <= ns && ns < bucket_start(place + 1),
                "{ns}"
            );
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), NUM_BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_right_within_a_sixteenth() {
        let histogram = Histogram::default();
        assert_eq!(histogram.snapshot().quantile(0.5), None);
        // 1 to 10,000 µs, once each.
        for us in 1..=10_000 {
            histogram.record(us * 1000);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 10_000);
        assert_eq!(snapshot.sum(), Duration::from_micros(50_005_000));
        for (q, us) in [
            (0.0, 1.0),
            (0.5, 5000.0),
            (0.9, 9000.0),
            (0.99, 9900.0),
            (1.0, 10_000.0),
        ] {
            let found = snapshot.quantile(q).unwrap().as_secs_f64() * 1e6;
            assert!(
                (found / us - 1.0).abs() <= 1.0 / 16.0,
                "{q}: {found} for {us}"
            );
        }
    }

    #[test]
    fn a_difference_is_what_came_between() {
        let histogram = Histogram::default();
        for _ in 0..1000 {
            histogram.record(10_000_000);
        }
        let before = histogram.snapshot();
        histogram.record(20_000);
        let window = histogram.snapshot() - before;
        assert_eq!(
            (window.count(), window.sum()),
            (1, Duration::from_micros(20))
        );
        let p99 = window.quantile(0.99).unwrap();
        assert!((18..23).contains(&p99.as_micros()), "{p99:?}");
        let both = window.clone() + Snapshot::default();
        assert_eq!(both, window);
        assert_eq!(
            (Snapshot::default() - window).count(),
            0,
            "never below nothing"
        );
    }

    #[test]
    fn counts_below_an_octave_are_exact() {
        let histogram = Histogram::default();
        for ns in [1023, 1024, 1025, 4095, 4096] {
            histogram.record(ns);
        }
        let snapshot = histogram.snapshot();
        let below = |octave| snapshot.below_octave(octave);
        assert_eq!((below(10), below(12), below(13)), (1, 4, 5));
    }
}
