//! [`Activations`]: the left side of a matrix product, in f32 and, where a quantized matrix
//! wants it, in 8 bits.

use std::sync::OnceLock;

use crate::error::{KernelError, check_length, checked_product};

/// Values per scale.
pub(crate) const BLOCK: usize = 32;

/// 32 activations in 8 bits: `value ≈ scale * code`.
#[derive(Debug, Clone, Copy)]
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
    pub(crate) fn quantized(&self) -> &[QuantBlock] {
        debug_assert!(self.cols.is_multiple_of(BLOCK));
        self.quantized.get_or_init(|| {
            let (blocks, _) = self.values.as_chunks::<BLOCK>();
            blocks.iter().map(quantize).collect()
        })
    }
}

/// To the nearest code, ties to even, the largest magnitude becoming ±127.
///
/// Values that are not finite make the block's scale so too, and with it every product.
fn quantize(values: &[f32; BLOCK]) -> QuantBlock {
    let largest = values
        .iter()
        .fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut codes = [0i8; BLOCK];
    for (code, value) in codes.iter_mut().zip(values) {
        *code = (value * inverse).round_ties_even() as i8;
    }
    let sum = |codes: &[i8]| codes.iter().map(|&code| i32::from(code)).sum::<i32>();
    let sums = [sum(&codes[..BLOCK / 2]), sum(&codes[BLOCK / 2..])];
    QuantBlock {
        scale,
        scaled_sum: scale * (sums[0] + sums[1]) as f32,
        sums,
        codes,
    }
}
