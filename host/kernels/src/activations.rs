//! [`Activations`]: the left side of a matrix product, in f32 and, where a quantized matrix
//! wants it, in 8 bits.

use std::sync::OnceLock;

use crate::error::{KernelError, check_length, checked_product};
use crate::parallel::for_parts;
use crate::simd::{Isa, LANES, Op, ROUND, Simd};

/// Values per scale.
pub(crate) const BLOCK: usize = 32;

/// About what making a block takes, for splitting the work.
const BLOCK_NS: usize = 15;

/// 32 activations in 8 bits: `value ≈ scale * code`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(16))]
pub(crate) struct QuantBlock {
    /// Largest magnitude / 127; 0 if all values are 0.
    pub(crate) scale: f32,
    /// `scale * (sums[0] + sums[1])`, for formats with a minimum.
    pub(crate) scaled_sum: f32,
    /// Sums of the first and the last 16 codes.
    pub(crate) sums: [i32; 2],
    /// In `-127..=127`.
    pub(crate) codes: [i8; BLOCK],
}

/// Inputs of one or more matrix products: `[n, cols]` f32, row-major.
///
/// The first product with a quantized matrix also makes a copy in 8 bits, a scale for each
/// 32 values; further products (the three of q, k and v, the two of gate and up) share it.
#[derive(Debug)]
pub struct Activations<'a> {
    values: &'a [f32],
    n: usize,
    cols: usize,
    quantized: OnceLock<Vec<QuantBlock>>,
}

impl<'a> Activations<'a> {
    /// A view of `values` as `[n, cols]`.
    ///
    /// # Errors
    /// [`KernelError::Length`] if `values` has another length than the shape.
    pub fn new(values: &'a [f32], n: usize, cols: usize) -> Result<Self, KernelError> {
        check_length(
            "activations",
            values.len(),
            checked_product("activations", n, cols)?,
        )?;
        Ok(Self {
            values,
            n,
            cols,
            quantized: OnceLock::new(),
        })
    }

    /// Rows, one for each token.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Features per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// `[n, cols]`, as given.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// `[n, cols / 32]`. Only for `cols` in multiples of 32.
    pub(crate) fn quantized_on(&self, isa: Isa) -> &[QuantBlock] {
        self.quantized.get_or_init(|| {
            let (values, rest) = self.values.as_chunks::<BLOCK>();
            assert!(rest.is_empty(), "a row has whole blocks");
            let mut blocks = vec![QuantBlock::default(); values.len()];
            for_parts(&mut blocks, 1, BLOCK_NS, |first, blocks| {
                let values = &values[first..][..blocks.len()];
                isa.run(Quantize { values, blocks });
            });
            blocks
        })
    }
}

impl QuantBlock {
    /// Codes `4d .. 4d + 4`, the first in the low byte.
    #[inline(always)]
    pub(crate) fn word(&self, d: usize) -> i32 {
        let bytes = self.codes.as_chunks::<4>().0[d].map(i8::cast_unsigned);
        i32::from_le_bytes(bytes)
    }
}

/// To the nearest code, ties to even, the largest magnitude becoming ±127.
struct Quantize<'a> {
    values: &'a [[f32; BLOCK]],
    blocks: &'a mut [QuantBlock],
}

impl Op for Quantize<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (values, block) in self.values.iter().zip(self.blocks) {
            quantize(s, values, block);
        }
    }
}

/// Values that are not finite make the scale NaN, and with it every product.
#[inline(always)]
fn quantize<S: Simd>(s: S, values: &[f32; BLOCK], block: &mut QuantBlock) {
    let (halves, _) = values.as_chunks::<LANES>();
    let halves = [s.load(&halves[0]), s.load(&halves[1])];
    let zero = s.splat(0.0);
    let mut largest = zero;
    let mut not_finite = zero;
    for half in halves {
        largest = s.max(s.max(half, s.sub(zero, half)), largest);
        not_finite = s.fma(half, zero, not_finite);
    }
    let largest = s.largest(largest);
    // Magnitudes so small that their inverse overflows are as good as zero.
    let (scale, inverse) = if largest > 1e-30 {
        (largest / 127.0, 127.0 / largest)
    } else {
        (0.0, 0.0)
    };
    for (i, half) in halves.into_iter().enumerate() {
        let shifted = s.fma(half, s.splat(inverse), s.splat(ROUND));
        block.codes[i * LANES..][..LANES].copy_from_slice(&s.low_bytes(shifted));
        // Whole numbers far below 2^24: exact, and garbage only where the scale is NaN.
        block.sums[i] = s.sum(s.sub(shifted, s.splat(ROUND))) as i32;
    }
    block.scale = scale + s.sum(not_finite);
    block.scaled_sum = block.scale * (block.sums[0] + block.sums[1]) as f32;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{rng, values};

    #[test]
    fn codes_are_the_nearest_on_every_instruction_set() {
        for isa in Isa::available() {
            let x = values(&mut rng(1), 7 * BLOCK);
            let activations = Activations::new(&x, 7, BLOCK).unwrap();
            for (x, block) in x.chunks_exact(BLOCK).zip(activations.quantized_on(isa)) {
                let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                assert_eq!(block.scale, largest / 127.0);
                for (x, code) in x.iter().zip(block.codes) {
                    let code = f32::from(code);
                    assert!((x - block.scale * code).abs() <= 0.50001 * block.scale);
                }
                let sum: i32 = block.codes.iter().map(|&code| i32::from(code)).sum();
                assert_eq!(block.sums[0] + block.sums[1], sum);
                assert_eq!(block.scaled_sum, block.scale * sum as f32);
                assert_eq!(block.codes.iter().map(|code| code.abs()).max(), Some(127));
            }
        }
    }

    #[test]
    fn values_too_small_for_a_scale_are_zeros() {
        for isa in Isa::available() {
            for size in [0.0, 1e-44, 1e-38] {
                let x = [size; BLOCK];
                let activations = Activations::new(&x, 1, BLOCK).unwrap();
                let block = activations.quantized_on(isa)[0];
                assert_eq!(
                    (block.scale, block.scaled_sum, block.codes),
                    (0.0, 0.0, [0; BLOCK])
                );
            }
        }
    }

    #[test]
    fn a_wrong_length_is_named() {
        let error = Activations::new(&[0.0; 7], 2, 4).unwrap_err();
        assert_eq!(
            error.to_string(),
            "activations holds 7 elements where its shape needs 8"
        );
    }
}
