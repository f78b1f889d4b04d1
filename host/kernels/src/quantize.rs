//! Numbers to block formats, for models that are made smaller while they are loaded. How a block
//! means its values stands in `dequantize`.

use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;

use crate::error::{KernelError, check_length, checked_product};
use crate::matrix::Matrix;
use crate::parallel::for_parts;
use crate::simd::{Isa, LANES, Op, ROUND, Simd};
use crate::weight_type::WeightType;

mod fit;

use fit::{Line, codes, fit};

/// Values that are looked at together.
const BLOCK: usize = 32;

/// About what a value takes, for splitting the work, in nanoseconds.
const VALUE_NS: usize = 15;

/// Writes `w`, of F32, F16 or BF16, to `out` as `to`, one of Q8_0, Q4_1 and Q4_K.
///
/// Q8_0 rounds to the nearest code; the others choose scale and minimum of 32 values so that the
/// sum of squared errors is about as small as it can be. The same bits on every machine, with any
/// number of threads.
///
/// # Errors
/// [`KernelError::NoQuantizer`] for other types, [`KernelError::Columns`] if the columns of `w`
/// are no whole blocks, [`KernelError::Length`] if `out` is not exactly as long as the matrix
/// becomes; [`KernelError::Unquantizable`] for values that are not finite or exceed the format,
/// after which `out` is meaningless.
pub fn quantize(w: Matrix<'_>, to: WeightType, out: &mut [u8]) -> Result<(), KernelError> {
    quantize_on(Isa::best(), w, to, out)
}

/// [`quantize`] on a certain instruction set.
fn quantize_on(isa: Isa, w: Matrix<'_>, to: WeightType, out: &mut [u8]) -> Result<(), KernelError> {
    let from = w.weight_type();
    let known = matches!(to, WeightType::Q8_0 | WeightType::Q4_1 | WeightType::Q4K);
    if from.is_quantized() || !known {
        return Err(KernelError::NoQuantizer { from, to });
    }
    let block_len = to.block_len();
    if !w.cols().is_multiple_of(block_len) {
        return Err(KernelError::Columns {
            weight_type: to,
            cols: w.cols(),
            block_len,
        });
    }
    let row_bytes = w.cols() / block_len * to.block_bytes();
    let bytes = checked_product("out", w.rows(), row_bytes)?;
    check_length("out", out.len(), bytes)?;
    if out.is_empty() {
        return Ok(());
    }
    let bad_row = AtomicUsize::new(usize::MAX);
    for_parts(out, row_bytes, w.cols() * VALUE_NS, |first, out| {
        let mut bad = None;
        isa.run(Quantize {
            w,
            to,
            first,
            out,
            bad: &mut bad,
        });
        if let Some(row) = bad {
            bad_row.fetch_min(row, Ordering::Relaxed);
        }
    });
    match bad_row.into_inner() {
        usize::MAX => Ok(()),
        row => Err(KernelError::Unquantizable {
            row,
            weight_type: to,
        }),
    }
}

/// Some rows of a matrix.
struct Quantize<'a> {
    w: Matrix<'a>,
    to: WeightType,
    first: usize,
    out: &'a mut [u8],
    /// The first row that cannot be.
    bad: &'a mut Option<usize>,
}

impl Op for Quantize<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut values = vec![0.0; self.w.cols()];
        let row_bytes = self.w.cols() / self.to.block_len() * self.to.block_bytes();
        for (i, out) in self.out.chunks_exact_mut(row_bytes).enumerate() {
            let row = self.first + i;
            widen(s, self.w.weight_type(), self.w.row(row), &mut values);
            let blocks = values
                .chunks_exact(self.to.block_len())
                .zip(out.chunks_exact_mut(self.to.block_bytes()));
            let mut good = true;
            for (values, out) in blocks {
                good &= match self.to {
                    WeightType::Q8_0 => q8_0(s, values, out),
                    WeightType::Q4_1 => q4_1(s, values, out),
                    _ => q4_k(s, values, out),
                };
            }
            if !good {
                *self.bad = Some(row);
                return;
            }
        }
    }
}

/// A row of single numbers, whole blocks of 32, in f32.
#[inline(always)]
fn widen<S: Simd>(s: S, from: WeightType, row: &[u8], out: &mut [f32]) {
    let out = out.as_chunks_mut::<LANES>().0;
    match from {
        WeightType::F16 => {
            for (bytes, out) in row.as_chunks().0.iter().zip(out) {
                s.store(s.load_f16(bytes), out);
            }
        }
        WeightType::BF16 => {
            for (bytes, out) in row.as_chunks().0.iter().zip(out) {
                s.store(s.load_bf16(bytes), out);
            }
        }
        _ => {
            for (bytes, out) in row.as_chunks().0.iter().zip(out) {
                s.store(s.load_f32(bytes), out);
            }
        }
    }
}

/// 32 values as two vectors.
#[inline(always)]
fn halves<S: Simd>(s: S, values: &[f32]) -> [S::Lanes; 2] {
    let (halves, _) = values.as_chunks::<LANES>();
    [s.load(&halves[0]), s.load(&halves[1])]
}

/// `value` as f16, `None` if it is not finite there.
fn half(value: f32) -> Option<f16> {
    let value = f16::from_f32(value);
    value.is_finite().then_some(value)
}

/// `[d][codes: 32]`. False if the values do not fit the format; so below.
#[inline(always)]
fn q8_0<S: Simd>(s: S, values: &[f32], out: &mut [u8]) -> bool {
    let x = halves(s, values);
    let zero = s.splat(0.0);
    let magnitude = |x| s.max(x, s.sub(zero, x));
    let largest = s.largest(s.max(magnitude(x[0]), magnitude(x[1])));
    let not_finite = s.sum(s.fma(x[0], zero, s.mul(x[1], zero)));
    let Some(d) = half(largest / 127.0 + not_finite) else {
        return false;
    };
    out[..2].copy_from_slice(&d.to_le_bytes());
    let d = d.to_f32();
    // Codes for the scale as it was rounded.
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    let codes = out[2..].as_chunks_mut::<LANES>().0;
    for (x, out) in x.into_iter().zip(codes) {
        let limited = s.max(
            s.min(s.mul(x, s.splat(inverse)), s.splat(127.0)),
            s.splat(-127.0),
        );
        let bytes = s.low_bytes(s.add(limited, s.splat(ROUND)));
        *out = bytes.map(i8::cast_unsigned);
    }
    true
}

/// Two codes of 4 bits to a byte.
#[inline(always)]
fn pack_nibbles(low: [i8; LANES], high: [i8; LANES], out: &mut [u8]) {
    for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
        *out = low.cast_unsigned() | high.cast_unsigned() << 4;
    }
}

/// `[d][m][codes: 16]`, the first 16 values in the low halves.
#[inline(always)]
fn q4_1<S: Simd>(s: S, values: &[f32], out: &mut [u8]) -> bool {
    let x = halves(s, values);
    let line = fit(s, x, f32::INFINITY);
    let (Some(d), Some(m)) = (half(line.scale), half(line.min)) else {
        return false;
    };
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&m.to_le_bytes());
    let rounded = Line {
        scale: d.to_f32(),
        min: m.to_f32(),
    };
    let [low, high] = codes(s, x, rounded);
    pack_nibbles(s.low_bytes(low), s.low_bytes(high), &mut out[4..]);
    true
}

/// `[d][dmin][scales and mins: 12][codes: 128]`, as `dequantize::q4_k` reads them.
#[inline(always)]
fn q4_k<S: Simd>(s: S, values: &[f32], out: &mut [u8]) -> bool {
    const SIX_BITS: f32 = 63.0;
    let mut lines = [Line::default(); 8];
    for (line, values) in lines.iter_mut().zip(values.chunks_exact(BLOCK)) {
        // Minimums are subtracted, and their codes have no sign.
        *line = fit(s, halves(s, values), 0.0);
    }
    let largest = |of: fn(&Line) -> f32| {
        let values = lines.iter().map(of);
        values.fold(0.0_f32, |a, b| if b.is_nan() { b } else { a.max(b) })
    };
    // A NaN among the values is one in its line.
    let any_nan: f32 = lines.iter().map(|line| line.scale * 0.0).sum();
    let (Some(d), Some(dmin)) = (
        half(largest(|line| line.scale) / SIX_BITS + any_nan),
        half(largest(|line| -line.min) / SIX_BITS + any_nan),
    ) else {
        return false;
    };
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&dmin.to_le_bytes());
    let (d, dmin) = (d.to_f32(), dmin.to_f32());
    let six_bits = |value: f32, unit: f32| match unit > 0.0 {
        true => (value / unit).round_ties_even().clamp(0.0, SIX_BITS),
        false => 0.0,
    };
    let mut scales = [0_u8; 8];
    let mut mins = [0_u8; 8];
    for (i, line) in lines.iter_mut().enumerate() {
        let (scale, min) = (six_bits(line.scale, d), six_bits(-line.min, dmin));
        (scales[i], mins[i]) = (scale as u8, min as u8);
        *line = Line {
            scale: d * scale,
            min: -(dmin * min),
        };
    }
    for i in 0..4 {
        out[4 + i] = scales[i] | scales[4 + i] >> 4 << 6;
        out[8 + i] = mins[i] | mins[4 + i] >> 4 << 6;
        out[12 + i] = scales[4 + i] & 15 | (mins[4 + i] & 15) << 4;
    }
    for (pair, out) in out[16..].chunks_exact_mut(BLOCK).enumerate() {
        let code_bytes = |i: usize| {
            let x = halves(s, &values[i * BLOCK..][..BLOCK]);
            codes(s, x, lines[i]).map(|codes| s.low_bytes(codes))
        };
        let (low, high) = (code_bytes(2 * pair), code_bytes(2 * pair + 1));
        for half in 0..2 {
            pack_nibbles(low[half], high[half], &mut out[half * LANES..][..LANES]);
        }
    }
    true
}

#[cfg(test)]
mod tests;
