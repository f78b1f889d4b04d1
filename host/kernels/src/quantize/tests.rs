use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::bf16;
use rand::Rng;

use super::*;
use crate::dequantize::dequantize;
use crate::test_support::{bits, in_pool, rng};

const TARGETS: [(WeightType, GgmlDType); 3] = [
    (WeightType::Q8_0, GgmlDType::Q8_0),
    (WeightType::Q4_1, GgmlDType::Q4_1),
    (WeightType::Q4K, GgmlDType::Q4K),
];

/// Weights as they are: bell-shaped, some rows larger than others, a few outliers.
fn bell(seed: u64, rows: usize, cols: usize) -> Vec<f32> {
    let mut rng = rng(seed);
    (0..rows * cols)
        .map(|i| {
            let sum: f32 = (0..12).map(|_| rng.random_range(-0.5..0.5)).sum();
            let outlier = if rng.random_range(0..500) == 0 {
                6.0
            } else {
                1.0
            };
            0.02 * (1.0 + (i / cols % 5) as f32) * sum * outlier
        })
        .collect()
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn quantized(
    isa: Isa,
    values: &[f32],
    cols: usize,
    to: WeightType,
) -> Result<Vec<u8>, KernelError> {
    let data = to_bytes(values);
    let w = Matrix::new(WeightType::F32, values.len() / cols, cols, &data).unwrap();
    let mut out = vec![0xaa; values.len() / to.block_len() * to.block_bytes()];
    quantize_on(isa, w, to, &mut out).map(|()| out)
}

fn restored(to: WeightType, blocks: &[u8], count: usize) -> Vec<f32> {
    let mut values = vec![f32::NAN; count];
    dequantize(to, blocks, &mut values);
    values
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum()
}

/// candle's quantizers follow GGML's; ours must not lose more.
#[test]
fn errors_are_no_larger_than_candles() {
    let (rows, cols) = (20, 1024);
    let values = bell(1, rows, cols);
    let tensor = Tensor::from_slice(&values, (rows, cols), &Device::Cpu).unwrap();
    for (to, dtype) in TARGETS {
        let blocks = quantized(Isa::best(), &values, cols, to).unwrap();
        let ours = squared_error(&values, &restored(to, &blocks, values.len()));
        let theirs = QTensor::quantize(&tensor, dtype).unwrap();
        let theirs = theirs.dequantize(&Device::Cpu).unwrap();
        let theirs = theirs.flatten_all().unwrap().to_vec1().unwrap();
        let theirs = squared_error(&values, &theirs);
        assert!(ours <= theirs, "{to}: {ours} for {theirs}");
        let size: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
        let relative = (ours / size).sqrt();
        let limit = if to == WeightType::Q8_0 { 0.006 } else { 0.08 };
        assert!(relative < limit, "{to}: {relative}");
    }
}

#[test]
fn every_instruction_set_and_number_of_threads_gives_the_same_bits() {
    let values = bell(2, 64, 512);
    for (to, _) in TARGETS {
        let expected = quantized(Isa::best(), &values, 512, to).unwrap();
        for isa in Isa::available() {
            let found = quantized(isa, &values, 512, to).unwrap();
            assert!(found == expected, "{to} on {}", isa.name());
        }
        for threads in [1, 2, 3] {
            let found = in_pool(threads, || quantized(Isa::best(), &values, 512, to));
            assert!(found.unwrap() == expected, "{to} by {threads} threads");
        }
    }
}

#[test]
fn half_precision_is_widened_first() {
    let values: Vec<f32> = bell(3, 3, 256);
    let rounded = |round: fn(f32) -> f32| values.iter().map(|v| round(*v)).collect::<Vec<f32>>();
    for isa in Isa::available() {
        for (to, _) in TARGETS {
            for (from, round, data) in [
                (
                    WeightType::BF16,
                    (|v| bf16::from_f32(v).to_f32()) as fn(f32) -> f32,
                    values
                        .iter()
                        .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                        .collect::<Vec<u8>>(),
                ),
                (
                    WeightType::F16,
                    |v| f16::from_f32(v).to_f32(),
                    values
                        .iter()
                        .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                        .collect(),
                ),
            ] {
                let w = Matrix::new(from, 3, 256, &data).unwrap();
                let expected = quantized(isa, &rounded(round), 256, to).unwrap();
                let mut out = vec![0; expected.len()];
                quantize_on(isa, w, to, &mut out).unwrap();
                assert!(out == expected, "{from} to {to}");
            }
        }
    }
}

/// What a format can hold exactly, or nearly so, comes back.
#[test]
fn simple_rows_come_back() {
    let ramp: Vec<f32> = (0..256).map(|i| (i % 16) as f32 / 16.0 - 0.5).collect();
    for isa in Isa::available() {
        for (to, _) in TARGETS {
            for value in [0.0, 1.0, -1.0, 0.75, -0.01] {
                let row = vec![value; 256];
                let blocks = quantized(isa, &row, 256, to).unwrap();
                for found in restored(to, &blocks, 256) {
                    assert!(
                        (found - value).abs() <= 1e-3 * value.abs(),
                        "{to}: {found} for {value}"
                    );
                }
            }
            let blocks = quantized(isa, &ramp, 256, to).unwrap();
            for (found, value) in restored(to, &blocks, 256).iter().zip(&ramp) {
                assert!((found - value).abs() < 5e-3, "{to}: {found} for {value}");
            }
        }
    }
}

#[test]
fn tiny_values_become_zeros_or_themselves() {
    for isa in Isa::available() {
        for (to, _) in TARGETS {
            for size in [1e-44, 1e-38, 1e-30, 1e-20] {
                let row: Vec<f32> = (0..256).map(|i| size * (i % 7) as f32).collect();
                let blocks = quantized(isa, &row, 256, to).unwrap();
                let found = restored(to, &blocks, 256);
                assert!(found.iter().all(|v| v.abs() <= 1e-6), "{to} {size}");
            }
        }
    }
}

#[test]
fn values_that_do_not_fit_are_refused_with_their_row() {
    for isa in Isa::available() {
        for (to, _) in TARGETS {
            for odd in [
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::MAX,
                f32::MIN,
                1e9,
            ] {
                for place in [0, 17, 255] {
                    let mut values = bell(4, 3, 256);
                    values[256 + place] = odd;
                    assert_eq!(
                        quantized(isa, &values, 256, to),
                        Err(KernelError::Unquantizable {
                            row: 1,
                            weight_type: to
                        }),
                        "{odd} at {place}, {}",
                        isa.name()
                    );
                }
            }
        }
    }
    let error = KernelError::Unquantizable {
        row: 1,
        weight_type: WeightType::Q4K,
    };
    assert_eq!(error.to_string(), "row 1 has a value that Q4_K cannot hold");
}

#[test]
fn what_cannot_be_quantized_is_named() {
    let data = vec![0; 4 * 96];
    let w = Matrix::new(WeightType::F32, 1, 96, &data).unwrap();
    let error = |w, to, len: usize| quantize(w, to, &mut vec![0; len]).unwrap_err().to_string();
    assert_eq!(
        error(w, WeightType::Q5_0, 66),
        "F32 cannot be quantized to Q5_0"
    );
    assert_eq!(
        error(w, WeightType::Q4K, 66),
        "Q4_K needs columns in multiples of 256, the matrix has 96"
    );
    assert_eq!(
        error(w, WeightType::Q8_0, 101),
        "out holds 101 elements where its shape needs 102"
    );
    let w = Matrix::new(WeightType::Q8_0, 1, 32, &data[..34]).unwrap();
    assert_eq!(
        error(w, WeightType::Q4_1, 20),
        "Q8_0 cannot be quantized to Q4_1"
    );
    let empty = Matrix::new(WeightType::F32, 0, 32, &[]).unwrap();
    quantize(empty, WeightType::Q8_0, &mut []).unwrap();
}

/// The formats' own round trip: values that were restored are restored again.
#[test]
fn eight_bits_are_stable() {
    let values = bell(5, 4, 256);
    let once = quantized(Isa::best(), &values, 256, WeightType::Q8_0).unwrap();
    let values = restored(WeightType::Q8_0, &once, values.len());
    let twice = quantized(Isa::best(), &values, 256, WeightType::Q8_0).unwrap();
    assert_eq!(
        bits(&restored(WeightType::Q8_0, &twice, values.len())),
        bits(&values)
    );
}
