//! Attention of one query row a sequence.

use gapura_kernels::device::{AttendDecode, Device, MergeSplits, Op, Specialization};

use super::{KV_HEADS, Sequences, first_visible, heads, queries, scale};
use crate::support::{self, Tolerance};

struct DecodeCase {
    lengths: Vec<u32>,
    window: u32,
    splits: u32,
    cap: f32,
}

/// The result; of several splits also the shares.
fn decode(device: &mut dyn Device, for_: Specialization, case: &DecodeCase, seed: u64) -> Vec<f32> {
    let mut rng = support::rng(seed);
    let positions: Vec<_> = case
        .lengths
        .iter()
        .map(|&length| first_visible(length, case.window)..length)
        .collect();
    let sequences = Sequences::new(&mut rng, for_, &positions);
    let n = case.lengths.len();
    let heads = KV_HEADS * for_.group;
    let out_len = n * (heads * for_.head_dim) as usize;
    let splits = case.splits as usize;
    let out = support::allocate(device, out_len * for_.precision.bytes() as usize);
    let partial = support::allocate(device, 4 * out_len * splits);
    let partial_sums = support::allocate(device, 8 * n * heads as usize * splits);
    let op = AttendDecode {
        q: support::upload(device, &queries(&mut rng, for_, n)).address,
        k_cache: support::upload(device, &sequences.k).address,
        v_cache: support::upload(device, &sequences.v).address,
        tables: support::upload(device, &support::u32_bytes(&sequences.tables)).address,
        lengths: support::upload(device, &support::u32_bytes(&case.lengths)).address,
        out: out.address,
        partial: partial.address,
        partial_sums: partial_sums.address,
        n: n as u32,
        kv_heads: KV_HEADS,
        table_stride: sequences.table_stride,
        window: case.window,
        splits: case.splits,
        scale: scale(for_),
        cap: case.cap,
        reserved: 0,
    };
    device.run(&[Op::AttendDecode(op)]).unwrap();
    let mut results = Vec::new();
    if splits > 1 {
        results.extend(support::read_f32s(device, partial));
        results.extend(support::read_f32s(device, partial_sums));
        let merge = MergeSplits {
            partial: partial.address,
            partial_sums: partial_sums.address,
            out: out.address,
            n: n as u32,
            heads,
            splits: case.splits,
            reserved: 0,
        };
        device.run(&[Op::MergeSplits(merge)]).unwrap();
    }
    results.extend(support::read_acts(device, for_.precision, out));
    results
}

fn check_decode(for_: Specialization, case: &DecodeCase) {
    let name = format!(
        "{for_:?}: lengths {:?}, window {}, splits {}, cap {}",
        case.lengths, case.window, case.splits, case.cap
    );
    support::compare(for_, &name, Tolerance::of(for_.precision), |device| {
        decode(device, for_, case, 7)
    });
}

const LENGTHS: [u32; 9] = [1, 15, 16, 17, 63, 0, 64, 65, 300];

#[test]
fn attends_to_every_key_of_its_sequence() {
    for for_ in heads() {
        for splits in [1, 2, 5, 16] {
            for cap in [0.0, 5.0] {
                if cap > 0.0 && splits == 2 {
                    continue;
                }
                check_decode(
                    for_,
                    &DecodeCase {
                        lengths: LENGTHS.to_vec(),
                        window: 0,
                        splits,
                        cap,
                    },
                );
            }
        }
    }
}

#[test]
fn sees_as_far_as_its_window() {
    for for_ in [support::bf16(16, 1), support::f32(64, 1)] {
        for window in [1, 15, 16, 17, 33, 64, 65] {
            for splits in [1, 2] {
                check_decode(
                    for_,
                    &DecodeCase {
                        lengths: vec![1, 15, 16, 17, 32, 33, 34, 0, 63, 64, 65, 81, 129, 300],
                        window,
                        splits,
                        cap: 50.0,
                    },
                );
            }
        }
    }
}

#[test]
fn sees_as_far_as_gemmas_window() {
    for splits in [1, 5, 16] {
        check_decode(
            support::f32(16, 3),
            &DecodeCase {
                lengths: vec![4095, 4096, 4097, 4098],
                window: 4096,
                splits,
                cap: 50.0,
            },
        );
    }
}

#[test]
fn writes_nothing_for_a_padding_row() {
    let for_ = support::bf16(64, 3);
    for splits in [1, 3] {
        let case = DecodeCase {
            lengths: vec![0, 40],
            window: 0,
            splits,
            cap: 0.0,
        };
        let results = support::compare(for_, "padding", Tolerance::of(for_.precision), |device| {
            decode(device, for_, &case, 3)
        });
        let out = &results[results.len() - 2 * (KV_HEADS * 3 * 64) as usize..];
        assert!(
            out[..out.len() / 2].iter().all(|value| *value == 0.0),
            "{splits} splits"
        );
    }
}
