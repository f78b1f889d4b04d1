//! Products with F32, F16 and BF16 weights.
//!
//! Formula, for a row of weights and a token: lane `i` of 16 sums columns `i`, `i + 16`, … by
//! `fma` in f32 in this order, missing columns being zeros; then the lanes are added in the
//! order of [`Simd::sum`].

use std::marker::PhantomData;
use std::ops::Range;

use crate::matrix::Matrix;
use crate::simd::{LANES, Op, Simd};

use super::output::Output;

/// Activations that are kept at hand while the rows go by: 512 KiB, half of a second-level
/// cache.
const TOKEN_BLOCK_VALUES: usize = 128 << 10;

/// A format of single numbers.
pub(super) trait FloatFormat {
    const BYTES: usize;

    /// The first 16 numbers of `bytes`. Must be `#[inline(always)]`.
    fn load<S: Simd>(s: S, bytes: &[u8]) -> S::Lanes;
}

/// The first `N` bytes.
#[inline(always)]
fn first<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    bytes
        .first_chunk()
        .expect("16 elements are left in the row")
}

pub(super) struct F32;
impl FloatFormat for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    fn load<S: Simd>(s: S, bytes: &[u8]) -> S::Lanes {
        s.load_f32(first(bytes))
    }
}

pub(super) struct F16;
impl FloatFormat for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn load<S: Simd>(s: S, bytes: &[u8]) -> S::Lanes {
        s.load_f16(first(bytes))
    }
}

pub(super) struct BF16;
impl FloatFormat for BF16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn load<S: Simd>(s: S, bytes: &[u8]) -> S::Lanes {
        s.load_bf16(first(bytes))
    }
}

/// Some rows of `w` times all tokens.
pub(super) struct Float<'a, F> {
    /// `[n, cols]`.
    x: &'a [f32],
    w: Matrix<'a>,
    out: Output<'a>,
    rows: Range<usize>,
    format: PhantomData<F>,
}

impl<'a, F: FloatFormat> Float<'a, F> {
    /// # Safety
    /// `w` holds format `F`, and no other thread writes `rows`.
    pub(super) unsafe fn new(
        x: &'a [f32],
        w: Matrix<'a>,
        out: Output<'a>,
        rows: Range<usize>,
    ) -> Self {
        Self {
            x,
            w,
            out,
            rows,
            format: PhantomData,
        }
    }
}

impl<F: FloatFormat> Op for Float<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.x.len() == self.w.cols() {
            self.rows::<S, 4, 1>(s);
        } else if S::ROWS == 16 {
            self.rows::<S, 4, 5>(s);
        } else {
            self.rows::<S, 2, 2>(s);
        }
    }
}

impl<F: FloatFormat> Float<'_, F> {
    /// In tiles of `R` rows and `T` tokens; all rows for some tokens, then for the next.
    #[inline(always)]
    fn rows<S: Simd, const R: usize, const T: usize>(&self, s: S) {
        let tokens = self.x.len() / self.w.cols();
        let block = (TOKEN_BLOCK_VALUES / self.w.cols())
            .next_multiple_of(T)
            .max(T);
        for first in (0..tokens).step_by(block) {
            let tokens = first..tokens.min(first + block);
            let mut row = self.rows.start;
            while self.rows.end - row >= R {
                self.tokens::<S, R, T>(s, row, tokens.clone());
                row += R;
            }
            while row < self.rows.end {
                self.tokens::<S, 1, T>(s, row, tokens.clone());
                row += 1;
            }
        }
    }

    #[inline(always)]
    fn tokens<S: Simd, const R: usize, const T: usize>(
        &self,
        s: S,
        row: usize,
        tokens: Range<usize>,
    ) {
        let mut token = tokens.start;
        while tokens.end - token >= T {
            self.tile::<S, R, T>(s, row, token);
            token += T;
        }
        while token < tokens.end {
            self.tile::<S, R, 1>(s, row, token);
            token += 1;
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const T: usize>(&self, s: S, row: usize, token: usize) {
        let cols = self.w.cols();
        let mut w: [&[u8]; R] = [&[]; R];
        for (r, w) in w.iter_mut().enumerate() {
            *w = self.w.row(row + r);
        }
        let mut x: [&[f32]; T] = [&[]; T];
        for (t, x) in x.iter_mut().enumerate() {
            *x = &self.x[(token + t) * cols..][..cols];
        }
        let mut sums = [[s.splat(0.0); R]; T];
        let whole = cols / LANES * LANES;
        for col in (0..whole).step_by(LANES) {
            let mut weights = [s.splat(0.0); R];
            for (weights, w) in weights.iter_mut().zip(w) {
                *weights = F::load(s, &w[col * F::BYTES..]);
            }
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = s.load(x[col..].first_chunk().expect("16 columns are left"));
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = s.fma(weights, x, *sum);
                }
            }
        }
        if whole < cols {
            for (r, w) in w.iter().enumerate() {
                let mut padded = [0; 4 * LANES];
                let rest = &w[whole * F::BYTES..];
                padded[..rest.len()].copy_from_slice(rest);
                let weights = F::load(s, &padded);
                for (sums, x) in sums.iter_mut().zip(x) {
                    sums[r] = s.fma(weights, s.load_partial(&x[whole..]), sums[r]);
                }
            }
        }
        for (t, sums) in sums.iter().enumerate() {
            let mut values = [0.0; R];
            for (value, sum) in values.iter_mut().zip(sums) {
                *value = s.sum(*sum);
            }
            // SAFETY: `row..row + R` are rows of this operation alone.
            unsafe { self.out.write(token + t, row, &values) };
        }
    }
}
