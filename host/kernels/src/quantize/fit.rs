//! [`fit`]: the line `scale * code + min` through 32 values, for codes of 4 bits.

use crate::simd::{ROUND, Simd};

/// Codes are `0..=15`.
const LARGEST_CODE: f32 = 15.0;

/// How many codes the first guess spreads the values over. A narrower one than there is clips the
/// outermost values in favour of all others; a wider one leaves room to move.
const SPREADS: [f32; 9] = [15.0, 13.5, 14.0, 14.4, 14.7, 15.3, 15.7, 16.2, 17.0];

/// `scale * code + min`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Line {
    /// Not negative.
    pub(super) scale: f32,
    pub(super) min: f32,
}

impl Line {
    /// Of the scale; 0 where there is none. Finite, so that the minimum itself stays code 0.
    #[inline(always)]
    fn inverse(self) -> f32 {
        if self.scale > 0.0 {
            (1.0 / self.scale).min(f32::MAX)
        } else {
            0.0
        }
    }
}

/// The nearest codes, in the low bits of each lane.
#[inline(always)]
pub(super) fn codes<S: Simd>(s: S, x: [S::Lanes; 2], line: Line) -> [S::Lanes; 2] {
    nearest(s, x, line.min, line.inverse()).map(|codes| s.add(codes, s.splat(ROUND)))
}

/// `(x - min) * inverse`, rounded and kept within the codes.
#[inline(always)]
fn nearest<S: Simd>(s: S, x: [S::Lanes; 2], min: f32, inverse: f32) -> [S::Lanes; 2] {
    x.map(|x| {
        let code = s.mul(s.sub(x, s.splat(min)), s.splat(inverse));
        let code = s.max(s.min(code, s.splat(LARGEST_CODE)), s.splat(0.0));
        s.sub(s.add(code, s.splat(ROUND)), s.splat(ROUND))
    })
}

/// The line with the least sum of squared errors among those that least squares finds from several
/// first guesses. Its `min` is at most `largest_min`. NaN if a value is not finite.
#[inline(always)]
pub(super) fn fit<S: Simd>(s: S, x: [S::Lanes; 2], largest_min: f32) -> Line {
    let zero = s.splat(0.0);
    let not_finite = s.sum(s.fma(x[0], zero, s.mul(x[1], zero)));
    let highest = s.largest(s.max(x[0], x[1]));
    let lowest = -s.largest(s.max(s.sub(zero, x[0]), s.sub(zero, x[1])));
    let lowest = lowest.min(largest_min);
    let range = highest - lowest;
    let sum_x = s.sum(s.add(x[0], x[1]));
    let mut best = Line {
        scale: (range / LARGEST_CODE).max(0.0) + not_finite,
        min: lowest + not_finite,
    };
    // So small a range that its inverse overflows, or none at all.
    if !range.is_finite() || range <= 1e-30 {
        return best;
    }
    let mut least = f32::INFINITY;
    for spread in SPREADS {
        let c = nearest(s, x, lowest, spread / range);
        let line = least_squares(s, x, c, sum_x, largest_min);
        // The codes of this line, which are nearer than those it was made for.
        let c = nearest(s, x, line.min, line.inverse());
        let line = least_squares(s, x, c, sum_x, largest_min);
        let error = squared_error(s, x, c, line);
        if error < least {
            (least, best) = (error, line);
        }
    }
    best
}

/// The best line for given codes.
#[inline(always)]
fn least_squares<S: Simd>(
    s: S,
    x: [S::Lanes; 2],
    c: [S::Lanes; 2],
    sum_x: f32,
    largest_min: f32,
) -> Line {
    const COUNT: f32 = 32.0;
    let sum_c = s.sum(s.add(c[0], c[1]));
    let sum_cc = s.sum(s.fma(c[0], c[0], s.mul(c[1], c[1])));
    let sum_cx = s.sum(s.fma(c[0], x[0], s.mul(c[1], x[1])));
    // Whole numbers below 2^24, hence exact; zero only if all codes are the same.
    let determinant = COUNT * sum_cc - sum_c * sum_c;
    if determinant > 0.0 {
        let scale = (COUNT * sum_cx - sum_x * sum_c) / determinant;
        let min = (sum_x - scale * sum_c) / COUNT;
        if scale > 0.0 && min <= largest_min {
            return Line { scale, min };
        }
    }
    // Through the largest minimum, or through zero where there is no bound.
    let min = if largest_min.is_finite() {
        largest_min
    } else {
        0.0
    };
    let scale = match sum_cc > 0.0 {
        true => (sum_cx - min * sum_c) / sum_cc,
        false => 0.0,
    };
    Line {
        scale: scale.max(0.0),
        min,
    }
}

#[inline(always)]
fn squared_error<S: Simd>(s: S, x: [S::Lanes; 2], c: [S::Lanes; 2], line: Line) -> f32 {
    let (scale, min) = (s.splat(line.scale), s.splat(line.min));
    let error = |i: usize| s.sub(s.fma(c[i], scale, min), x[i]);
    let (a, b) = (error(0), error(1));
    s.sum(s.fma(a, a, s.mul(b, b)))
}
