//! Root-mean-square norm.

use crate::error::{KernelError, check_length};
use crate::parallel::for_parts;
use crate::simd::{Isa, LANES, Op, Simd};

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
    rms_norm_on(Isa::best(), x, weight, eps, out)
}

fn rms_norm_on(
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let dim = weight.len();
    check_length("x", x.len(), x.len() / dim.max(1) * dim)?;
    check_length("out", out.len(), x.len())?;
    if dim > 0 {
        for_parts(out, dim, dim / 8, |first, out| {
            let x = &x[first * dim..][..out.len()];
            isa.run(RmsNorm {
                x,
                weight,
                eps,
                out,
            });
        });
    }
    Ok(())
}

/// Lane `i` of 16 sums the squares `i`, `i + 16`, … by `fma`; the lanes are added last.
struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Op for RmsNorm<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let dim = self.weight.len();
        let (weights, weights_rest) = self.weight.as_chunks::<LANES>();
        for (x, out) in self.x.chunks_exact(dim).zip(self.out.chunks_exact_mut(dim)) {
            let (x, x_rest) = x.as_chunks::<LANES>();
            let (out, out_rest) = out.as_chunks_mut::<LANES>();
            let x_last = s.load_partial(x_rest);
            let mut squares = s.splat(0.0);
            for x in x {
                let x = s.load(x);
                squares = s.fma(x, x, squares);
            }
            squares = s.fma(x_last, x_last, squares);
            let scale = s.splat(1.0 / (s.sum(squares) / dim as f32 + self.eps).sqrt());
            for ((x, weight), out) in x.iter().zip(weights).zip(out) {
                s.store(s.mul(s.mul(s.load(x), scale), s.load(weight)), out);
            }
            let last = s.mul(s.mul(x_last, scale), s.load_partial(weights_rest));
            s.store_partial(last, out_rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{bits, rng, values};

    #[test]
    fn agrees_with_f64_on_every_instruction_set() {
        let mut rng = rng(1);
        for dim in [1, 15, 16, 33, 576, 640] {
            let (x, weight) = (values(&mut rng, 5 * dim), values(&mut rng, dim));
            let mut first = None;
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; x.len()];
                rms_norm_on(isa, &x, &weight, 1e-6, &mut out).unwrap();
                for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact(dim)) {
                    let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
                    let scale = 1.0 / (squares / dim as f64 + 1e-6).sqrt();
                    for ((x, weight), out) in x.iter().zip(&weight).zip(out) {
                        let expected = f64::from(*x) * scale * f64::from(*weight);
                        assert!((f64::from(*out) - expected).abs() <= 1e-6 * expected.abs());
                    }
                }
                assert_eq!(
                    *first.get_or_insert_with(|| bits(&out)),
                    bits(&out),
                    "{}",
                    isa.name()
                );
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone() {
        let mut rng = rng(2);
        let (x, weight) = (values(&mut rng, 300 * 640), values(&mut rng, 640));
        let mut out = vec![0.0; x.len()];
        rms_norm(&x, &weight, 1e-5, &mut out).unwrap();
        for (x, expected) in x.chunks_exact(640).zip(out.chunks_exact(640)) {
            let mut alone = vec![0.0; 640];
            rms_norm(x, &weight, 1e-5, &mut alone).unwrap();
            assert_eq!(bits(&alone), bits(expected));
        }
    }

    #[test]
    fn ragged_rows_are_refused() {
        let error = rms_norm(&[0.0; 7], &[1.0; 3], 0.0, &mut [0.0; 7]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "x holds 7 elements where its shape needs 6"
        );
    }
}
