//! `activations x weights^T`.

use crate::activations::Activations;
use crate::dequantize::dequantize;
use crate::error::{KernelError, check_length, checked_product};
use crate::matrix::Matrix;

/// `out [n, rows] = x [n, cols] @ w^T`, where `w` is `[rows, cols]`.
///
/// Every element is computed by the same operations in the same order whatever `n` is,
/// wherever its row stands and however many threads of the current rayon pool take part, so
/// a token's result does not depend on its batch.
///
/// # Errors
/// [`KernelError::Length`] if `x` has another number of columns than `w`, or `out` is not
/// `[n, rows]`.
pub fn matmul(x: &Activations<'_>, w: Matrix<'_>, out: &mut [f32]) -> Result<(), KernelError> {
    check_length("activation row", x.cols(), w.cols())?;
    check_length("out", out.len(), checked_product("out", x.n(), w.rows())?)?;
    let mut weights = vec![0.0f32; w.cols()];
    for row in 0..w.rows() {
        dequantize(w.weight_type(), w.row(row), &mut weights);
        for token in 0..x.n() {
            let values = &x.values()[token * x.cols()..][..x.cols()];
            out[token * w.rows() + row] = values.iter().zip(&weights).map(|(x, w)| x * w).sum();
        }
    }
    Ok(())
}
