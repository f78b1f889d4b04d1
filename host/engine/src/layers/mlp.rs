//! [`Mlp`]: the gated feed-forward block.

use gapura_kernels::{Activations, KernelError, gelu_tanh_mul, silu_mul};

use super::{decoder::MlpBuffers, linear::Linear};
use crate::{checkpoint::Checkpoint, error::LoadError};

/// What the gate goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// GELU by its tanh approximation: Gemma.
    GeluTanh,
    /// `x * sigmoid(x)`: Llama.
    Silu,
}

/// `down_proj(activation(gate_proj(x)) * up_proj(x))`.
#[derive(Debug)]
pub(crate) struct Mlp {
    pub(crate) gate_proj: Linear,
    pub(crate) up_proj: Linear,
    pub(crate) down_proj: Linear,
    pub(crate) activation: Activation,
}

impl Mlp {
    /// The three weights under `{name}`.
    ///
    /// # Errors
    /// As [`Linear::load`].
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        name: &str,
        activation: Activation,
    ) -> Result<Self, LoadError> {
        let config = checkpoint.config();
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            gate_proj: Linear::load(checkpoint, &format!("{name}.gate_proj"), [inner, hidden])?,
            up_proj: Linear::load(checkpoint, &format!("{name}.up_proj"), [inner, hidden])?,
            down_proj: Linear::load(checkpoint, &format!("{name}.down_proj"), [hidden, inner])?,
            activation,
        })
    }

    /// The projections, for quantizing them while the model loads.
    pub(super) fn linears_mut(&mut self) -> [&mut Linear; 3] {
        [&mut self.gate_proj, &mut self.up_proj, &mut self.down_proj]
    }

    /// `x`, `out`: `[n, hidden_size]`.
    pub(super) fn forward(
        &self,
        x: &Activations<'_>,
        buffers: &mut MlpBuffers,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let MlpBuffers { gate, up } = buffers;
        self.gate_proj.forward(x, gate)?;
        self.up_proj.forward(x, up)?;
        match self.activation {
            Activation::GeluTanh => gelu_tanh_mul(gate, up)?,
            Activation::Silu => silu_mul(gate, up)?,
        }
        let inner = gate.len() / x.n();
        self.down_proj
            .forward(&Activations::new(gate, x.n(), inner)?, out)
    }
}
