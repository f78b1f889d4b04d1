//! Scans over a row of logits or weights, written so that compilers make vector instructions of
//! them. All arithmetic is the same on every machine: a seed draws the same tokens everywhere.

use std::ops::RangeInclusive;

use super::{Candidate, filter::Cut};

/// Entries that a scan looks at together.
pub(super) const LANES: usize = 16;

/// Entries whose weights are added up before any is looked at alone.
const BLOCK: usize = 1024;

/// Turns logits into weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weigher {
    greatest: f32,
    temperature: f32,
}

impl Weigher {
    /// `greatest` is the greatest logit of the row, `temperature` above 0.
    pub(super) fn new(greatest: f32, temperature: f32) -> Self {
        Self {
            greatest,
            temperature,
        }
    }

    /// The probability of `logit` relative to that of the greatest; 0 for NaN.
    #[inline]
    pub(super) fn weight(self, logit: f32) -> f32 {
        // The difference first: the division may overflow for temperatures near 0.
        exp((logit - self.greatest) / self.temperature)
    }

    /// Makes weights of all logits.
    pub(super) fn weigh(self, logits: &mut [f32]) {
        gapura_kernels::exp_weights(logits, self.greatest, self.temperature);
    }
}

/// `e^x` for `x` up to 0, within 2 units in the last place; 0 below -87 and for NaN.
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, of which the first has few bits: its products are exact.
    const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let rest = x - power * LN2.0 - power * LN2.1;
    let mut sum = 1.987_569_1e-4_f32;
    for coefficient in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        sum = sum * rest + coefficient;
    }
    let fraction = sum * rest * rest + rest + 1.0;
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits());
    let scale = f32::from_bits(exponent.wrapping_add(127) << 23);
    if x >= -87.0 { fraction * scale } else { 0.0 }
}

/// The greatest logit and its id, the lowest of several. NaN is never the greatest.
pub(super) fn argmax(logits: &[f32]) -> Option<(u32, f32)> {
    let greatest = gapura_kernels::greatest(logits);
    let holds = |group: &[f32]| {
        group
            .iter()
            .fold(false, |found, l| found | (*l == greatest))
    };
    let group = logits.chunks(LANES).position(holds)? * LANES;
    let offset = logits[group..].iter().position(|l| *l == greatest)?;
    greatest
        .is_finite()
        .then_some(((group + offset) as u32, greatest))
}

/// The candidates of certain weights, in the order of ids.
pub(super) fn within(weights: &[f32], range: RangeInclusive<f32>) -> Vec<Candidate> {
    let (least, most) = range.into_inner();
    let is_within = |weight: f32| (weight >= least) & (weight <= most);
    let mut kept = Vec::new();
    for (first, group) in (0_u32..).step_by(LANES).zip(weights.chunks(LANES)) {
        if !group
            .iter()
            .fold(false, |found, weight| found | is_within(*weight))
        {
            continue;
        }
        for (id, &weight) in (first..).zip(group) {
            if is_within(weight) {
                kept.push(Candidate { id, weight });
            }
        }
    }
    kept
}

/// Bits of a weight that buckets do not tell apart: each is an eighth of an octave.
const BUCKET_BITS: u32 = 20;

/// Buckets of the weights from 1 down to 0.
const NUM_BUCKETS: usize = (ONE >> BUCKET_BITS) as usize + 1;

const ONE: u32 = 1.0_f32.to_bits();

/// How much of the weight lies where, by weight.
pub(super) struct Masses {
    /// The heaviest weights first.
    buckets: Vec<f64>,
}

/// A bucket.
#[derive(Debug, PartialEq)]
pub(super) struct Edge {
    /// The weights in it.
    pub(super) weights: RangeInclusive<f32>,
    /// What all heavier ones add up to.
    pub(super) heavier: f64,
}

impl Masses {
    /// Of `weights`, each in [0, 1]; of groups that are all below `negligible` nothing.
    pub(super) fn of(weights: &[f32], negligible: f32) -> Self {
        // Neighbours often fall into the same bucket: in four rows, no sum waits for the last.
        let mut rows = vec![[0.0_f64; 4]; NUM_BUCKETS];
        for group in weights.chunks(LANES) {
            let is_heavy = |weight: f32| weight >= negligible;
            if !group
                .iter()
                .fold(false, |found, weight| found | is_heavy(*weight))
            {
                continue;
            }
            for (index, weight) in group.iter().enumerate() {
                rows[bucket(*weight)][index % 4] += f64::from(*weight);
            }
        }
        Self {
            buckets: rows.iter().map(|rows| rows.iter().sum()).collect(),
        }
    }

    /// The bucket in which the sum of the heaviest reaches `mass`, or the last with anything in
    /// it; `None` if there is nothing at all.
    pub(super) fn reaching(&self, mass: f64) -> Option<Edge> {
        let mut edge = None;
        let mut heavier = 0.0;
        for (index, &bucket) in self.buckets.iter().enumerate() {
            if bucket > 0.0 {
                edge = Some((index, heavier));
                heavier += bucket;
            }
            if heavier >= mass && edge.is_some() {
                break;
            }
        }
        edge.map(|(index, heavier)| Edge {
            weights: bucket_weights(index),
            heavier,
        })
    }
}

/// Positive floats are in the order of their bits.
#[inline]
fn bucket(weight: f32) -> usize {
    (ONE.saturating_sub(weight.to_bits()) >> BUCKET_BITS) as usize
}

fn bucket_weights(index: usize) -> RangeInclusive<f32> {
    let most = ONE - ((index as u32) << BUCKET_BITS);
    let least = (most + 1).saturating_sub(1 << BUCKET_BITS);
    f32::from_bits(least)..=f32::from_bits(most)
}

/// The sum of `weight` over all logits.
pub(super) fn total(logits: &[f32], weight: impl Fn(f32) -> f32 + Copy) -> f64 {
    let blocks = logits.chunks(BLOCK);
    blocks
        .map(|block| block_total(block, |_, logit| weight(logit)))
        .sum()
}

fn block_total(block: &[f32], weight: impl Fn(u32, f32) -> f32) -> f64 {
    let (chunks, rest) = block.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    let mut first = 0;
    for chunk in chunks {
        for (offset, (lane, entry)) in (0..).zip(lanes.iter_mut().zip(chunk)) {
            *lane += weight(first + offset, *entry);
        }
        first += LANES as u32;
    }
    let rest = (first..).zip(rest).map(|(id, entry)| weight(id, *entry));
    lanes.into_iter().chain(rest).map(f64::from).sum()
}

/// Of the entries that `cut` keeps the one in whose share of the weight `uniform`, in [0, 1),
/// falls; `None` if it keeps none.
pub(super) fn draw(weights: &[f32], cut: Cut, uniform: f64) -> Option<u32> {
    let kept = |id, weight| if cut.keeps(id, weight) { weight } else { 0.0 };
    let blocks = || (0_u32..).step_by(BLOCK).zip(weights.chunks(BLOCK));
    let totals: Vec<f64> = blocks()
        .map(|(first, block)| block_total(block, |id, weight| kept(first + id, weight)))
        .collect();
    let mut left = uniform * totals.iter().sum::<f64>();
    let mut last = None;
    for ((first, block), total) in blocks().zip(totals) {
        if left >= total {
            left -= total;
            continue;
        }
        for (id, weight) in (first..).zip(block) {
            let weight = f64::from(kept(id, *weight));
            if weight > 0.0 {
                left -= weight;
                last = Some(id);
            }
            if left < 0.0 {
                return last;
            }
        }
        // Rounding only: added up one by one, the block weighs a little less.
        return last;
    }
    // Rounding again: the heaviest is as good as the last.
    last.or_else(|| argmax(weights).map(|(id, _)| id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_that_of_float64() {
        for step in 0..=870_000_u32 {
            let x = -(step as f32) / 10_000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "{x}: {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        for x in [-87.1, -1e30, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(exp(x), 0.0, "{x}");
        }
    }

    #[test]
    fn scans_see_every_entry_of_odd_lengths() {
        for len in [1_u32, 15, 16, 17, 1023, 1024, 1025, 3000] {
            for at in [0, len / 2, len - 1] {
                let mut row = vec![0.0; len as usize];
                row[at as usize] = 1.0;
                assert_eq!(argmax(&row), Some((at, 1.0)));
                let heavy = within(&row, 0.5..=1.0);
                let candidate = Candidate {
                    id: at,
                    weight: 1.0,
                };
                assert_eq!(heavy, [candidate]);
                assert_eq!(total(&row, |weight| weight), 1.0);
                for uniform in [0.0, 0.5, 1.0 - f64::EPSILON] {
                    assert_eq!(draw(&row, Cut::NONE, uniform), Some(at));
                }
            }
        }
        assert_eq!(argmax(&[]), None);
    }

    #[test]
    fn buckets_hold_each_weight_once() {
        for index in 0..NUM_BUCKETS {
            let (least, most) = bucket_weights(index).into_inner();
            assert_eq!((bucket(least), bucket(most)), (index, index));
            if index > 0 {
                assert_eq!(bucket(most.next_up()), index - 1);
            }
        }
        assert_eq!(bucket_weights(NUM_BUCKETS - 1), 0.0..=0.0);
    }

    #[test]
    fn masses_tell_where_a_sum_is_reached() {
        let masses = Masses::of(&[0.25, 0.0, 1.0, 0.5, 0.25, 0.25], 0.0);
        for (mass, heavier, weight) in [
            (0.0, 0.0, 1.0),
            (1.0, 0.0, 1.0),
            (1.2, 1.0, 0.5),
            (1.6, 1.5, 0.25),
            (9.0, 1.5, 0.25),
        ] {
            let edge = masses.reaching(mass).unwrap();
            assert_eq!(edge.heavier, heavier, "{mass}");
            assert!(edge.weights.contains(&weight), "{mass}");
        }
        assert_eq!(Masses::of(&[0.0; 3], 0.0).reaching(0.5), None);
    }
}
