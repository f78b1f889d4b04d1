//! Rotary position embedding.

use crate::error::{KernelError, check_length, checked_product};

/// Which two dimensions of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// `i` and `i + dim / 2`: NeoX, and all of the hub's checkpoints.
    Halves,
    /// `2 i` and `2 i + 1`: GGUF files of the Llama family, whose q and k rows are permuted
    /// for it.
    Interleaved,
}

/// Turns each pair `i` of each head by `position * inv_freq[i]`, angles in f32.
///
/// `x`: `[n, heads, dim]`. `positions`: `[n]`. `inv_freq`: `[r]` with `2 r <= dim`; the first
/// `2 r` dimensions turn, the others stay.
///
/// # Errors
/// [`KernelError::Length`] if a length does not fit.
pub fn rope(
    x: &mut [f32],
    heads: usize,
    dim: usize,
    positions: &[usize],
    inv_freq: &[f32],
    style: RopeStyle,
) -> Result<(), KernelError> {
    let row = checked_product("heads", heads, dim)?;
    check_length("x", x.len(), checked_product("x", positions.len(), row)?)?;
    let pairs = inv_freq.len();
    if pairs > dim / 2 {
        return Err(KernelError::OutOfRange {
            what: "length of inv_freq",
            value: pairs,
            limit: dim / 2 + 1,
        });
    }
    if row == 0 {
        return Ok(());
    }
    let mut turns = vec![(0.0f32, 0.0f32); pairs];
    for (x, &position) in x.chunks_exact_mut(row).zip(positions) {
        for (turn, inv_freq) in turns.iter_mut().zip(inv_freq) {
            let (sin, cos) = (position as f32 * inv_freq).sin_cos();
            *turn = (sin, cos);
        }
        for head in x.chunks_exact_mut(dim) {
            for (i, &(sin, cos)) in turns.iter().enumerate() {
                let (first, second) = match style {
                    RopeStyle::Halves => (i, i + pairs),
                    RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                };
                let (a, b) = (head[first], head[second]);
                head[first] = a * cos - b * sin;
                head[second] = a * sin + b * cos;
            }
        }
    }
    Ok(())
}
