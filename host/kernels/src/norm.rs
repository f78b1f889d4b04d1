//! Root-mean-square norm.

use crate::error::{KernelError, check_length};

/// `out = x / sqrt(mean(x^2) + eps) * weight`, row by row.
///
/// `x`, `out`: `[n, weight.len()]`. `weight`: Gemma's `+ 1` already folded in. Squares are
/// summed in f32.
///
/// # Errors
/// [`KernelError::Length`] if `x` does not consist of whole rows or `out` is not as long.
///
/// Source: Zhang & Sennrich 2019, eq. 4.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> Result<(), KernelError> {
    let dim = weight.len();
    check_length("x", x.len(), x.len() / dim.max(1) * dim)?;
    check_length("out", out.len(), x.len())?;
    if dim == 0 {
        return Ok(());
    }
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let squares: f32 = x.iter().map(|x| x * x).sum();
        let scale = 1.0 / (squares / dim as f32 + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
    Ok(())
}
