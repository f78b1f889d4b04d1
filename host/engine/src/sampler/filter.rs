//! Top-k, then top-p of what top-k left, then min-p: each keeps the heaviest candidates, the
//! lower id first among equals, and none of them sorts. What top-k leaves is few and is listed;
//! of a whole vocabulary the others may leave nearly everything, so there they only say where
//! the cut is.

use std::cmp::Ordering;

use super::{
    Candidate,
    weights::{self, LANES, Masses, Weigher},
};
use crate::request::SamplingParams;

/// The candidates heavier than some, the last of which is of weight `least` and id `last_id`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cut {
    least: f32,
    last_id: u32,
}

impl Cut {
    /// Keeps what has any weight.
    pub(super) const NONE: Self = Self {
        least: f32::MIN_POSITIVE,
        last_id: u32::MAX,
    };

    #[inline]
    pub(super) fn keeps(self, id: u32, weight: f32) -> bool {
        (weight > self.least) | ((weight == self.least) & (id <= self.last_id))
    }
}

/// The candidates that survive all filters, of which top-k is one, by a scan of the logits; the
/// most likely one is always among them.
pub(super) fn listed(logits: &[f32], weigher: Weigher, params: &SamplingParams) -> Vec<Candidate> {
    let heaviest = heaviest(logits, params.top_k as usize).into_iter();
    let candidate = |(id, logit)| Candidate {
        id,
        weight: weigher.weight(logit),
    };
    let mut kept: Vec<Candidate> = heaviest
        .map(candidate)
        .filter(|candidate| Cut::NONE.keeps(candidate.id, candidate.weight))
        .collect();
    if params.top_p < 1.0 {
        let mass = f64::from(params.top_p) * sum(&kept);
        let count = nucleus(&mut kept, mass);
        kept.truncate(count);
    }
    // The heaviest weight is 1.
    kept.retain(|candidate| candidate.weight >= params.min_p);
    kept
}

/// Where top-p and min-p cut a whole vocabulary.
pub(super) fn cut(weights: &[f32], params: &SamplingParams) -> Cut {
    let mut cut = Cut::NONE;
    if params.top_p < 1.0 {
        cut = nucleus_cut(weights, params.top_p);
    }
    if params.min_p > cut.least {
        cut = Cut {
            least: params.min_p,
            last_id: u32::MAX,
        };
    }
    cut
}

/// Masses by weight tell about where the nucleus ends; only what lies there is compared.
fn nucleus_cut(weights: &[f32], top_p: f32) -> Cut {
    let total = weights::total(weights, |weight| weight);
    let mass = f64::from(top_p) * total;
    // Tokens lighter than this weigh, all together, less than top-p leaves out; a little less,
    // for rounding.
    let negligible = (total - mass) / weights.len() as f64 * (1.0 - 1e-6);
    let masses = Masses::of(weights, negligible as f32);
    let Some(edge) = masses.reaching(mass) else {
        return Cut::NONE;
    };
    let mut candidates = weights::within(weights, edge.weights);
    let count = nucleus(&mut candidates, mass - edge.heavier);
    let last = candidates[..count]
        .iter()
        .max_by(|a, b| heavier_first(a, b));
    last.map_or(Cut::NONE, |last| Cut {
        least: last.weight,
        last_id: last.id,
    })
}

/// The `count` greatest, the lower id first among equals. One scan: what is below the least of
/// those kept so far is dropped at once, which is the fate of nearly all.
pub(super) fn heaviest(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut kept: Vec<(u32, f32)> = Vec::with_capacity(2 * count.min(logits.len()));
    let mut least = f32::NEG_INFINITY;
    for (first, group) in (0_u32..).step_by(LANES).zip(logits.chunks(LANES)) {
        // Of equals the earlier, with the lower id, stays.
        if !group
            .iter()
            .fold(false, |found, logit| found | (*logit > least))
        {
            continue;
        }
        for (id, &logit) in (first..).zip(group) {
            if logit > least {
                kept.push((id, logit));
            }
        }
        if kept.len() >= 2 * count {
            least = cut_to(&mut kept, count);
        }
    }
    if kept.len() > count {
        cut_to(&mut kept, count);
    }
    kept
}

/// Keeps the `count` greatest of more than `count`; returns the least kept.
fn cut_to(kept: &mut Vec<(u32, f32)>, count: usize) -> f32 {
    let greater_first = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let (_, least, _) = kept.select_nth_unstable_by(count - 1, greater_first);
    let least = least.1;
    kept.truncate(count);
    least
}

/// Moves the fewest heaviest candidates that reach `mass` to the front and returns their
/// number, at least 1 unless there is none. A quickselect by weight instead of by rank: linear
/// time.
fn nucleus(candidates: &mut [Candidate], mass: f64) -> usize {
    let mut reached = 0.0;
    let mut range = 0..candidates.len();
    while range.len() > 1 {
        let middle = range.len() / 2;
        let part = &mut candidates[range.clone()];
        part.select_nth_unstable_by(middle, heavier_first);
        let heavier = sum(&part[..middle]);
        if reached + heavier >= mass {
            range.end = range.start + middle;
        } else {
            reached += heavier;
            range.start += middle;
        }
    }
    range.end
}

fn sum(candidates: &[Candidate]) -> f64 {
    candidates
        .iter()
        .map(|candidate| f64::from(candidate.weight))
        .sum()
}

fn heavier_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The obvious way: sort everything, cut three times.
    fn by_sorting(weights: &[f32], params: &SamplingParams) -> Vec<u32> {
        let mut all: Vec<_> = (0_u32..)
            .zip(weights)
            .filter(|(_, weight)| **weight > 0.0)
            .map(|(id, &weight)| Candidate { id, weight })
            .collect();
        all.sort_by(heavier_first);
        if params.top_k > 0 {
            all.truncate(params.top_k as usize);
        }
        let mass = f64::from(params.top_p) * sum(&all);
        let mut reached = 0.0;
        let mut count = 0;
        while count < all.len() && (count == 0 || reached < mass) {
            reached += f64::from(all[count].weight);
            count += 1;
        }
        if params.top_p < 1.0 {
            all.truncate(count);
        }
        all.retain(|candidate| candidate.weight >= params.min_p);
        all.iter().map(|candidate| candidate.id).collect()
    }

    /// The logits that make `weights`, and the weights that they make: the same but for rounding.
    fn as_logits(weights: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let logits: Vec<f32> = weights.iter().map(|weight| weight.ln()).collect();
        let weigher = Weigher::new(0.0, 1.0);
        let weights = logits.iter().map(|logit| weigher.weight(*logit)).collect();
        (logits, weights)
    }

    /// Of weights, which top-k is given as the logits that make them.
    fn survivors(weights: &[f32], params: &SamplingParams) -> Vec<u32> {
        if params.top_k > 0 {
            let (logits, _) = as_logits(weights);
            let kept = listed(&logits, Weigher::new(0.0, 1.0), params);
            return kept.iter().map(|candidate| candidate.id).collect();
        }
        let cut = cut(weights, params);
        let ids = (0..).zip(weights);
        ids.filter(|(id, weight)| cut.keeps(*id, **weight))
            .map(|(id, _)| id)
            .collect()
    }

    proptest! {
        // Weights in 64ths, so that sums are exact and ties are frequent.
        #[test]
        fn the_same_survive_as_by_sorting(
            sixty_fourths in prop::collection::vec(0_u8..=64, 1..300),
            top_k in 0_u32..40,
            top_p in prop::sample::select(vec![0.0625_f32, 0.25, 0.5, 0.75, 0.9375, 1.0]),
            min_p in prop::sample::select(vec![0.0_f32, 0.125, 0.5, 1.0]),
        ) {
            let mut weights: Vec<f32> =
                sixty_fourths.iter().map(|&weight| f32::from(weight) / 64.0).collect();
            weights[0] = 1.0;
            let params = SamplingParams { top_k, top_p, min_p, ..SamplingParams::default() };
            let mut survivors = survivors(&weights, &params);
            // A list is cut where its own weights, rounding and all, reach the mass.
            let weights = if top_k > 0 { as_logits(&weights).1 } else { weights };
            let mut expected = by_sorting(&weights, &params);
            survivors.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(survivors, expected);
        }
    }

    #[test]
    fn the_most_likely_token_survives_the_narrowest_filters() {
        let weights = [0.5, 1.0, 0.9];
        for params in [
            SamplingParams {
                top_k: 1,
                ..SamplingParams::default()
            },
            SamplingParams {
                top_p: f32::MIN_POSITIVE,
                ..SamplingParams::default()
            },
            SamplingParams {
                min_p: 1.0,
                ..SamplingParams::default()
            },
        ] {
            assert_eq!(survivors(&weights, &params), [1]);
        }
    }

    #[test]
    fn of_equals_the_lower_ids_survive_top_k() {
        let params = SamplingParams {
            top_k: 2,
            ..SamplingParams::default()
        };
        let mut ids = survivors(&[1.0; 9], &params);
        ids.sort_unstable();
        assert_eq!(ids, [0, 1]);
    }
}
