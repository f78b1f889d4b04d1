//! [`RmsNorm`]: root-mean-square norm with a learned gain.

use gapura_kernels::{KernelError, rms_norm};

use super::load::vector;
use crate::{checkpoint::Checkpoint, error::LoadError};

/// `y = x / sqrt(mean(x^2) + eps) * weight`, in f32 throughout.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    /// Gemma's `1 + weight` is folded in.
    weight: Vec<f32>,
    eps: f32,
}

impl RmsNorm {
    /// The gain `{name}.weight` of `dim` values.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], [`LoadError::WrongShape`], [`LoadError::NotFinite`].
    pub(crate) fn load(checkpoint: &Checkpoint, name: &str, dim: usize) -> Result<Self, LoadError> {
        let config = checkpoint.config();
        let tensor = format!("{name}.weight");
        let mut weight = vector(checkpoint, &tensor, dim)?;
        if !weight.iter().all(|gain| gain.is_finite()) {
            return Err(LoadError::NotFinite { tensor });
        }
        for gain in &mut weight {
            *gain += config.norm_offset;
        }
        Ok(Self {
            weight,
            eps: config.rms_norm_eps,
        })
    }

    /// With Gemma's `1 +`.
    pub(crate) fn weight(&self) -> &[f32] {
        &self.weight
    }

    /// `x`, `out`: `[n, dim]`.
    pub(crate) fn forward(&self, x: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
        rms_norm(x, &self.weight, self.eps, out)
    }
}
