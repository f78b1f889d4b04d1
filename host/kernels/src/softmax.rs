//! What drawing a token needs of a whole row of logits.

use crate::simd::{Isa, LANES, Op, Simd, exp};

/// The greatest of `x`; -∞ if none is greater. NaN never is.
pub fn greatest(x: &[f32]) -> f32 {
    greatest_on(Isa::best(), x)
}

fn greatest_on(isa: Isa, x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut greatest = f32::NEG_INFINITY;
    isa.run(Greatest {
        chunks,
        out: &mut greatest,
    });
    let of = |greatest: f32, x: &f32| if *x > greatest { *x } else { greatest };
    rest.iter().fold(greatest, of)
}

/// `x = exp((x - greatest) / temperature)`: probabilities relative to that of the greatest, in
/// [0, 1], where `greatest` is that of `x` and `temperature` is above 0. 0 for NaN and where the
/// result would be below 1.2e-38. The same bits on every machine.
pub fn exp_weights(x: &mut [f32], greatest: f32, temperature: f32) {
    exp_weights_on(Isa::best(), x, greatest, temperature);
}

fn exp_weights_on(isa: Isa, x: &mut [f32], greatest: f32, temperature: f32) {
    isa.run(ExpWeights {
        x,
        greatest,
        temperature,
    });
}

struct Greatest<'a> {
    chunks: &'a [[f32; LANES]],
    out: &'a mut f32,
}

impl Op for Greatest<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Four at once, so that none waits for the one before.
        let mut lanes = [s.splat(f32::NEG_INFINITY); 4];
        let (fours, rest) = self.chunks.as_chunks::<4>();
        for four in fours {
            for (lanes, chunk) in lanes.iter_mut().zip(four) {
                *lanes = s.max(s.load(chunk), *lanes);
            }
        }
        for chunk in rest {
            lanes[0] = s.max(s.load(chunk), lanes[0]);
        }
        let [a, b, c, d] = lanes;
        *self.out = s.largest(s.max(s.max(a, b), s.max(c, d)));
    }
}

struct ExpWeights<'a> {
    x: &'a mut [f32],
    greatest: f32,
    temperature: f32,
}

impl Op for ExpWeights<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (greatest, temperature) = (s.splat(self.greatest), s.splat(self.temperature));
        let (chunks, rest) = self.x.as_chunks_mut::<LANES>();
        for chunk in chunks {
            s.store(weight(s, s.load(chunk), greatest, temperature), chunk);
        }
        if !rest.is_empty() {
            let weights = weight(s, s.load_partial(rest), greatest, temperature);
            s.store_partial(weights, rest);
        }
    }
}

#[inline(always)]
fn weight<S: Simd>(s: S, x: S::Lanes, greatest: S::Lanes, temperature: S::Lanes) -> S::Lanes {
    // The difference first: the division may overflow for temperatures near 0.
    let x = s.div(s.sub(x, greatest), temperature);
    // NaN becomes what `exp` has no number for.
    exp(s, s.max(x, s.splat(-88.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{bits, rng, values};

    #[test]
    fn weights_are_those_of_float64_on_every_instruction_set() {
        let mut rng = rng(1);
        for len in [1, 15, 16, 17, 100, 1000] {
            let mut x = values(&mut rng, len);
            x.iter_mut().for_each(|x| *x *= 40.0);
            for temperature in [0.01, 0.7, 1.0, 2.0] {
                let mut first = None;
                for isa in Isa::available() {
                    let greatest = greatest_on(isa, &x);
                    assert_eq!(greatest, x.iter().copied().fold(f32::MIN, f32::max));
                    let mut weights = x.clone();
                    exp_weights_on(isa, &mut weights, greatest, temperature);
                    for (weight, x) in weights.iter().zip(&x) {
                        let power = (x - greatest) / temperature;
                        let expected = f64::from(power).exp();
                        let is_near = (f64::from(*weight) - expected).abs() <= 3e-7 * expected;
                        assert!(
                            is_near || power < -87.3 && *weight == 0.0,
                            "{power} {weight}"
                        );
                    }
                    let first = first.get_or_insert_with(|| bits(&weights));
                    assert_eq!(*first, bits(&weights), "{}", isa.name());
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_weighs_nothing_and_is_never_the_greatest() {
        for isa in Isa::available() {
            for len in [3, 16, 40] {
                let mut x = vec![f32::NAN; len];
                assert_eq!(greatest_on(isa, &x), f32::NEG_INFINITY);
                x[len - 1] = -5.0;
                x[0] = f32::NEG_INFINITY;
                assert_eq!(greatest_on(isa, &x), -5.0, "{}", isa.name());
                exp_weights_on(isa, &mut x, -5.0, f32::MIN_POSITIVE);
                let mut expected = vec![0.0; len];
                expected[len - 1] = 1.0;
                assert_eq!(x, expected, "{}", isa.name());
            }
        }
        assert_eq!(greatest(&[]), f32::NEG_INFINITY);
    }
}
