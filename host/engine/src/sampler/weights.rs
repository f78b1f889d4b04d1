//! Scans over a row of logits, written so that compilers make vector instructions of them. All
//! arithmetic is the same on every machine: a seed draws the same tokens everywhere.

use super::Candidate;

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
    let greatest = greatest(logits);
    let id = logits.iter().position(|logit| *logit == greatest)?;
    greatest.is_finite().then_some((id as u32, greatest))
}

/// -∞ if nothing is greater.
pub(super) fn greatest(logits: &[f32]) -> f32 {
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = if *logit > *lane { *logit } else { *lane };
        }
    }
    let of = |greatest: f32, logit: &f32| if *logit > greatest { *logit } else { greatest };
    rest.iter()
        .fold(lanes.iter().fold(f32::NEG_INFINITY, of), of)
}

/// The candidates of at least `least` weight, and of some weight at all.
pub(super) fn all(
    logits: &[f32],
    weight: impl Fn(f32) -> f32 + Copy,
    least: f32,
) -> Vec<Candidate> {
    let least = least.max(f32::MIN_POSITIVE);
    let mut kept = Vec::new();
    for (first, group) in (0_u32..).step_by(LANES).zip(logits.chunks(LANES)) {
        let heavy = group
            .iter()
            .fold(false, |found, logit| found | (weight(*logit) >= least));
        if !heavy {
            continue;
        }
        for (id, logit) in (first..).zip(group) {
            let weight = weight(*logit);
            if weight >= least {
                kept.push(Candidate { id, weight });
            }
        }
    }
    kept
}

/// The sum of all weights.
pub(super) fn total(logits: &[f32], weight: impl Fn(f32) -> f32 + Copy) -> f64 {
    logits
        .chunks(BLOCK)
        .map(|block| block_total(block, weight))
        .sum()
}

fn block_total(block: &[f32], weight: impl Fn(f32) -> f32) -> f64 {
    let (chunks, rest) = block.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane += weight(*logit);
        }
    }
    let rest = rest.iter().map(|logit| weight(*logit));
    lanes.into_iter().chain(rest).map(f64::from).sum()
}

/// The entry in whose share of the total weight `uniform`, in [0, 1), falls.
pub(super) fn draw(
    logits: &[f32],
    weight: impl Fn(f32) -> f32 + Copy,
    uniform: f64,
) -> Option<u32> {
    let blocks: Vec<f64> = logits
        .chunks(BLOCK)
        .map(|block| block_total(block, weight))
        .collect();
    let mut left = uniform * blocks.iter().sum::<f64>();
    let mut last = None;
    for ((first, block), total) in (0_u32..)
        .step_by(BLOCK)
        .zip(logits.chunks(BLOCK))
        .zip(blocks)
    {
        if left >= total {
            left -= total;
            continue;
        }
        for (id, logit) in (first..).zip(block) {
            let weight = f64::from(weight(*logit));
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
    last.or_else(|| argmax(logits).map(|(id, _)| id))
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
                let heavy = all(&row, |weight| weight, 0.5);
                assert_eq!(
                    heavy,
                    [Candidate {
                        id: at,
                        weight: 1.0
                    }]
                );
                assert_eq!(total(&row, |weight| weight), 1.0);
                for uniform in [0.0, 0.5, 1.0 - f64::EPSILON] {
                    assert_eq!(draw(&row, |weight| weight, uniform), Some(at));
                }
            }
        }
        assert_eq!(argmax(&[]), None);
    }
}
