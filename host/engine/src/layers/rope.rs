//! [`Rope`]: frequencies of the rotary position embedding.

use gapura_kernels::{KernelError, RopeStyle, rope};

use crate::model_config::{self, ModelConfig, RopeScaling};

/// Rotary embedding of one base. Angles are f32, never the weights' type.
#[derive(Debug)]
pub(crate) struct Rope {
    /// `[head_dim / 2]`, radians per position.
    inv_freq: Vec<f32>,
    head_dim: usize,
    style: RopeStyle,
}

impl Rope {
    /// Of the layers that see everything, and of all layers where there is no other base.
    pub(crate) fn global(config: &ModelConfig) -> Self {
        Self::new(config, config.rope.theta, &config.rope.scaling)
    }

    /// Of the windowed layers.
    pub(crate) fn local(config: &ModelConfig) -> Self {
        match config.rope.local_theta {
            Some(theta) => Self::new(config, theta, &RopeScaling::None),
            None => Self::global(config),
        }
    }

    fn new(config: &ModelConfig, theta: f32, scaling: &RopeScaling) -> Self {
        let head_dim = config.head_dim;
        let mut inv_freq: Vec<f32> = (0..head_dim / 2)
            .map(|i| {
                let exponent = (2 * i) as f64 / head_dim as f64;
                f64::from(theta).powf(-exponent) as f32
            })
            .collect();
        stretch(&mut inv_freq, scaling);
        let style = match config.rope.style {
            model_config::RopeStyle::Halves => RopeStyle::Halves,
            model_config::RopeStyle::Interleaved => RopeStyle::Interleaved,
        };
        Self {
            inv_freq,
            head_dim,
            style,
        }
    }

    /// `[head_dim / 2]`.
    pub(crate) fn inv_freq(&self) -> &[f32] {
        &self.inv_freq
    }

    pub(crate) fn is_interleaved(&self) -> bool {
        matches!(self.style, RopeStyle::Interleaved)
    }

    /// `x`: `[n, heads, head_dim]`; `positions`: `[n]`.
    pub(crate) fn turn(
        &self,
        x: &mut [f32],
        heads: usize,
        positions: &[usize],
    ) -> Result<(), KernelError> {
        rope(
            x,
            heads,
            self.head_dim,
            positions,
            &self.inv_freq,
            self.style,
        )
    }
}

/// Lengthens wavelengths for contexts beyond those of pre-training.
fn stretch(inv_freq: &mut [f32], scaling: &RopeScaling) {
    match scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            for frequency in inv_freq {
                *frequency /= factor;
            }
        }
        RopeScaling::Divisors(divisors) => {
            for (frequency, divisor) in inv_freq.iter_mut().zip(divisors) {
                *frequency /= divisor;
            }
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let context = *original_max_position_embeddings as f32;
            for frequency in inv_freq {
                // Turns within the context of pre-training: few mean a long wavelength.
                let turns = context * *frequency / std::f32::consts::TAU;
                let ramp = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let kept = ramp.clamp(0.0, 1.0);
                *frequency *= kept + (1.0 - kept) / factor;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frequencies that transformers 4.43's `_compute_llama3_parameters` gives for Llama
    /// 3.1 8B (base 500000, head 128): the first is untouched, the last is divided by 8, and the
    /// middle lies on the ramp.
    #[test]
    fn llama3_scaling_keeps_short_waves_and_stretches_long_ones() {
        let plain: Vec<f32> = (0..64)
            .map(|i| 500_000f64.powf(-f64::from(i) / 64.0) as f32)
            .collect();
        let mut scaled = plain.clone();
        stretch(
            &mut scaled,
            &RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            },
        );
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[63], plain[63] / 8.0);
        // Wavelength 2 pi / 500000^(-32/64) = 4442.9, between 8192 / 4 and 8192 / 1:
        // ramp (8192 / 4442.9 - 1) / 3 = 0.28130.
        let expected = plain[32] * (0.281_30 + 0.718_70 / 8.0);
        assert!(
            (scaled[32] - expected).abs() < 1e-4 * expected,
            "{} {expected}",
            scaled[32]
        );
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let mut inv_freq = vec![1.0, 0.5];
        stretch(&mut inv_freq, &RopeScaling::Linear { factor: 8.0 });
        assert_eq!(inv_freq, [0.125, 0.0625]);
    }
}
