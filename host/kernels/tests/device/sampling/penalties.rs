//! What changes logits.

use gapura_kernels::device::{Bias, Device, Op, Penalize, RowSampling, Upload};
use rand::Rng;

use super::DRAW;
use crate::support::{self, Tolerance};

/// What penalties are computed of, but for the logits.
struct Step {
    history: Vec<u32>,
    biases: Vec<Bias>,
    masks: Vec<u32>,
    tokens: Vec<u32>,
    sources: Vec<i32>,
    sampled: Vec<u32>,
}

fn penalize(
    device: &mut dyn Device,
    logits: &[f32],
    params: &[RowSampling],
    step: &Step,
) -> Vec<f32> {
    let n = params.len();
    let vocab = logits.len() / n;
    let region = support::upload(device, &support::f32_bytes(logits));
    let sources: Vec<u32> = step.sources.iter().map(|source| *source as u32).collect();
    let op = Penalize {
        logits: region.address,
        params: support::upload(device, params.as_bytes()).address,
        history: support::upload(device, &support::u32_bytes(&step.history)).address,
        biases: support::upload(device, step.biases.as_bytes()).address,
        masks: support::upload(device, &support::u32_bytes(&step.masks)).address,
        tokens: support::upload(device, &support::u32_bytes(&step.tokens)).address,
        sources: support::upload(device, &support::u32_bytes(&sources)).address,
        sampled: support::upload(device, &support::u32_bytes(&step.sampled)).address,
        seen: support::allocate(device, n * 8 * vocab.div_ceil(32)).address,
        n: n as u32,
        vocab: vocab as u32,
    };
    device.run(&[Op::Penalize(op)]).unwrap();
    support::read_f32s(device, region)
}

fn check_penalties(name: &str, logits: &[f32], params: &[RowSampling], step: &Step) -> Vec<f32> {
    support::compare(support::f32(64, 1), name, Tolerance::EXACT, |device| {
        penalize(device, logits, params, step)
    })
}

const CHANGED: RowSampling = RowSampling {
    flags: RowSampling::CHANGED,
    ..DRAW
};

#[test]
fn are_those_of_the_reference() {
    for (vocab, len) in [(1_u32, 5_u32), (31, 60), (1000, 3000), (20_011, 12_000)] {
        let mut rng = support::rng(u64::from(len));
        let mut history: Vec<u32> = (0..len).map(|_| rng.random_range(0..vocab)).collect();
        // Many of one, and one that no vocabulary has.
        history[..len as usize / 2].fill(vocab / 3);
        history[1] = vocab + 7;
        // So many different ones that they are counted in turns.
        history.extend(0..vocab);
        let masks = (0..2 * vocab.div_ceil(32)).map(|_| rng.random()).collect();
        let mut biases: Vec<Bias> = (0..40)
            .map(|_| Bias {
                token: rng.random_range(0..vocab),
                bias: rng.random_range(-5.0..5.0),
            })
            .collect();
        biases[3].bias = f32::NEG_INFINITY;
        let step = Step {
            history,
            biases,
            masks,
            tokens: vec![0, vocab - 1, vocab / 2],
            sources: vec![-1, 1, 0],
            sampled: vec![vocab / 3, vocab / 5],
        };
        let all = RowSampling {
            flags: RowSampling::CHANGED | RowSampling::DRAW | RowSampling::MASKED,
            repetition_penalty: 1.3,
            presence_penalty: 0.4,
            frequency_penalty: 0.07,
            history_start: 2,
            history_len: len - 2,
            history_prompt: len / 3,
            bias_start: 1,
            bias_len: 39,
            mask: 1,
            newest: 1,
            newest_is_generated: 1,
            ..DRAW
        };
        let params = [
            CHANGED,
            RowSampling {
                repetition_penalty: 0.8,
                history_len: len,
                ..CHANGED
            },
            RowSampling {
                frequency_penalty: 0.1,
                history_len: len,
                newest: 2,
                newest_is_generated: 1,
                ..CHANGED
            },
            RowSampling {
                presence_penalty: -0.7,
                history_len: len,
                history_prompt: len,
                newest: 2,
                ..CHANGED
            },
            RowSampling {
                presence_penalty: 0.7,
                frequency_penalty: 0.3,
                newest_is_generated: 1,
                ..CHANGED
            },
            RowSampling {
                frequency_penalty: 0.3,
                history_start: len,
                history_len: vocab,
                ..CHANGED
            },
            RowSampling {
                bias_len: 40,
                ..CHANGED
            },
            RowSampling {
                flags: RowSampling::CHANGED | RowSampling::MASKED,
                ..CHANGED
            },
            RowSampling {
                flags: RowSampling::DRAW,
                bias_len: 40,
                ..all
            },
            all,
        ];
        let logits = support::normal(&mut rng, params.len() * vocab as usize, 4.0);
        check_penalties(&format!("vocabulary of {vocab}"), &logits, &params, &step);
    }
}

#[test]
fn follow_their_definition() {
    let step = Step {
        history: vec![0, 1, 2, 2, 3],
        biases: vec![
            Bias {
                token: 1,
                bias: 2.0,
            },
            Bias {
                token: 7,
                bias: f32::NEG_INFINITY,
            },
        ],
        masks: vec![!(1 << 6)],
        tokens: vec![9],
        sources: vec![0],
        sampled: vec![2],
    };
    let params = RowSampling {
        flags: RowSampling::CHANGED | RowSampling::MASKED,
        repetition_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        history_len: 5,
        history_prompt: 2,
        bias_len: 2,
        newest_is_generated: 1,
        ..DRAW
    };
    let logits = [1.0, -3.0, 8.0, 4.0, 1.0, 1.0, 1.0, 1.0];
    let changed = check_penalties("by hand", &logits, &[params], &step);
    let expected = [
        0.5,
        -2.0,
        // Three times, once of which as the newest.
        4.0 - 0.5 - 0.75,
        2.0 - 0.5 - 0.25,
        1.0,
        1.0,
        f32::NEG_INFINITY,
        f32::NEG_INFINITY,
    ];
    assert_eq!(changed, expected);
    // The newest as the prompt's, and as the step's own input.
    let step = Step {
        sources: vec![-1],
        tokens: vec![4],
        ..step
    };
    let params = RowSampling {
        newest_is_generated: 0,
        ..params
    };
    let changed = check_penalties("by hand", &logits, &[params], &step);
    assert_eq!(changed[2..5], [4.0 - 0.5 - 0.5, 2.0 - 0.5 - 0.25, 0.5]);
}
