//! [`Linear`]: a matrix product without a bias.

use gapura_kernels::{Activations, KernelError, matmul};

use crate::{
    checkpoint::{Checkpoint, Weight},
    error::LoadError,
    layers::load::matrix,
};

/// `y = x W^T`. None of the supported models has a bias.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[out_features, in_features]`.
    weight: Weight,
}

impl Linear {
    /// The weight `{name}.weight` of shape `[out_features, in_features]`.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], [`LoadError::WrongShape`]; [`LoadError::UnsupportedFeature`]
    /// where there is a bias, which would be lost.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        name: &str,
        shape: [usize; 2],
    ) -> Result<Self, LoadError> {
        let bias = format!("{name}.bias");
        if checkpoint.has_tensor(&bias) {
            return Err(LoadError::UnsupportedFeature {
                path: checkpoint.path().to_path_buf(),
                feature: format!("a bias, `{bias}`"),
                supported: "linear layers without bias",
            });
        }
        Ok(Self {
            weight: matrix(checkpoint, &format!("{name}.weight"), shape)?,
        })
    }

    pub(crate) fn weight(&self) -> &Weight {
        &self.weight
    }

    /// For quantizing it while the model loads.
    pub(super) fn weight_mut(&mut self) -> &mut Weight {
        &mut self.weight
    }

    /// `x`: `[n, in_features]`; `out`: `[n, out_features]`.
    pub(crate) fn forward(&self, x: &Activations<'_>, out: &mut [f32]) -> Result<(), KernelError> {
        matmul(x, self.weight.matrix(), out)
    }
}
