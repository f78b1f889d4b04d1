//! How often tokens come.

use gapura_kernels::device::RowSampling;
use rand::Rng;

use super::{DRAW, sample};
use crate::support;

/// Probabilities by sorting, in float64.
fn probabilities(logits: &[f32], params: &RowSampling) -> Vec<f64> {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight =
        |id: usize| (f64::from(logits[id] - greatest) / f64::from(params.temperature)).exp();
    let mut ids: Vec<usize> = (0..logits.len())
        .filter(|id| logits[*id].is_finite())
        .collect();
    ids.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    if params.top_k > 0 {
        ids.truncate(params.top_k as usize);
    }
    let mass = f64::from(params.top_p) * ids.iter().map(|id| weight(*id)).sum::<f64>();
    let mut reached = 0.0;
    if params.top_p < 1.0 {
        ids.retain(|id| {
            let is_kept = reached < mass;
            reached += weight(*id);
            is_kept
        });
    }
    ids.retain(|id| weight(*id) >= f64::from(params.min_p));
    let total: f64 = ids.iter().map(|id| weight(*id)).sum();
    let mut all = vec![0.0; logits.len()];
    for id in ids {
        all[id] = weight(id) / total;
    }
    all
}

/// How often each token comes, of many draws in launches of so many rows.
fn counts(logits: &[f32], params: &RowSampling, randoms: &[u64]) -> Option<Vec<u32>> {
    let mut counts = vec![0; logits.len()];
    for randoms in randoms.chunks(2000) {
        let mut device = support::kernels(support::f32(64, 1), 0)?;
        let rows: Vec<_> = randoms
            .iter()
            .map(|&random| RowSampling { random, ..*params })
            .collect();
        for id in sample(&mut *device, &logits.repeat(rows.len()), &rows).0 {
            counts[id as usize] += 1;
        }
    }
    Some(counts)
}

#[test]
fn tokens_come_as_often_as_their_probability_says() {
    let logits = support::normal(&mut support::rng(4), 31, 1.5);
    let alone_and_together = [
        DRAW,
        RowSampling {
            temperature: 0.5,
            ..DRAW
        },
        RowSampling { top_k: 5, ..DRAW },
        RowSampling { top_p: 0.8, ..DRAW },
        RowSampling {
            min_p: 0.15,
            ..DRAW
        },
        RowSampling {
            temperature: 1.3,
            top_k: 12,
            top_p: 0.9,
            min_p: 0.05,
            ..DRAW
        },
    ];
    // Evenly spaced, each token comes as often as it should but for one draw at either end.
    let draws = 200;
    let spaced: Vec<u64> = (0..draws).map(|draw| draw * (u64::MAX / draws)).collect();
    for params in alone_and_together {
        let Some(counts) = counts(&logits, &params, &spaced) else {
            return;
        };
        for (id, probability) in probabilities(&logits, &params).into_iter().enumerate() {
            let expected = probability * draws as f64;
            assert!(
                (f64::from(counts[id]) - expected).abs() <= 1.001,
                "{params:?}: {id}: {} of {expected}",
                counts[id]
            );
        }
    }
}

#[test]
fn many_draws_pass_a_chi_square_test() {
    let mut rng = support::rng(99);
    let logits = support::normal(&mut rng, 31, 1.0);
    let params = RowSampling {
        min_p: 0.02,
        ..DRAW
    };
    let randoms: Vec<u64> = (0..6_000).map(|_| rng.random()).collect();
    let Some(counts) = counts(&logits, &params, &randoms) else {
        return;
    };
    let mut statistic = 0.0;
    let mut freedom = -1.0;
    for (count, probability) in counts.into_iter().zip(probabilities(&logits, &params)) {
        if probability == 0.0 {
            assert_eq!(count, 0);
            continue;
        }
        let expected = probability * randoms.len() as f64;
        statistic += (f64::from(count) - expected).powi(2) / expected;
        freedom += 1.0;
    }
    // Four standard deviations.
    let most = freedom + 4.0 * f64::sqrt(2.0 * freedom);
    assert!(
        statistic < most,
        "{statistic} with {freedom} degrees of freedom"
    );
}
