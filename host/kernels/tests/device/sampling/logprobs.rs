//! The most likely tokens, and the total.

use gapura_kernels::device::{Device, Logprobs, MAX_LOGPROBS, Op, RowSampling, Upload};

use super::DRAW;
use crate::support::{self, Tolerance};

/// Count, tokens and logits; then the total.
fn logprobs(device: &mut dyn Device, logits: &[f32], params: &[RowSampling]) -> Vec<f32> {
    let n = params.len();
    let words = 2 + 2 * MAX_LOGPROBS;
    let out = support::allocate(device, 4 * n * words);
    let op = Logprobs {
        logits: support::upload(device, &support::f32_bytes(logits)).address,
        params: support::upload(device, params.as_bytes()).address,
        out: out.address,
        n: n as u32,
        vocab: (logits.len() / n) as u32,
    };
    device.run(&[Op::Logprobs(op)]).unwrap();
    let reports = support::read_u32s(device, out);
    // Counts and ids as numbers; what was not written stays what it was.
    let value = |(index, word): (usize, u32)| match index % words {
        index if (1..2 + MAX_LOGPROBS).contains(&index) => word as f32,
        _ => f32::from_bits(word),
    };
    reports.into_iter().enumerate().map(value).collect()
}

#[test]
fn are_those_of_the_reference() {
    let wanted = RowSampling {
        flags: RowSampling::LOGPROBS,
        ..DRAW
    };
    let tolerance = Tolerance {
        absolute: 2e-5,
        relative: 1e-6,
    };
    for vocab in [1, 19, 20, 31, 5000, 256_000] {
        let mut rng = support::rng(3);
        let row = support::normal(&mut rng, vocab, 4.0);
        let mut rows = vec![row.clone()];
        // Equals, and more of them than are listed.
        rows.push(row.iter().map(|logit| logit.round()).collect());
        rows.push(vec![1.0; vocab]);
        rows.push(
            (0..vocab)
                .map(|id| if id % 7 == 3 { f32::NAN } else { row[id] })
                .collect(),
        );
        rows.push(
            (0..vocab)
                .map(|id| {
                    if id % 300 == 0 {
                        row[id]
                    } else {
                        f32::NEG_INFINITY
                    }
                })
                .collect(),
        );
        rows.push(vec![f32::NEG_INFINITY; vocab]);
        rows.push(row.iter().map(|logit| logit + 30_000.0).collect());
        rows.push(row);
        let mut params = vec![wanted; rows.len()];
        params[rows.len() - 1].flags = RowSampling::DRAW;
        support::compare(
            support::f32(64, 1),
            &format!("vocabulary of {vocab}"),
            tolerance,
            |device| logprobs(device, &rows.concat(), &params),
        );
    }
}
