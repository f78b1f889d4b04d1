//! Top-k, then top-p of what top-k left, then min-p: each keeps the heaviest candidates, the
//! lower id first among equals, and none of them sorts.

use std::cmp::Ordering;

use super::Candidate;
use crate::request::SamplingParams;

/// The candidates that survive all filters, the most likely one always among them; `None` if
/// there is none. `total` is the sum of `weights`.
pub(super) fn kept(
    weights: &[f32],
    mut total: f64,
    params: &SamplingParams,
) -> Option<Vec<Candidate>> {
    let top_k = match params.top_k as usize {
        0 => weights.len(),
        k => k,
    };
    let mut kept = if top_k < weights.len() {
        let kept = heaviest(weights, top_k);
        total = sum(&kept);
        kept
    } else {
        // Tokens lighter than this weigh, all together, less than top-p leaves out.
        let negligible = (1.0 - f64::from(params.top_p)) * total / weights.len() as f64;
        candidates(weights)
            .filter(|candidate| f64::from(candidate.weight) >= negligible)
            .collect()
    };
    if params.top_p < 1.0 {
        let count = nucleus(&mut kept, f64::from(params.top_p) * total);
        kept.truncate(count);
    }
    if params.min_p > 0.0 {
        // The heaviest weight is 1.
        kept.retain(|candidate| candidate.weight >= params.min_p);
    }
    (!kept.is_empty()).then_some(kept)
}

fn candidates(weights: &[f32]) -> impl Iterator<Item = Candidate> + '_ {
    (0_u32..)
        .zip(weights)
        .filter(|(_, weight)| **weight > 0.0)
        .map(|(id, &weight)| Candidate { id, weight })
}

/// The `count` heaviest. One scan: a candidate below the least of those kept so far is
/// dropped at once, which is the fate of nearly all.
fn heaviest(weights: &[f32], count: usize) -> Vec<Candidate> {
    let mut kept: Vec<Candidate> = Vec::with_capacity(2 * count);
    let mut least = 0.0;
    for candidate in candidates(weights) {
        // Of equals the earlier, with the lower id, stays.
        if kept.len() >= count && candidate.weight <= least {
            continue;
        }
        kept.push(candidate);
        if kept.len() == 2 * count {
            least = cut_to(&mut kept, count);
        }
    }
    if kept.len() > count {
        cut_to(&mut kept, count);
    }
    kept
}

/// Keeps the `count` heaviest of more than `count`; returns the least weight kept.
fn cut_to(kept: &mut Vec<Candidate>, count: usize) -> f32 {
    let (_, least, _) = kept.select_nth_unstable_by(count - 1, heavier_first);
    let least = least.weight;
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
        let mut all: Vec<_> = candidates(weights).collect();
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
            let total = weights.iter().map(|&weight| f64::from(weight)).sum();
            let params = SamplingParams { top_k, top_p, min_p, ..SamplingParams::default() };
            let mut survivors: Vec<u32> =
                kept(&weights, total, &params).unwrap().iter().map(|kept| kept.id).collect();
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
            let kept = kept(&weights, 2.4, &params).unwrap();
            assert_eq!(kept, [Candidate { id: 1, weight: 1.0 }]);
        }
    }

    #[test]
    fn of_equals_the_lower_ids_survive_top_k() {
        let params = SamplingParams {
            top_k: 2,
            ..SamplingParams::default()
        };
        let mut ids: Vec<u32> = kept(&[1.0; 9], 9.0, &params)
            .unwrap()
            .iter()
            .map(|kept| kept.id)
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, [0, 1]);
    }
}
