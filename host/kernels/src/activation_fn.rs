//! Gated activation functions and the logits' soft cap.

use crate::error::{KernelError, check_length};
use crate::parallel::for_parts;
use crate::simd::{Isa, LANES, Op, Simd, exp, tanh};

/// `gate = gelu_tanh(gate) * up`, Gemma's gate.
///
/// # Errors
/// [`KernelError::Length`] if the two differ in length.
pub fn gelu_tanh_mul(gate: &mut [f32], up: &[f32]) -> Result<(), KernelError> {
    apply_gate::<GeluTanh>(Isa::best(), gate, up)
}

/// `gate = gate / (1 + exp(-gate)) * up`, the Llama family's gate.
///
/// # Errors
/// [`KernelError::Length`] if the two differ in length.
pub fn silu_mul(gate: &mut [f32], up: &[f32]) -> Result<(), KernelError> {
    apply_gate::<Silu>(Isa::best(), gate, up)
}

/// `x = cap * tanh(x / cap)`. `cap` is positive.
pub fn soft_cap(x: &mut [f32], cap: f32) {
    soft_cap_on(Isa::best(), x, cap);
}

/// Elements that are worth an entry in the splitting of work.
const ITEM: usize = 1024;
const ITEM_NS: usize = 1000;

fn apply_gate<F: Activation>(isa: Isa, gate: &mut [f32], up: &[f32]) -> Result<(), KernelError> {
    check_length("up", up.len(), gate.len())?;
    for_parts(gate, ITEM, ITEM_NS, |first, gate| {
        let up = &up[first * ITEM..][..gate.len()];
        isa.run(Gate {
            gate,
            up,
            activation: std::marker::PhantomData::<F>,
        });
    });
    Ok(())
}

fn soft_cap_on(isa: Isa, x: &mut [f32], cap: f32) {
    for_parts(x, ITEM, ITEM_NS, |_, x| isa.run(SoftCap { x, cap }));
}

/// An activation function.
trait Activation: Sync {
    /// Must be `#[inline(always)]`.
    fn apply<S: Simd>(s: S, x: S::Lanes) -> S::Lanes;
}

struct Silu;
impl Activation for Silu {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::Lanes) -> S::Lanes {
        // Lower, the result is 0 but for 1e-36, and `exp` has ended.
        let x = s.max(s.splat(-88.0), x);
        let e = exp(s, s.sub(s.splat(0.0), x));
        s.div(x, s.add(s.splat(1.0), e))
    }
}

struct GeluTanh;
impl Activation for GeluTanh {
    /// `0.5 x (1 + tanh u) = x / (1 + exp(-2u))` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`.
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::Lanes) -> S::Lanes {
        // Lower, the result is 0 but for 1e-36, and `exp` has ended.
        let x = s.max(s.splat(-12.0), x);
        let square = s.mul(x, x);
        let factor = s.fma(
            square,
            s.splat(-2.0 * 0.797_884_6 * 0.044_715),
            s.splat(-1.595_769),
        );
        let e = exp(s, s.mul(x, factor));
        s.div(x, s.add(s.splat(1.0), e))
    }
}

struct Gate<'a, F> {
    gate: &'a mut [f32],
    up: &'a [f32],
    activation: std::marker::PhantomData<F>,
}

impl<F: Activation> Op for Gate<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gates, gates_rest) = self.gate.as_chunks_mut::<LANES>();
        let (ups, ups_rest) = self.up.as_chunks::<LANES>();
        for (gate, up) in gates.iter_mut().zip(ups) {
            s.store(s.mul(F::apply(s, s.load(gate)), s.load(up)), gate);
        }
        if !gates_rest.is_empty() {
            let gate = F::apply(s, s.load_partial(gates_rest));
            s.store_partial(s.mul(gate, s.load_partial(ups_rest)), gates_rest);
        }
    }
}

struct SoftCap<'a> {
    x: &'a mut [f32],
    cap: f32,
}

impl Op for SoftCap<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (x, rest) = self.x.as_chunks_mut::<LANES>();
        for x in x {
            s.store(cap_lanes(s, s.load(x), self.cap), x);
        }
        if !rest.is_empty() {
            s.store_partial(cap_lanes(s, s.load_partial(rest), self.cap), rest);
        }
    }
}

/// `cap * tanh(x / cap)`, for attention scores too.
#[inline(always)]
pub(crate) fn cap_lanes<S: Simd>(s: S, x: S::Lanes, cap: f32) -> S::Lanes {
    s.mul(s.splat(cap), tanh(s, s.div(x, s.splat(cap))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{bits, rng, values};

    /// Around 0, moderate, large, and where exponentials end.
    fn inputs() -> Vec<f32> {
        let mut inputs = vec![0.0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4];
        inputs.extend((-400..=400).map(|i| i as f32 / 31.0));
        inputs.extend([
            -87.3, -87.4, -88.1, 88.1, -120.0, 120.0, -1e4, 1e4, -1e30, 1e30,
        ]);
        inputs
    }

    fn check(name: &str, expected: impl Fn(f64) -> f64, run: impl Fn(Isa, &mut [f32])) {
        let mut first = None;
        for isa in Isa::available() {
            let mut out = inputs();
            run(isa, &mut out);
            for (x, out) in inputs().into_iter().zip(&out) {
                let expected = expected(f64::from(x));
                let error = (f64::from(*out) - expected).abs();
                assert!(
                    error <= 1e-6 * expected.abs() + 1e-35,
                    "{name}({x}) = {out}"
                );
            }
            assert_eq!(
                *first.get_or_insert_with(|| bits(&out)),
                bits(&out),
                "{}",
                isa.name()
            );
        }
    }

    #[test]
    fn functions_agree_with_f64_on_every_instruction_set() {
        let ones = vec![1.0; inputs().len()];
        let silu = |x: f64| x / (1.0 + (-x).exp());
        check("silu", silu, |isa, x| {
            apply_gate::<Silu>(isa, x, &ones).unwrap()
        });
        let gelu = |x: f64| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            x / (1.0 + (-2.0 * u).exp())
        };
        // Where the result is all but 0, exp's argument has lost bits.
        for isa in Isa::available() {
            let mut out = inputs();
            apply_gate::<GeluTanh>(isa, &mut out, &ones).unwrap();
            for (x, out) in inputs().into_iter().zip(&out) {
                let expected = gelu(f64::from(x));
                let error = (f64::from(*out) - expected).abs();
                assert!(error <= 1e-6 * expected.abs() + 1e-7, "gelu({x}) = {out}");
            }
        }
        for cap in [30.0f32, 50.0] {
            let expected = |x: f64| f64::from(cap) * (x / f64::from(cap)).tanh();
            check("soft cap", expected, |isa, x| soft_cap_on(isa, x, cap));
        }
    }

    #[test]
    fn an_element_has_the_same_bits_everywhere() {
        let mut rng = rng(1);
        let (gate, up) = (values(&mut rng, 200_003), values(&mut rng, 200_003));
        let mut whole = gate.clone();
        gelu_tanh_mul(&mut whole, &up).unwrap();
        let mut capped = gate.clone();
        soft_cap(&mut capped, 0.5);
        for i in (0..gate.len()).step_by(997) {
            let mut alone = [gate[i]];
            gelu_tanh_mul(&mut alone, &up[i..=i]).unwrap();
            assert_eq!(alone[0].to_bits(), whole[i].to_bits());
            let mut alone = [gate[i]];
            soft_cap(&mut alone, 0.5);
            assert_eq!(alone[0].to_bits(), capped[i].to_bits());
        }
    }

    #[test]
    fn nan_is_not_hidden() {
        for isa in Isa::available() {
            let mut x = [f32::NAN; 3];
            apply_gate::<Silu>(isa, &mut x[..1], &[1.0]).unwrap();
            apply_gate::<GeluTanh>(isa, &mut x[1..2], &[1.0]).unwrap();
            soft_cap_on(isa, &mut x[2..], 30.0);
            assert!(x.iter().all(|x| x.is_nan()), "{} {x:?}", isa.name());
        }
    }

    #[test]
    fn lengths_must_agree() {
        let error = silu_mul(&mut [0.0; 3], &[0.0; 2]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "up holds 2 elements where its shape needs 3"
        );
    }
}
