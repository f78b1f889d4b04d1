//! Logprobs, penalties and draws by kernels, by the reference, and by the definition.

mod logprobs;
mod penalties;
mod probabilities;

use gapura_kernels::device::{Device, Op, RowSampling, Sample, Upload};
use rand::Rng;

use crate::support::{self, Tolerance};

const DRAW: RowSampling = RowSampling {
    flags: RowSampling::DRAW,
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    random: 0,
    history_start: 0,
    history_len: 0,
    history_prompt: 0,
    bias_start: 0,
    bias_len: 0,
    mask: 0,
    newest: 0,
    newest_is_generated: 0,
};

const GREEDY: RowSampling = RowSampling {
    temperature: 0.0,
    ..DRAW
};

/// The tokens drawn, and their logits.
fn sample(device: &mut dyn Device, logits: &[f32], params: &[RowSampling]) -> (Vec<u32>, Vec<f32>) {
    let n = params.len();
    let sampled = support::allocate(device, 4 * n);
    let sampled_logits = support::allocate(device, 4 * n);
    let op = Sample {
        logits: support::upload(device, &support::f32_bytes(logits)).address,
        params: support::upload(device, params.as_bytes()).address,
        sampled: sampled.address,
        sampled_logits: sampled_logits.address,
        n: n as u32,
        vocab: (logits.len() / n) as u32,
    };
    device.run(&[Op::Sample(op)]).unwrap();
    (
        support::read_u32s(device, sampled),
        support::read_f32s(device, sampled_logits),
    )
}

/// The same by both devices, which agree.
fn sampled(name: &str, logits: &[f32], params: &[RowSampling]) -> Vec<u32> {
    let for_ = support::f32(64, 1);
    let results = support::compare(for_, name, Tolerance::EXACT, |device| {
        let (ids, logits) = sample(device, logits, params);
        // Bits, so that ids beyond 2^24 too are what they are.
        ids.into_iter().map(f32::from_bits).chain(logits).collect()
    });
    results[..params.len()]
        .iter()
        .map(|id| id.to_bits())
        .collect()
}

#[test]
fn greedy_takes_the_greatest_and_the_lowest_of_equals() {
    for vocab in [1, 31, 1000, 5000] {
        let mut rng = support::rng(u64::from(vocab));
        let mut logits = support::normal(&mut rng, vocab as usize, 3.0);
        let id = rng.random_range(0..vocab);
        logits[id as usize] = 20.0;
        assert_eq!(sampled("greedy", &logits, &[GREEDY]), [id]);
        logits[vocab as usize - 1] = 20.0;
        logits[0] = f32::NAN;
        let id = if vocab == 1 { u32::MAX } else { id.max(1) };
        assert_eq!(sampled("greedy", &logits, &[GREEDY]), [id]);
        logits.fill(-2.5);
        assert_eq!(sampled("all equal", &logits, &[GREEDY]), [0]);
        logits.fill(f32::NEG_INFINITY);
        assert_eq!(sampled("none", &logits, &[GREEDY]), [u32::MAX]);
        assert_eq!(sampled("none", &logits, &[DRAW]), [u32::MAX]);
    }
    assert_eq!(sampled("zeros", &[-1.0, -0.0, 0.0], &[GREEDY]), [1]);
}

#[test]
fn the_only_possible_token_comes_whatever_the_parameters() {
    for vocab in [1_usize, 31, 4000] {
        let mut logits = vec![f32::NEG_INFINITY; vocab];
        logits[vocab / 2] = -7.0;
        if vocab > 1 {
            logits[0] = f32::NAN;
        }
        let all = [
            DRAW,
            RowSampling {
                random: u64::MAX,
                ..DRAW
            },
            RowSampling { top_k: 40, ..DRAW },
            RowSampling {
                top_k: 40,
                top_p: 0.5,
                random: u64::MAX,
                ..DRAW
            },
            RowSampling {
                top_p: 0.9,
                min_p: 0.1,
                temperature: 1e-30,
                ..DRAW
            },
            RowSampling {
                min_p: 1.0,
                temperature: 1e30,
                ..DRAW
            },
        ];
        for params in all {
            assert_eq!(
                sampled("the only one", &logits, &[params]),
                [vocab as u32 / 2]
            );
        }
    }
}

#[test]
fn rows_without_a_draw_are_left_alone() {
    let logits = [0.0, 1.0, 1.0, 0.0];
    let padding = RowSampling {
        flags: RowSampling::LOGPROBS,
        ..DRAW
    };
    let ids = sampled("padding", &logits, &[padding, GREEDY]);
    // What the memory held.
    assert_eq!(ids, [u32::MAX, 0]);
}

/// Parameters that reach every path: few kept and many, within and beyond what is searched in
/// shared memory.
fn filters() -> Vec<RowSampling> {
    let mut all = Vec::new();
    for top_k in [0, 1, 2, 40, 600, 1024, 1025, 4000] {
        for top_p in [1.0, 1e-7, 0.3, 0.95, 0.9999] {
            let other = [(0.05, 0.7), (1.0, 1.5), (0.0, 4.0)][all.len() / 2 % 3];
            for (min_p, temperature) in [(0.0, 1.0), other] {
                all.push(RowSampling {
                    top_k,
                    top_p,
                    min_p,
                    temperature,
                    ..DRAW
                });
            }
        }
    }
    all
}

#[test]
fn draws_are_those_of_the_reference() {
    for (vocab, spread) in [(31, 1.0), (1000, 3.0), (3000, 1.0), (5003, 3.0)] {
        let mut rng = support::rng(17);
        let mut params = filters();
        for params in &mut params {
            params.random = rng.random();
        }
        let logits: Vec<f32> = support::normal(&mut rng, params.len() * vocab, spread)
            .into_iter()
            .enumerate()
            .map(|(index, logit)| match index % 97 {
                13 => f32::NEG_INFINITY,
                14 => f32::NAN,
                // In every second row equals are frequent.
                _ if index / vocab % 2 == 0 => (2.0 * logit).round() / 2.0,
                _ => logit,
            })
            .collect();
        sampled(&format!("vocabulary of {vocab}"), &logits, &params);
    }
}

#[test]
fn draws_from_gemmas_vocabulary_are_those_of_the_reference() {
    let vocab = 256_000;
    let mut rng = support::rng(23);
    let row = support::normal(&mut rng, vocab, 3.0);
    let mut params = vec![
        GREEDY,
        DRAW,
        RowSampling {
            top_k: 64,
            top_p: 0.95,
            ..DRAW
        },
        RowSampling {
            top_p: 0.2,
            temperature: 0.5,
            ..DRAW
        },
        RowSampling { top_p: 0.9, ..DRAW },
        RowSampling {
            top_k: 3000,
            ..DRAW
        },
        RowSampling { min_p: 0.1, ..DRAW },
    ];
    for params in &mut params {
        params.random = rng.random();
    }
    sampled("Gemma's vocabulary", &row.repeat(params.len()), &params);
}

#[test]
fn of_equals_the_lower_ids_are_kept() {
    // More equals than are listed in shared memory.
    for vocab in [10, 3000] {
        let mut logits = vec![1.5; vocab];
        logits[vocab - 1] = 2.0;
        let draws = 8_u64;
        let spaced = |params: RowSampling| -> Vec<RowSampling> {
            let random = |draw: u64| (draw * (u64::MAX / draws)).saturating_add(u64::MAX / 16);
            (0..draws)
                .map(|draw| RowSampling {
                    random: random(draw),
                    ..params
                })
                .collect()
        };
        // The last and the first three.
        let top_k = spaced(RowSampling { top_k: 4, ..DRAW });
        let mut ids = sampled("top-k", &logits.repeat(8), &top_k);
        ids.dedup();
        assert_eq!(ids, [0, 1, 2, vocab as u32 - 1]);
        // Without the last one, five of equals: half of the mass, then the lower half of them.
        logits[vocab - 1] = f32::NEG_INFINITY;
        let half = (vocab as u32 - 1) / 2;
        let top_p = half as f32 / (vocab - 1) as f32;
        let ids = sampled(
            "top-p",
            &logits.repeat(8),
            &spaced(RowSampling { top_p, ..DRAW }),
        );
        assert!(ids.iter().all(|id| *id <= half), "{ids:?}");
        assert!(ids.iter().any(|id| *id > half / 2), "{ids:?}");
        assert!(ids.is_sorted(), "{ids:?}");
    }
}

#[test]
fn of_equals_all_greatest_survive_min_p() {
    let mut logits = [1.5; 50];
    for id in [3, 5, 49] {
        logits[id] = 2.0;
    }
    let params = [0, u64::MAX / 2, u64::MAX].map(|random| RowSampling {
        random,
        min_p: 1.0,
        ..DRAW
    });
    assert_eq!(sampled("min-p", &logits.repeat(3), &params), [3, 5, 49]);
}
