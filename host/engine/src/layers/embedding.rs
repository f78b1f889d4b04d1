//! [`Embedding`]: token ids to vectors, and back to logits where the output layer is tied.

use gapura_kernels::{Activations, KernelError, matmul, scale};

use super::load::matrix;
use crate::{
    checkpoint::{Checkpoint, Weight},
    error::LoadError,
    request::TokenId,
};

/// A row of the table for each token, scaled where the model wants it.
#[derive(Debug)]
pub(crate) struct Embedding {
    /// `[vocab_size, hidden_size]`.
    weight: Weight,
    scale: f32,
}

impl Embedding {
    /// The table `{name}.weight`.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], [`LoadError::WrongShape`].
    pub(crate) fn load(checkpoint: &Checkpoint, name: &str) -> Result<Self, LoadError> {
        let config = checkpoint.config();
        let shape = [config.vocab_size, config.hidden_size];
        let weight = matrix(checkpoint, &format!("{name}.weight"), shape)?;
        Ok(Self {
            weight,
            scale: config.embedding_scale,
        })
    }

    pub(crate) fn weight(&self) -> &Weight {
        &self.weight
    }

    pub(crate) fn scale(&self) -> f32 {
        self.scale
    }

    /// For quantizing it while the model loads.
    pub(super) fn weight_mut(&mut self) -> &mut Weight {
        &mut self.weight
    }

    /// The output layer of a model that has none of its own. `x`: `[n, hidden_size]`; `out`:
    /// `[n, vocab_size]`.
    pub(super) fn logits(&self, x: &Activations<'_>, out: &mut [f32]) -> Result<(), KernelError> {
        matmul(x, self.weight.matrix(), out)
    }

    /// `out`: `[tokens, hidden_size]`.
    pub(crate) fn forward(&self, tokens: &[TokenId], out: &mut [f32]) -> Result<(), KernelError> {
        let table = self.weight.matrix();
        for (token, row) in tokens.iter().zip(out.chunks_exact_mut(table.cols())) {
            table.dequantize_row(token.0 as usize, row)?;
        }
        if self.scale != 1.0 {
            scale(out, self.scale);
        }
        Ok(())
    }
}
