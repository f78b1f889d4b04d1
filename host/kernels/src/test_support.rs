//! Random inputs for tests.

use half::f16;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::weight_type::WeightType;

/// The same numbers in every run.
pub(crate) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Uniform in `-1..1`.
pub(crate) fn values(rng: &mut StdRng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Blocks with all codes and scales there are, of weights about 1 in size.
pub(crate) fn weights(rng: &mut StdRng, weight_type: WeightType, count: usize) -> Vec<u8> {
    let mut data = Vec::new();
    match weight_type {
        WeightType::F32 => {
            data.extend(values(rng, count).into_iter().flat_map(f32::to_le_bytes));
        }
        WeightType::F16 => {
            data.extend(
                values(rng, count)
                    .into_iter()
                    .map(f16::from_f32)
                    .flat_map(f16::to_le_bytes),
            );
        }
        WeightType::BF16 => {
            let values = values(rng, count).into_iter().map(half::bf16::from_f32);
            data.extend(values.flat_map(half::bf16::to_le_bytes));
        }
        _ => {
            data.resize(
                count / weight_type.block_len() * weight_type.block_bytes(),
                0,
            );
            rng.fill(&mut data[..]);
            // Random bytes make f16 of any size, so those are set.
            let (offsets, size): (&[usize], f32) = match weight_type {
                WeightType::Q4_0 => (&[0], 1.0 / 8.0),
                WeightType::Q4_1 => (&[0, 2], 1.0 / 8.0),
                WeightType::Q5_0 => (&[0], 1.0 / 16.0),
                WeightType::Q5_1 => (&[0, 2], 1.0 / 16.0),
                WeightType::Q8_0 => (&[0], 1.0 / 128.0),
                WeightType::Q2K => (&[80, 82], 1.0 / 64.0),
                WeightType::Q3K => (&[108], 1.0 / 128.0),
                WeightType::Q4K => (&[0, 2], 1.0 / 1024.0),
                WeightType::Q5K => (&[0, 2], 1.0 / 2048.0),
                _ => (&[208], 1.0 / 4096.0),
            };
            for block in data.chunks_exact_mut(weight_type.block_bytes()) {
                for &offset in offsets {
                    let scale = f16::from_f32(rng.random_range(-size..size));
                    block[offset..offset + 2].copy_from_slice(&scale.to_le_bytes());
                }
            }
        }
    }
    data
}

/// `rayon` with so many threads.
pub(crate) fn in_pool<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.expect("threads can be had").install(f)
}

/// For comparing every bit, NaN and signed zeros included.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
