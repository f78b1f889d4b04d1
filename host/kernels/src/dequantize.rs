//! Block formats to f32, one block at a time: for embedding rows, and the plain statement of
//! what each format means.

use half::{bf16, f16};

use crate::weight_type::WeightType;

/// Values of consecutive blocks. `blocks` holds exactly the blocks of `out.len()` values.
pub(crate) fn dequantize(weight_type: WeightType, blocks: &[u8], out: &mut [f32]) {
    let decode: fn(&[u8], &mut [f32]) = match weight_type {
        WeightType::F32 => |b, out| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        WeightType::F16 => |b, out| out[0] = half_at(b, 0),
        WeightType::BF16 => |b, out| out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        WeightType::Q4_0 => q4_0,
        WeightType::Q4_1 => q4_1,
        WeightType::Q5_0 => q5_0,
        WeightType::Q5_1 => q5_1,
        WeightType::Q8_0 => q8_0,
        WeightType::Q2K => q2_k,
        WeightType::Q3K => q3_k,
        WeightType::Q4K => q4_k,
        WeightType::Q5K => q5_k,
        WeightType::Q6K => q6_k,
    };
    let blocks = blocks.chunks_exact(weight_type.block_bytes());
    for (block, out) in blocks.zip(out.chunks_exact_mut(weight_type.block_len())) {
        decode(block, out);
    }
}

/// The f16 at byte `offset`.
fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// Codes of 4 bits: values `0..16` in the low halves of the bytes, `16..32` in the high ones.
fn nibble(codes: &[u8], i: usize) -> u8 {
    if i < 16 {
        codes[i] & 15
    } else {
        codes[i - 16] >> 4
    }
}

/// `[d: f16][codes: 16]`, `d * (code - 8)`.
fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * (f32::from(nibble(&block[2..], i)) - 8.0);
    }
}

/// `[d: f16][m: f16][codes: 16]`, `d * code + m`.
fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(nibble(&block[4..], i)) + m;
    }
}

/// The code of 5 bits whose high bit is bit `i` of the word at `high`.
fn five_bits(block: &[u8], high: usize, i: usize) -> f32 {
    let bit = (block[high + i / 8] >> (i % 8)) & 1;
    f32::from(nibble(&block[high + 4..], i) | (bit << 4))
}

/// `[d: f16][high bits: 4][codes: 16]`, `d * (code - 16)`.
fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * (five_bits(block, 2, i) - 16.0);
    }
}

/// `[d: f16][m: f16][high bits: 4][codes: 16]`, `d * code + m`.
fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * five_bits(block, 4, i) + m;
    }
}

/// `[d: f16][codes: i8 x 32]`, `d * code`.
fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (out, &code) in out.iter_mut().zip(&block[2..]) {
        *out = d * f32::from(code.cast_signed());
    }
}

/// The code of 2 bits of value `i`, in Q2_K and Q3_K. Each half of 128 values takes 32 bytes,
/// 2 bits of each for every 32 values.
fn two_bits(codes: &[u8], i: usize) -> u8 {
    (codes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3
}

/// `[scales and mins: 16][codes: 64][d: f16][dmin: f16]`, sixteen sub-blocks of 16 with
/// `d * scale * code - dmin * min`; the scale is in the low half of its byte.
fn q2_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (i, out) in out.iter_mut().enumerate() {
        let (scale, min) = (block[i / 16] & 15, block[i / 16] >> 4);
        let code = f32::from(two_bits(&block[16..80], i));
        *out = d * f32::from(scale) * code - dmin * f32::from(min);
    }
}

/// The scale, 6 bits less 32, of sub-block `i` of a Q3_K block. The low 4 bits of the sixteen
/// are the halves of 8 bytes, low halves first; 4 more bytes have the high 2 bits, each those of
/// every fourth scale.
fn q3_k_scale(scales: &[u8], i: usize) -> f32 {
    let low = (scales[i % 8] >> (i / 8 * 4)) & 15;
    let high = (scales[8 + i % 4] >> (i / 4 * 2)) & 3;
    f32::from(low | high << 4) - 32.0
}

/// `[high bits: 32][codes: 64][scales: 12][d: f16]`, sixteen sub-blocks of 16 with
/// `d * scale * (code - 4)`. Value `i` has bit `i / 32` of high byte `i % 32`.
fn q3_k(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 108);
    for (i, out) in out.iter_mut().enumerate() {
        let high = (block[i % 32] >> (i / 32)) & 1;
        let code = f32::from(two_bits(&block[32..96], i) | high << 2) - 4.0;
        *out = d * q3_k_scale(&block[96..108], i / 16) * code;
    }
}

/// Scale and minimum, 6 bits each, of sub-block `i` of a Q4_K or Q5_K block. The first four
/// of each lie in the low bits of 4 bytes; the others have their high bits in the upper two
/// bits of those, and their low bits in the last four bytes.
fn scale_and_min(scales: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = if i < 4 {
        (scales[i] & 63, scales[i + 4] & 63)
    } else {
        let low = scales[i + 4];
        (
            low & 15 | (scales[i - 4] >> 6) << 4,
            low >> 4 | (scales[i] >> 6) << 4,
        )
    };
    (f32::from(scale), f32::from(min))
}

/// `[d: f16][dmin: f16][scales and mins: 12][codes: 128]`, eight sub-blocks of 32 with
/// `d * scale * code - dmin * min`. Each 32 bytes of codes hold two sub-blocks, the first in
/// the low halves.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (s, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], s);
        let codes = &block[16 + s / 2 * 32..][..32];
        for (out, code) in out.iter_mut().zip(codes) {
            *out = d * scale * f32::from((code >> (s % 2 * 4)) & 15) - dmin * min;
        }
    }
}

/// As Q4_K, with 32 bytes of high bits before the codes: sub-block `s` has bit `s` of each.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let high = &block[16..48];
    for (s, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], s);
        let codes = &block[48 + s / 2 * 32..][..32];
        for ((out, code), high) in out.iter_mut().zip(codes).zip(high) {
            let code = (code >> (s % 2 * 4)) & 15 | ((high >> s) & 1) << 4;
            *out = d * scale * f32::from(code) - dmin * min;
        }
    }
}

/// `[low: 128][high: 64][scales: i8 x 16][d: f16]`, sixteen sub-blocks of 16 with
/// `d * scale * (code - 32)`. Each half of 128 values takes 64 low bytes (its first 64 values
/// in the low halves) and 32 high bytes (2 bits for each 32 values).
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (i, out) in out.iter_mut().enumerate() {
        let (half, quarter, j) = (i / 128, i % 128 / 32, i % 32);
        let low = low[half * 64 + quarter % 2 * 32 + j] >> (quarter / 2 * 4) & 15;
        let high = high[half * 32 + j] >> (quarter * 2) & 3;
        let code = f32::from(low | high << 4) - 32.0;
        *out = d * f32::from(scales[i / 16].cast_signed()) * code;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::{GgmlDType, QStorage, QTensor};
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::test_support::{bits, rng, weights};

    /// What candle makes of the same bytes.
    fn candle(weight_type: WeightType, blocks: &[u8], count: usize) -> Vec<f32> {
        let dtype = match weight_type {
            WeightType::F32 => GgmlDType::F32,
            WeightType::F16 => GgmlDType::F16,
            WeightType::BF16 => {
                let tensor = Tensor::from_raw_buffer(blocks, DType::BF16, &[count], &Device::Cpu);
                return tensor
                    .unwrap()
                    .to_dtype(DType::F32)
                    .unwrap()
                    .to_vec1()
                    .unwrap();
            }
            WeightType::Q4_0 => GgmlDType::Q4_0,
            WeightType::Q4_1 => GgmlDType::Q4_1,
            WeightType::Q5_0 => GgmlDType::Q5_0,
            WeightType::Q5_1 => GgmlDType::Q5_1,
            WeightType::Q8_0 => GgmlDType::Q8_0,
            WeightType::Q2K => GgmlDType::Q2K,
            WeightType::Q3K => GgmlDType::Q3K,
            WeightType::Q4K => GgmlDType::Q4K,
            WeightType::Q5K => GgmlDType::Q5K,
            WeightType::Q6K => GgmlDType::Q6K,
        };
        assert_eq!(
            (dtype.block_size(), dtype.type_size()),
            (weight_type.block_len(), weight_type.block_bytes())
        );
        let storage = QStorage::from_data(blocks.into(), &Device::Cpu, dtype).unwrap();
        let tensor = QTensor::new(storage, count).unwrap();
        tensor.dequantize(&Device::Cpu).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn every_format_means_what_candle_says() {
        let mut rng = rng(1);
        for weight_type in WeightType::ALL {
            let count = 20 * 256;
            let blocks = weights(&mut rng, weight_type, count);
            let mut out = vec![f32::NAN; count];
            dequantize(weight_type, &blocks, &mut out);
            assert_eq!(
                bits(&out),
                bits(&candle(weight_type, &blocks, count)),
                "{weight_type}"
            );
        }
    }
}
