use super::*;
use crate::test_support::{bits, in_pool, rng, values};

/// A sequence's keys and values, `[tokens, kv_heads, dim]`, and a cache that holds them in
/// shuffled blocks among others full of NaN.
struct Sequence {
    tokens: usize,
    kv_heads: usize,
    dim: usize,
    k: Vec<f32>,
    v: Vec<f32>,
    kv: KvLayer,
    block_table: Vec<u32>,
}

impl Sequence {
    fn new(seed: u64, tokens: usize, kv_heads: usize, dim: usize) -> Self {
        let mut rng = rng(seed);
        let blocks = tokens.div_ceil(BLOCK_TOKENS);
        let num_blocks = 2 * blocks + 1;
        let mut kv = KvLayer::new(num_blocks, BLOCK_TOKENS, kv_heads, dim).unwrap();
        let all: Vec<u32> = (0..num_blocks as u32).collect();
        let positions: Vec<usize> = (0..num_blocks * BLOCK_TOKENS).collect();
        let nan = vec![f32::NAN; positions.len() * kv_heads * dim];
        kv.store(&nan, &nan, &all, &positions).unwrap();
        // Odd blocks, last first.
        let block_table: Vec<u32> = (0..blocks as u32).rev().map(|i| 2 * i + 1).collect();
        let k = values(&mut rng, tokens * kv_heads * dim);
        let v = values(&mut rng, tokens * kv_heads * dim);
        let positions: Vec<usize> = (0..tokens).collect();
        kv.store(&k, &v, &block_table, &positions).unwrap();
        Self {
            tokens,
            kv_heads,
            dim,
            k,
            v,
            kv,
            block_table,
        }
    }

    fn run(&self, isa: Isa, q: &[f32], first_position: usize, params: AttentionParams) -> Vec<f32> {
        let mut out = vec![f32::NAN; q.len()];
        attention_on(
            isa,
            q,
            first_position,
            &self.kv,
            &self.block_table,
            params,
            &mut out,
        )
        .unwrap();
        out
    }

    /// Of all tokens, in f64 and by the book.
    fn reference(&self, q: &[f32], params: AttentionParams) -> Vec<f64> {
        let group = params.heads / self.kv_heads;
        let mut out = vec![0.0; q.len()];
        for (i, q) in q.chunks_exact(self.dim).enumerate() {
            let (position, kv_head) = (i / params.heads, i % params.heads / group);
            let at = |position: usize| (position * self.kv_heads + kv_head) * self.dim;
            let mut weights = vec![];
            for key in 0..=position {
                if params.window.is_some_and(|window| key + window <= position) {
                    continue;
                }
                let k = &self.k[at(key)..][..self.dim];
                let dot: f64 = q
                    .iter()
                    .zip(k)
                    .map(|(q, k)| f64::from(*q) * f64::from(*k))
                    .sum();
                let mut score = dot * f64::from(params.scale);
                if let Some(cap) = params.soft_cap.map(f64::from) {
                    score = cap * (score / cap).tanh();
                }
                weights.push((key, score.exp()));
            }
            let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
            for (key, weight) in weights {
                for d in 0..self.dim {
                    let v = f64::from(self.v[at(key) + d]);
                    out[i * self.dim + d] += weight / total * v;
                }
            }
        }
        out
    }
}

fn params(heads: usize) -> AttentionParams {
    AttentionParams {
        heads,
        scale: 1.3,
        soft_cap: None,
        window: None,
    }
}

#[test]
fn every_instruction_set_agrees_with_f64() {
    let shapes = [
        (1, 1, 16),
        (50, 3, 64),
        (37, 2, 7),
        (33, 1, 256),
        (70, 2, 40),
    ];
    for (i, (tokens, kv_heads, dim)) in shapes.into_iter().enumerate() {
        let sequence = Sequence::new(i as u64, tokens, kv_heads, dim);
        for group in [1, 3, 4] {
            let heads = kv_heads * group;
            let q = values(&mut rng(100), tokens * heads * dim);
            for soft_cap in [None, Some(0.7)] {
                for window in [None, Some(1), Some(15), Some(16), Some(17), Some(40)] {
                    let scale = 2.0 / (dim as f32).sqrt();
                    let params = AttentionParams {
                        heads,
                        scale,
                        soft_cap,
                        window,
                    };
                    let expected = sequence.reference(&q, params);
                    let mut first = None;
                    for isa in Isa::available() {
                        let out = sequence.run(isa, &q, 0, params);
                        for (out, expected) in out.iter().zip(&expected) {
                            let error = (f64::from(*out) - expected).abs();
                            assert!(error < 3e-6, "{} {params:?}", isa.name());
                        }
                        let first = first.get_or_insert_with(|| bits(&out));
                        assert_eq!(*first, bits(&out), "{} {params:?}", isa.name());
                    }
                }
            }
        }
    }
}

#[test]
fn a_query_has_the_same_bits_in_every_chunk() {
    let sequence = Sequence::new(1, 100, 2, 64);
    let heads = 6;
    let row = heads * sequence.dim;
    let q = values(&mut rng(2), sequence.tokens * row);
    for window in [None, Some(20)] {
        let params = AttentionParams {
            soft_cap: Some(50.0),
            window,
            ..params(heads)
        };
        for isa in Isa::available() {
            let whole = sequence.run(isa, &q, 0, params);
            for n in (1..=17).chain([64]) {
                for first in [0, 5, 36, 100 - n] {
                    let chunk = first * row..(first + n).min(100) * row;
                    let out = sequence.run(isa, &q[chunk.clone()], first, params);
                    assert_eq!(bits(&out), bits(&whole[chunk]), "{} n={n}", isa.name());
                }
            }
        }
    }
}

#[test]
fn a_long_context_is_gone_over_in_spans() {
    // 8 blocks are a span here; the last queries see 3 of them, in a window of 140 the last 2.
    let sequence = Sequence::new(2, 300, 1, 256);
    let row = 3 * sequence.dim;
    let q = values(&mut rng(3), sequence.tokens * row);
    for window in [None, Some(140)] {
        let scale = 0.2;
        let params = AttentionParams {
            scale,
            window,
            ..params(3)
        };
        let expected = sequence.reference(&q, params);
        for isa in Isa::available() {
            let whole = sequence.run(isa, &q, 0, params);
            for (out, expected) in whole.iter().zip(&expected) {
                assert!((f64::from(*out) - expected).abs() < 1e-5, "{}", isa.name());
            }
            for (first, n) in [(299, 1), (127, 2), (120, 17), (255, 5), (30, 270)] {
                let chunk = first * row..(first + n) * row;
                let out = sequence.run(isa, &q[chunk.clone()], first, params);
                assert_eq!(bits(&out), bits(&whole[chunk]), "{} n={n}", isa.name());
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let sequence = Sequence::new(3, 700, 3, 64);
    let q = values(&mut rng(4), 700 * 9 * 64);
    let expected = in_pool(1, || sequence.run(Isa::best(), &q, 0, params(9)));
    let last = &q[699 * 9 * 64..];
    for threads in [2, 5] {
        let out = in_pool(threads, || sequence.run(Isa::best(), &q, 0, params(9)));
        assert_eq!(bits(&out), bits(&expected));
        let out = in_pool(threads, || sequence.run(Isa::best(), last, 699, params(9)));
        assert_eq!(bits(&out), bits(&expected[699 * 9 * 64..]));
    }
}

#[test]
fn blocks_behind_the_window_are_never_read() {
    let mut sequence = Sequence::new(5, 90, 1, 32);
    let q = values(&mut rng(6), 2 * 32);
    let windowed = AttentionParams {
        window: Some(20),
        ..params(2)
    };
    let expected = sequence.run(Isa::best(), &q, 85, windowed);
    // Positions 66..=85 are seen: blocks 4 and 5.
    sequence.block_table[..4].fill(u32::MAX);
    let out = sequence.run(Isa::best(), &q, 85, windowed);
    assert_eq!(bits(&out), bits(&expected));
    // One position earlier, or without a window, they would be.
    let wide = AttentionParams {
        window: Some(23),
        ..params(2)
    };
    let mut out = [0.0; 64];
    for params in [wide, params(2)] {
        let Sequence {
            kv, block_table, ..
        } = &sequence;
        let error = attention(&q, 85, kv, block_table, params, &mut out).unwrap_err();
        assert_eq!(error.to_string(), "block id is 4294967295, the limit is 13");
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let sequence = Sequence::new(7, 40, 1, 16);
    let q = values(&mut rng(8), 40 * 16);
    let sharp = AttentionParams {
        scale: 1e4,
        ..params(1)
    };
    for isa in Isa::available() {
        let out = sequence.run(isa, &q, 0, sharp);
        // Softmax is all but an argmax here, so that some value row comes out.
        for (position, out) in out.chunks_exact(16).enumerate() {
            let is_out = |v: &[f32]| v.iter().zip(out).all(|(v, out)| (v - out).abs() < 1e-3);
            assert!(sequence.v.chunks_exact(16).take(position + 1).any(is_out));
        }
    }
}

#[test]
fn wrong_arguments_are_named() {
    let sequence = Sequence::new(9, 20, 2, 16);
    let run = |q: &[f32], first_position, params, out: &mut [f32]| {
        let Sequence {
            kv, block_table, ..
        } = &sequence;
        attention(q, first_position, kv, block_table, params, out)
            .unwrap_err()
            .to_string()
    };
    let (q, mut out) = ([0.0; 32], [0.0; 32]);
    assert_eq!(
        run(&q, 0, params(3), &mut out),
        "heads is 3, which must be a positive multiple of the key heads"
    );
    assert_eq!(
        run(
            &q,
            0,
            AttentionParams {
                window: Some(0),
                ..params(2)
            },
            &mut out
        ),
        "window is 0, which must be positive"
    );
    assert_eq!(
        run(&q[..31], 0, params(2), &mut out),
        "q holds 31 elements where its shape needs 0"
    );
    assert_eq!(
        run(&q, 0, params(2), &mut out[..31]),
        "out holds 31 elements where its shape needs 32"
    );
    assert_eq!(
        run(&q, 32, params(2), &mut out),
        "position is 32, the limit is 32"
    );
    assert_eq!(
        run(&q, usize::MAX, params(2), &mut out),
        "position is 18446744073709551615, the limit is 32"
    );
}
