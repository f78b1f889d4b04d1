//! `activations x weights^T`.

mod float;
mod output;
mod quantized;
#[cfg(test)]
mod tests;
mod unpack;

use std::ops::Range;

use crate::activations::Activations;
use crate::error::{KernelError, check_length, checked_product};
use crate::matrix::Matrix;
use crate::parallel::for_ranges;
use crate::simd::Isa;
use crate::weight_type::WeightType;

use self::float::Float;
use self::output::Output;
use self::quantized::Quantized;

/// `out [n, rows] = x [n, cols] @ w^T`, where `w` is `[rows, cols]`.
///
/// Quantized weights meet activations in 8 bits, other weights meet them in f32. Every
/// element is computed by the same operations in the same order whatever `n` is, wherever its
/// row stands, whatever the instruction set and however many threads of the current rayon
/// pool take part, so a token's result does not depend on its batch.
///
/// # Errors
/// [`KernelError::Length`] if `x` has another number of columns than `w`, or `out` is not
/// `[n, rows]`.
pub fn matmul(x: &Activations<'_>, w: Matrix<'_>, out: &mut [f32]) -> Result<(), KernelError> {
    matmul_on(Isa::best(), x, w, out)
}

/// [`matmul`] on a certain instruction set.
fn matmul_on(
    isa: Isa,
    x: &Activations<'_>,
    w: Matrix<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    check_length("activation row", x.cols(), w.cols())?;
    check_length("out", out.len(), checked_product("out", x.n(), w.rows())?)?;
    if w.cols() == 0 {
        out.fill(0.0);
    }
    if w.cols() == 0 || out.is_empty() {
        return Ok(());
    }
    let out = Output::new(out, w.rows());
    let group = if w.weight_type().is_quantized() {
        isa.rows()
    } else {
        4
    };
    let group_work = group * w.cols() * x.n();
    if w.weight_type().is_quantized() {
        x.quantized_on(isa);
    }
    for_ranges(
        w.rows().div_ceil(group),
        group_work.div_ceil(MACS_PER_NS),
        |groups| {
            // SAFETY: `for_ranges` gives each group to one call.
            unsafe { multiply(isa, x, w, out, groups, group) };
        },
    );
    Ok(())
}

/// Multiply-adds per nanosecond and thread, for splitting the work. Of the right order.
const MACS_PER_NS: usize = 30;

/// Multiplies some groups of rows.
///
/// # Safety
/// No other thread writes the rows of `groups`.
unsafe fn multiply(
    isa: Isa,
    x: &Activations<'_>,
    w: Matrix<'_>,
    out: Output<'_>,
    groups: Range<usize>,
    group: usize,
) {
    let rows = groups.start * group..w.rows().min(groups.end * group);
    macro_rules! run {
        (float $format:ident) => {
            // SAFETY: the match names the format; the caller vouches for the rows.
            isa.run(unsafe { Float::<float::$format>::new(x.values(), w, out, rows) })
        };
        ($format:ident) => {
            // SAFETY: the match names the format; the caller vouches for the groups.
            isa.run(unsafe {
                Quantized::<unpack::$format>::new(x.quantized_on(isa), w, out, groups)
            })
        };
    }
    match w.weight_type() {
        WeightType::F32 => run!(float F32),
        WeightType::F16 => run!(float F16),
        WeightType::BF16 => run!(float BF16),
        WeightType::Q4_0 => run!(Q4_0),
        WeightType::Q4_1 => run!(Q4_1),
        WeightType::Q5_0 => run!(Q5_0),
        WeightType::Q5_1 => run!(Q5_1),
        WeightType::Q8_0 => run!(Q8_0),
        WeightType::Q2K => run!(Q2K),
        WeightType::Q3K => run!(Q3K),
        WeightType::Q4K => run!(Q4K),
        WeightType::Q5K => run!(Q5K),
        WeightType::Q6K => run!(Q6K),
    }
}
