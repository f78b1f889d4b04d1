//! Operations on rows of activations, and probes.

use gapura_kernels::device::{
    AddNorm, Address, CountNonFinite, FillRandom, Glu, Op, Precision, ReadProbe, RopeKv, SoftCap,
};
use half::{bf16, f16};

use crate::support::{self, Case, Tolerance, both_precisions, randoms, rng};

fn check_add_norm(hidden: usize, has_post_weight: bool, gathered: Option<&[u32]>) {
    for specialization in both_precisions() {
        let mut rng = rng(hidden as u64);
        let rows = 7;
        let n = gathered.map_or(rows, <[u32]>::len);
        let mut case = Case::new(specialization);
        let branch = case.f32s(&randoms(&mut rng, rows * hidden));
        let residual = case.f32s_within(&randoms(&mut rng, rows * hidden), Tolerance::F32);
        let post_weight = case.f32s(&randoms(&mut rng, hidden));
        let next_weight = case.f32s(&randoms(&mut rng, hidden));
        let gather = case.u32s(gathered.unwrap_or(&[0]));
        let out = case.act_out(n * hidden, Tolerance::of(specialization.precision));
        case.check(|at| {
            vec![Op::AddNorm(AddNorm {
                branch: at[branch],
                post_weight: if has_post_weight {
                    at[post_weight]
                } else {
                    Address::NONE
                },
                residual: at[residual],
                next_weight: at[next_weight],
                rows: gathered.map_or(Address::NONE, |_| at[gather]),
                out: at[out],
                n: n as u32,
                hidden: hidden as u32,
                eps: 1e-6,
                reserved: 0,
            })]
        });
    }
}

#[test]
fn adds_and_norms() {
    for hidden in [8, 96, 640, 3584, 8200] {
        check_add_norm(hidden, true, None);
        check_add_norm(hidden, false, None);
    }
}

#[test]
fn adds_and_norms_chosen_rows() {
    check_add_norm(640, true, Some(&[6, 0, 3]));
    check_add_norm(96, false, Some(&[5]));
}

#[test]
fn glu_of_both_functions() {
    for specialization in both_precisions() {
        // Widths that come in eights, and not; more than one stride of the grid's least.
        for (n, inner, silu) in [
            (1, 8, 0),
            (3, 640, 1),
            (9, 1000, 0),
            (5, 13, 0),
            (2, 2049, 1),
        ] {
            let mut rng = rng(inner as u64);
            let mut case = Case::new(specialization);
            let x = case.acts(&randoms(&mut rng, n * 2 * inner));
            let out = case.act_out(n * inner, Tolerance::of(specialization.precision));
            case.check(|at| {
                vec![Op::Glu(Glu {
                    x: at[x],
                    out: at[out],
                    n: n as u32,
                    inner: inner as u32,
                    silu,
                    reserved: 0,
                })]
            });
        }
    }
}

#[test]
fn soft_caps() {
    for count in [1, 255, 5000] {
        let mut values = randoms(&mut rng(count), count as usize);
        values[0] = 1000.0;
        let mut case = Case::new(support::bf16(256, 2));
        let x = case.f32s_within(&values, Tolerance::F32);
        case.check(|at| {
            vec![Op::SoftCap(SoftCap {
                x: at[x],
                count,
                cap: 3.0,
                reserved: 0,
            })]
        });
    }
}

fn check_rope_kv(precision: Precision, head_dim: u32, interleaved: u32, has_norms: bool) {
    let specialization = match precision {
        Precision::Bf16 => support::bf16(head_dim, 2),
        Precision::F32 => support::f32(head_dim, 2),
    };
    let (n, heads, kv_heads, dim) = (5, 6, 3, head_dim as usize);
    let mut rng = rng(u64::from(head_dim));
    let mut case = Case::new(specialization);
    let all = heads + 2 * kv_heads;
    let qkv = case.acts(&randoms(&mut rng, n * all * dim));
    let tolerance = Tolerance::of(specialization.precision);
    let q_out = case.act_out(n * heads * dim, tolerance);
    let blocks = 4;
    let k_cache = case.act_out(blocks * kv_heads * 16 * dim, tolerance);
    let v_cache = case.act_out(blocks * kv_heads * 16 * dim, Tolerance::EXACT);
    let positions = case.u32s(&[0, 1, 8191, 131_071, 1_000_000]);
    let slots = case.u32s(&[0, 63, 17, 31, 46]);
    let inv_freq: Vec<f32> = (0..dim / 2)
        .map(|i| 10000_f32.powf(-(2.0 * i as f32) / dim as f32))
        .collect();
    let inv_freq = case.f32s(&inv_freq);
    let q_norm = case.f32s(&randoms(&mut rng, dim));
    let k_norm = case.f32s(&randoms(&mut rng, dim));
    case.check(|at| {
        let norm = |address| if has_norms { address } else { Address::NONE };
        vec![Op::RopeKv(RopeKv {
            qkv: at[qkv],
            q_out: at[q_out],
            k_cache: at[k_cache],
            v_cache: at[v_cache],
            positions: at[positions],
            slots: at[slots],
            inv_freq: at[inv_freq],
            q_norm: norm(at[q_norm]),
            k_norm: norm(at[k_norm]),
            n: n as u32,
            heads: heads as u32,
            kv_heads: kv_heads as u32,
            eps: 1e-6,
            interleaved,
            reserved: 0,
        })]
    });
}

#[test]
fn turns_and_stores_heads_of_every_width() {
    for precision in [Precision::Bf16, Precision::F32] {
        for head_dim in [16, 64, 96, 128, 256] {
            check_rope_kv(precision, head_dim, 0, false);
        }
    }
}

#[test]
fn turns_normed_heads() {
    for precision in [Precision::Bf16, Precision::F32] {
        for head_dim in [16, 96, 256] {
            check_rope_kv(precision, head_dim, 0, true);
        }
    }
}

#[test]
fn turns_interleaved_pairs() {
    for precision in [Precision::Bf16, Precision::F32] {
        check_rope_kv(precision, 64, 1, false);
        check_rope_kv(precision, 16, 1, true);
    }
}

#[test]
fn counts_what_is_not_finite() {
    let odd = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        -f32::NAN,
        f32::MAX,
        1e-40,
    ];
    for kind in 0..3 {
        for count in [1, 300, 6000] {
            let mut values = randoms(&mut rng(count), count as usize);
            for (index, value) in odd.iter().enumerate() {
                let place = (index * 977 + count as usize - 1) % count as usize;
                values[place] = *value;
            }
            let bytes: Vec<u8> = match kind {
                0 => values
                    .iter()
                    .flat_map(|x| bf16::from_f32(*x).to_le_bytes())
                    .collect(),
                1 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                _ => values
                    .iter()
                    .flat_map(|x| f16::from_f32(*x).to_le_bytes())
                    .collect(),
            };
            let mut case = Case::new(support::bf16(256, 2));
            let x = case.bytes(&bytes);
            let counter = case.u32s(&[40]);
            case.check(|at| {
                vec![Op::CountNonFinite(CountNonFinite {
                    x: at[x],
                    counter: at[counter],
                    count,
                    kind,
                    reserved: 0,
                })]
            });
        }
    }
}

#[test]
fn fills_with_a_normal_distribution() {
    for specialization in both_precisions() {
        let (count, std) = (20_000, 0.5);
        let mut case = Case::new(specialization);
        let out = case.act_out(count, Tolerance::of(specialization.precision));
        let results = case.check(|at| {
            vec![Op::FillRandom(FillRandom {
                out: at[out],
                count: count as u64,
                seed: 7,
                std,
                reserved: 0,
            })]
        });
        let Some(results) = results else { return };
        let values = results.values(out);
        let mean = values.iter().sum::<f32>() / count as f32;
        let variance = values.iter().map(|x| x * x).sum::<f32>() / count as f32;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((variance.sqrt() - std).abs() < 0.02, "{variance}");
    }
}

/// Each block may read what it likes: the total counts.
#[test]
fn the_probe_reads_every_word_once() {
    for (bytes, blocks) in [(16_usize, 1), (16 * 1000, 3), (16 * 20_001, 2)] {
        let words: Vec<u32> = (0..bytes as u32 / 4)
            .map(|i| i.wrapping_mul(2_654_435_761))
            .collect();
        let mut case = Case::new(support::bf16(256, 2));
        let x = case.u32s(&words);
        let out = case.bytes_out(4 * blocks);
        let results = case.emulate(|at| {
            vec![Op::ReadProbe(ReadProbe {
                x: at[x],
                out: at[out],
                bytes: bytes as u64,
                blocks: blocks as u32,
                reserved: 0,
            })]
        });
        let Some(results) = results else { return };
        let sums = results.unwrap().u32s(out);
        let sum = |words: &[u32]| {
            words
                .iter()
                .fold(0_u32, |sum, word| sum.wrapping_add(*word))
        };
        assert_eq!(sum(&sums), sum(&words));
    }
}
