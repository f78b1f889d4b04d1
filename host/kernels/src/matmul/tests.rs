use rand::Rng;

use super::*;
use crate::test_support::{bits, in_pool, rng, values, weights};

/// Sums in f64 over what the formats say, with activations as the kernel sees them. Also the
/// sums of magnitudes, which rounding errors are proportional to.
fn reference(x: &Activations<'_>, w: Matrix<'_>) -> (Vec<f64>, Vec<f64>) {
    let mut seen: Vec<f64> = x.values().iter().copied().map(f64::from).collect();
    if w.weight_type().is_quantized() {
        seen.clear();
        for block in x.values().chunks_exact(32) {
            let largest = block.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            // The kernel rounds the exact product once; so does f64, which holds it.
            let codes = block
                .iter()
                .map(|x| (f64::from(*x) * f64::from(inverse)).round_ties_even());
            seen.extend(codes.map(|code| code * f64::from(largest / 127.0)));
        }
    }
    let mut sums = vec![0.0; x.n() * w.rows()];
    let mut magnitudes = sums.clone();
    let mut weights = vec![0.0; w.cols()];
    for row in 0..w.rows() {
        w.dequantize_row(row, &mut weights).unwrap();
        for (token, x) in seen.chunks_exact(w.cols()).enumerate() {
            for (x, &weight) in x.iter().zip(&weights) {
                sums[token * w.rows() + row] += x * f64::from(weight);
                magnitudes[token * w.rows() + row] += (x * f64::from(weight)).abs();
            }
        }
    }
    (sums, magnitudes)
}

fn run(isa: Isa, x: &[f32], n: usize, w: Matrix<'_>) -> Vec<f32> {
    let x = Activations::new(x, n, w.cols()).unwrap();
    let mut out = vec![f32::NAN; n * w.rows()];
    matmul_on(isa, &x, w, &mut out).unwrap();
    out
}

/// Columns that the type can have, odd numbers of blocks among them.
fn column_counts(weight_type: WeightType) -> &'static [usize] {
    match weight_type.block_len() {
        1 => &[1, 15, 16, 17, 100, 333],
        32 => &[32, 96, 160, 576, 608],
        _ => &[256, 768, 1280],
    }
}

#[test]
fn every_instruction_set_agrees_with_f64() {
    let mut rng = rng(1);
    for weight_type in WeightType::ALL {
        for &cols in column_counts(weight_type) {
            for (rows, n) in [(1, 1), (3, 2), (16, 3), (33, 1), (37, 13)] {
                let data = weights(&mut rng, weight_type, rows * cols);
                let w = Matrix::new(weight_type, rows, cols, &data).unwrap();
                let x = values(&mut rng, n * cols);
                let activations = Activations::new(&x, n, cols).unwrap();
                let (sums, magnitudes) = reference(&activations, w);
                let mut first: Option<Vec<f32>> = None;
                for isa in Isa::available() {
                    let out = run(isa, &x, n, w);
                    for ((out, sum), magnitude) in out.iter().zip(&sums).zip(&magnitudes) {
                        let error = (f64::from(*out) - sum).abs();
                        assert!(
                            error <= 2e-6 * magnitude,
                            "{} {weight_type} {rows}x{cols} n={n}: {out} for {sum}",
                            isa.name(),
                        );
                    }
                    let first = first.get_or_insert_with(|| out.clone());
                    assert_eq!(bits(first), bits(&out), "{} {weight_type}", isa.name());
                }
            }
        }
    }
}

#[test]
fn eight_bit_activations_cost_little() {
    let mut rng = rng(2);
    for weight_type in WeightType::ALL {
        let (rows, cols) = (40, 1024);
        let data = weights(&mut rng, weight_type, rows * cols);
        let w = Matrix::new(weight_type, rows, cols, &data).unwrap();
        let x = values(&mut rng, cols);
        let out = run(Isa::best(), &x, 1, w);
        let mut row_values = vec![0.0; cols];
        let (mut error, mut size) = (0.0, 0.0);
        for (row, out) in out.iter().enumerate() {
            w.dequantize_row(row, &mut row_values).unwrap();
            let sum: f64 = x
                .iter()
                .zip(&row_values)
                .map(|(x, w)| f64::from(*x) * f64::from(*w))
                .sum();
            error += (f64::from(*out) - sum).powi(2);
            size += sum.powi(2);
        }
        assert!(
            error.sqrt() < 0.01 * size.sqrt(),
            "{weight_type}: {}",
            (error / size).sqrt()
        );
    }
}

#[test]
fn a_token_has_the_same_bits_in_every_batch() {
    let mut rng = rng(3);
    for isa in Isa::available() {
        for weight_type in WeightType::ALL {
            let (rows, cols) = (
                35,
                if weight_type.block_len() == 256 {
                    512
                } else {
                    352
                },
            );
            let data = weights(&mut rng, weight_type, rows * cols);
            let w = Matrix::new(weight_type, rows, cols, &data).unwrap();
            let x = values(&mut rng, 64 * cols);
            let alone: Vec<f32> = x
                .chunks_exact(cols)
                .flat_map(|x| run(isa, x, 1, w))
                .collect();
            for n in (1..=17).chain([64]) {
                for first in [0, 64 - n] {
                    let out = run(isa, &x[first * cols..][..n * cols], n, w);
                    let expected = &alone[first * rows..][..n * rows];
                    assert_eq!(
                        bits(&out),
                        bits(expected),
                        "{} {weight_type} n={n}",
                        isa.name()
                    );
                }
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let mut rng = rng(4);
    for weight_type in [WeightType::Q4_1, WeightType::Q6K, WeightType::F16] {
        let (rows, cols, n) = (2051, 1024, 5);
        let data = weights(&mut rng, weight_type, rows * cols);
        let w = Matrix::new(weight_type, rows, cols, &data).unwrap();
        let x = values(&mut rng, n * cols);
        let expected = in_pool(1, || run(Isa::best(), &x, n, w));
        for threads in [2, 3, 7] {
            let out = in_pool(threads, || run(Isa::best(), &x, n, w));
            assert_eq!(bits(&out), bits(&expected), "{threads} threads");
        }
    }
}

#[test]
fn unaligned_data_will_do() {
    let mut rng = rng(5);
    for weight_type in WeightType::ALL {
        let data = weights(&mut rng, weight_type, 18 * 256);
        let x = values(&mut rng, 256);
        let expected = run(
            Isa::best(),
            &x,
            1,
            Matrix::new(weight_type, 18, 256, &data).unwrap(),
        );
        for shift in [1, 2, 3, 7] {
            let mut shifted = vec![0; shift];
            shifted.extend_from_slice(&data);
            let w = Matrix::new(weight_type, 18, 256, &shifted[shift..]).unwrap();
            assert_eq!(
                bits(&run(Isa::best(), &x, 1, w)),
                bits(&expected),
                "{weight_type}"
            );
        }
    }
}

#[test]
fn extreme_codes_do_not_overflow() {
    for isa in Isa::available() {
        for weight_type in WeightType::ALL.into_iter().filter(|t| t.is_quantized()) {
            for byte in [0x00, 0x7f, 0x80, 0xff] {
                let mut data = weights(&mut rng(6), weight_type, 16 * 512);
                for (i, data) in data.iter_mut().enumerate() {
                    let scales: &[usize] = match weight_type {
                        WeightType::Q2K => &[80, 81, 82, 83],
                        WeightType::Q3K => &[108, 109],
                        WeightType::Q6K => &[208, 209],
                        _ => &[0, 1, 2, 3],
                    };
                    if !scales.contains(&(i % weight_type.block_bytes())) {
                        *data = byte;
                    }
                }
                // In formats without a minimum bytes 2 and 3 stay random codes.
                let w = Matrix::new(weight_type, 16, 512, &data).unwrap();
                for x in [1.0f32, -1.0] {
                    let x = vec![x; 512];
                    let activations = Activations::new(&x, 1, 512).unwrap();
                    let (sums, magnitudes) = reference(&activations, w);
                    let out = run(isa, &x, 1, w);
                    for ((out, sum), magnitude) in out.iter().zip(&sums).zip(&magnitudes) {
                        let error = (f64::from(*out) - sum).abs();
                        assert!(error <= 2e-6 * magnitude, "{} {weight_type}", isa.name());
                    }
                }
            }
        }
    }
}

#[test]
fn zeros_give_zeros_and_nan_stays_in_its_token() {
    let mut rng = rng(7);
    for isa in Isa::available() {
        for weight_type in WeightType::ALL {
            let data = weights(&mut rng, weight_type, 20 * 256);
            let w = Matrix::new(weight_type, 20, 256, &data).unwrap();
            let mut x = vec![0.0f32; 3 * 256];
            assert!(
                run(isa, &x, 3, w).iter().all(|&out| out == 0.0),
                "{weight_type}"
            );
            for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                x[256 + rng.random_range(0..256)] = odd;
                let out = run(isa, &x, 3, w);
                assert!(out[..20].iter().chain(&out[40..]).all(|&out| out == 0.0));
                if weight_type.is_quantized() || odd.is_nan() {
                    assert!(
                        out[20..40].iter().all(|out| out.is_nan()),
                        "{weight_type} {odd}"
                    );
                }
            }
        }
    }
}

#[test]
fn wrong_shapes_are_named() {
    let data = [0; 18 * 4];
    let w = Matrix::new(WeightType::Q4_0, 4, 32, &data).unwrap();
    let x = [0.0; 64];
    let error = matmul(&Activations::new(&x, 1, 64).unwrap(), w, &mut [0.0; 4]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "activation row holds 64 elements where its shape needs 32"
    );
    let error = matmul(&Activations::new(&x, 2, 32).unwrap(), w, &mut [0.0; 7]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "out holds 7 elements where its shape needs 8"
    );
}

#[test]
fn empty_shapes_are_no_trouble() {
    let none = Matrix::new(WeightType::Q8_0, 0, 32, &[]).unwrap();
    matmul(&Activations::new(&[0.0; 32], 1, 32).unwrap(), none, &mut []).unwrap();
    let flat = Matrix::new(WeightType::Q8_0, 2, 0, &[]).unwrap();
    let mut out = [1.0; 2];
    matmul(&Activations::new(&[], 1, 0).unwrap(), flat, &mut out).unwrap();
    assert_eq!(out, [0.0; 2]);
    let data = [0; 34];
    let w = Matrix::new(WeightType::Q8_0, 1, 32, &data).unwrap();
    matmul(&Activations::new(&[], 0, 32).unwrap(), w, &mut []).unwrap();
}
