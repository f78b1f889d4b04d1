//! Operations that read or make weight matrices.

use gapura_kernels::device::{
    Dequantize, Embed, Epilogue, Gemv, MAX_GEMV_ROWS, MatrixFormat, Op, Quantize, Specialization,
};

use crate::support::{Case, Tolerance, both_precisions, matrix, randoms, rng};

const EPILOGUES: [Epilogue; 4] = [
    Epilogue::Act,
    Epilogue::F32,
    Epilogue::GeluGlu,
    Epilogue::SiluGlu,
];

/// Columns that meet every kind of tail: less than a warp's share, a group that is not full, and
/// those of a model.
fn columns(format: MatrixFormat) -> Vec<usize> {
    match format.block_len() {
        8 => vec![8, 136, 264, 1048, 3584],
        32 => vec![32, 96, 1056, 3584],
        _ => vec![256, 768, 3584],
    }
}

#[test]
fn dequantizes_every_format_exactly() {
    for specialization in both_precisions() {
        for format in MatrixFormat::ALL {
            for k in columns(format) {
                let (m, row_bytes) = (5, format.row_bytes(k) + 16);
                let mut case = Case::new(specialization);
                let w = case.bytes(&matrix(&mut rng(k as u64), format, m, k, row_bytes));
                let out = case.act_out(m * k, Tolerance::EXACT);
                let params = |w, out| Dequantize {
                    w,
                    out,
                    m: m as u32,
                    k: k as u32,
                    row_bytes: row_bytes as u32,
                    reserved: 0,
                };
                case.check(|at| vec![Op::Dequantize(params(at[w], at[out]), format)]);
            }
        }
    }
}

/// `[n, m]` of one product, as float32.
fn check_gemv(
    specialization: Specialization,
    format: MatrixFormat,
    epilogue: Epilogue,
    (n, m, k): (usize, usize, usize),
    cap: f32,
) -> Option<Vec<f32>> {
    let rows = match epilogue {
        Epilogue::GeluGlu | Epilogue::SiluGlu => 2 * m,
        Epilogue::Act | Epilogue::F32 => m,
    };
    let (row_bytes, out_stride) = (format.row_bytes(k) + 32, m + 3);
    let mut rng = rng(k as u64);
    let mut case = Case::new(specialization);
    let w = case.bytes(&matrix(&mut rng, format, rows, k, row_bytes));
    let x = case.acts(&randoms(&mut rng, MAX_GEMV_ROWS as usize * k)[..n * k]);
    // What is added up is as great as 8, up to 3584 times.
    let within = |tolerance| Tolerance {
        absolute: 5e-5,
        ..tolerance
    };
    let count = (n - 1) * out_stride + m;
    let out = match epilogue {
        Epilogue::F32 => case.f32_out(count, within(Tolerance::F32)),
        _ => case.act_out(count, within(Tolerance::of(specialization.precision))),
    };
    let results = case.check(|at| {
        let params = Gemv {
            x: at[x],
            w: at[w],
            out: at[out],
            n: n as u32,
            m: m as u32,
            k: k as u32,
            row_bytes: row_bytes as u32,
            cap,
            out_stride: out_stride as u32,
        };
        vec![Op::Gemv(params, format, epilogue)]
    })?;
    let values = results.values(out);
    Some(
        values
            .chunks(out_stride)
            .flat_map(|row| row[..m].to_vec())
            .collect(),
    )
}

#[test]
fn gemv_of_every_format() {
    for specialization in both_precisions() {
        for format in MatrixFormat::ALL {
            for (index, k) in columns(format).into_iter().enumerate() {
                let epilogue = EPILOGUES[index % 4];
                check_gemv(specialization, format, epilogue, (1 + index, 19, k), 0.0);
            }
        }
    }
}

#[test]
fn gemv_of_every_epilogue_and_number_of_rows() {
    for specialization in both_precisions() {
        for epilogue in EPILOGUES {
            for n in 1..=MAX_GEMV_ROWS as usize {
                check_gemv(
                    specialization,
                    MatrixFormat::W4,
                    epilogue,
                    (n, 11, 392),
                    0.0,
                );
                check_gemv(
                    specialization,
                    MatrixFormat::Q6K,
                    epilogue,
                    (n, 8, 512),
                    0.0,
                );
            }
        }
    }
}

#[test]
fn gemv_caps_logits() {
    for specialization in both_precisions() {
        check_gemv(
            specialization,
            MatrixFormat::Bf16,
            Epilogue::F32,
            (3, 37, 264),
            1.5,
        );
    }
}

#[test]
fn a_row_of_gemv_does_not_depend_on_how_many_there_are() {
    for specialization in both_precisions() {
        for format in MatrixFormat::ALL {
            for epilogue in EPILOGUES {
                let (m, k) = (9, 768);
                let rows = |n| check_gemv(specialization, format, epilogue, (n, m, k), 0.0);
                let (Some(one), Some(three), Some(eight)) = (rows(1), rows(3), rows(8)) else {
                    return;
                };
                assert_eq!(one, eight[..m], "{format:?} {epilogue:?}");
                assert_eq!(three, eight[..3 * m], "{format:?} {epilogue:?}");
            }
        }
    }
}

#[test]
fn embeds_given_and_sampled_tokens() {
    for specialization in both_precisions() {
        for (format, hidden) in [
            (MatrixFormat::F32, 96),
            (MatrixFormat::Bf16, 3584),
            (MatrixFormat::W8, 640),
            (MatrixFormat::W4, 3584),
            (MatrixFormat::Q8_0, 96),
            (MatrixFormat::Q6K, 256),
            (MatrixFormat::Q4K, 3584),
            // More than the threads of a block keep.
            (MatrixFormat::Bf16, 8200),
        ] {
            let (n, vocab, row_bytes) = (5, 23, format.row_bytes(hidden));
            let mut rng = rng(hidden as u64);
            let mut case = Case::new(specialization);
            let table = case.bytes(&matrix(&mut rng, format, vocab, hidden, row_bytes));
            let norm_weight = case.f32s(&randoms(&mut rng, hidden));
            let tokens = case.u32s(&[0, 22, 7, 7, 3]);
            // The fourth has drawn no token at all.
            let sources = case.i32s(&[-1, -1, 2, 1, 0]);
            let sampled = case.u32s(&[5, u32::MAX, 22]);
            let residual = case.f32_out(n * hidden, Tolerance::EXACT);
            let out = case.act_out(n * hidden, Tolerance::of(specialization.precision));
            case.check(|at| {
                let params = Embed {
                    tokens: at[tokens],
                    sources: at[sources],
                    sampled: at[sampled],
                    table: at[table],
                    norm_weight: at[norm_weight],
                    residual: at[residual],
                    out: at[out],
                    n: n as u32,
                    hidden: hidden as u32,
                    vocab: vocab as u32,
                    row_bytes: row_bytes as u32,
                    scale: 59.75,
                    eps: 1e-6,
                };
                vec![Op::Embed(params, format)]
            });
        }
    }
}

/// Groups of every kind: all 0, one value, equal values of both signs, tiny ones, outliers.
fn groups_of_every_kind(k: usize) -> Vec<f32> {
    let mut values = Vec::new();
    values.extend(vec![0.0; k]);
    values.extend((0..k).map(|l| if l % 128 == 3 { -2.5 } else { 0.0 }));
    values.extend((0..k).map(|l| if l % 2 == 0 { 1.5 } else { -1.5 }));
    values.extend((0..k).map(|l| (l as f32 - 3.0) * 1e-39));
    values.extend((0..k).map(|l| {
        if l % 100 == 7 {
            30.0
        } else {
            l as f32 / k as f32
        }
    }));
    values.extend(randoms(&mut rng(k as u64), 3 * k));
    values
}

#[test]
fn quantizes_exactly() {
    for specialization in both_precisions() {
        for format in [MatrixFormat::W8, MatrixFormat::W4] {
            for k in [8, 120, 136, 264, 1048, 3584] {
                let values = groups_of_every_kind(k);
                let (m, row_bytes) = (values.len() / k, format.row_bytes(k) + 16);
                let mut case = Case::new(specialization);
                let x = case.acts(&values);
                let out = case.bytes_out(m * row_bytes);
                let back = case.act_out(m * k, Tolerance::EXACT);
                case.check(|at| {
                    let (m, k, row_bytes) = (m as u32, k as u32, row_bytes as u32);
                    let quantize = Quantize {
                        x: at[x],
                        out: at[out],
                        m,
                        k,
                        row_bytes,
                        reserved: 0,
                    };
                    let dequantize = Dequantize {
                        w: at[out],
                        out: at[back],
                        m,
                        k,
                        row_bytes,
                        reserved: 0,
                    };
                    vec![
                        Op::Quantize(quantize, format),
                        Op::Dequantize(dequantize, format),
                    ]
                });
            }
        }
    }
}
