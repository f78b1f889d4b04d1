//! Exponential functions of [`Simd::Lanes`].

use super::Simd;

/// Adding it rounds to a whole number, which then stands in the low bits.
pub(crate) const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23

/// Below it, [`exp`] is no normal number any more.
const SMALLEST: f32 = -87.33;

/// `2^k` and `e^r - 1` with `x = k ln 2 + r`, for `x` in `SMALLEST..=88`.
///
/// The polynomial is that of Cephes' `expf`.
#[inline(always)]
fn split_exp<S: Simd>(s: S, x: S::Lanes) -> (S::Lanes, S::Lanes) {
    let shifted = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let k = s.sub(shifted, s.splat(ROUND));
    // ln 2 in two parts, the first short enough for its product with k to be exact.
    let r = s.fma(k, s.splat(-0.693_359_4), x);
    let r = s.fma(k, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = s.fma(p, r, s.splat(coefficient));
    }
    (s.pow2_of_shifted(shifted), s.fma(s.mul(r, r), p, r))
}

/// `e^x` to about 1 ulp; 0 for `x < -87.33`, and `e^88` for all `x > 88`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::Lanes) -> S::Lanes {
    let smallest = s.splat(SMALLEST);
    let clamped = s.min(s.splat(88.0), s.max(smallest, x));
    let (power, rest) = split_exp(s, clamped);
    s.zero_if_less(x, smallest, s.fma(rest, power, power))
}

/// `tanh x` to a few ulp, near 0 too.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::Lanes) -> S::Lanes {
    // With e = exp(2x) - 1, tanh x = e / (e + 2). At 2x = 40 it has long been 1.
    let twice = s.min(s.splat(40.0), s.max(s.splat(-40.0), s.add(x, x)));
    let (power, rest) = split_exp(s, twice);
    let e = s.fma(rest, power, s.sub(power, s.splat(1.0)));
    s.div(e, s.add(e, s.splat(2.0)))
}
