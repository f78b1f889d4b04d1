//! Random matrices of every format.

use gapura_kernels::device::{MatrixFormat, Precision};
use half::{bf16, f16};
use rand::{Rng, rngs::StdRng};

use super::act_bytes;

/// `[m, k]` random weights as a device has them, rows `row_bytes` apart; about as great as makes
/// products with [`randoms`](super::randoms) come out near 1. Padding holds garbage.
pub(crate) fn matrix(
    rng: &mut StdRng,
    format: MatrixFormat,
    m: usize,
    k: usize,
    row_bytes: usize,
) -> Vec<u8> {
    let mut bytes = vec![0; m * row_bytes];
    rng.fill(&mut bytes[..]);
    let scale = 1.0 / (k as f32).sqrt();
    let parts = format.parts(k);
    for row in bytes.chunks_exact_mut(row_bytes) {
        // Scales of a random size and sign, so that none stands in for another.
        let mut random_scale =
            |size: f32| size * rng.random_range(0.5..2.0) * [1.0, -1.0][rng.random_range(0..2)];
        match format {
            MatrixFormat::F32 => {
                let values: Vec<f32> = (0..k).map(|_| random_scale(scale)).collect();
                row[..4 * k].copy_from_slice(&act_bytes(Precision::F32, &values));
            }
            MatrixFormat::Bf16 => {
                let values: Vec<f32> = (0..k).map(|_| random_scale(scale)).collect();
                row[..2 * k].copy_from_slice(&act_bytes(Precision::Bf16, &values));
            }
            MatrixFormat::W8 | MatrixFormat::W4 => {
                let size = if format == MatrixFormat::W8 {
                    scale / 64.0
                } else {
                    scale / 4.0
                };
                for group in 0..k.div_ceil(128) {
                    let value = bf16::from_f32(random_scale(size));
                    row[parts[1] + 2 * group..][..2].copy_from_slice(&value.to_le_bytes());
                }
            }
            MatrixFormat::Q8_0 => {
                for block in 0..k / 32 {
                    let value = f16::from_f32(random_scale(scale / 64.0));
                    row[parts[1] + 2 * block..][..2].copy_from_slice(&value.to_le_bytes());
                }
            }
            MatrixFormat::Q6K => {
                for block in 0..k / 256 {
                    let value = f16::from_f32(random_scale(scale / 1024.0));
                    row[parts[3] + 2 * block..][..2].copy_from_slice(&value.to_le_bytes());
                }
            }
            MatrixFormat::Q4K => {
                for block in row[..k / 256 * 144].chunks_exact_mut(144) {
                    for half in 0..2 {
                        let value = f16::from_f32(random_scale(scale / 256.0));
                        block[2 * half..][..2].copy_from_slice(&value.to_le_bytes());
                    }
                }
            }
        }
    }
    bytes
}
