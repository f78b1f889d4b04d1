//! [`DecoderLayer`]: attention and MLP with their norms around the residual stream.

use gapura_kernels::{Activations, KernelError, KvLayer, add_assign};

use super::{attention::Attention, decoder::Workspace, mlp::Mlp, rms_norm::RmsNorm, step::Step};

/// One layer. The norms after the branches are Gemma's; Llama has none, and calls the norm
/// before its MLP `post_attention_layernorm`.
#[derive(Debug)]
pub(crate) struct DecoderLayer {
    pub(crate) input_layernorm: RmsNorm,
    pub(crate) self_attn: Attention,
    pub(crate) post_attention_layernorm: Option<RmsNorm>,
    pub(crate) pre_feedforward_layernorm: RmsNorm,
    pub(crate) mlp: Mlp,
    pub(crate) post_feedforward_layernorm: Option<RmsNorm>,
}

impl DecoderLayer {
    /// Carries `workspace.hidden`, `[n, hidden_size]`, through the layer.
    pub(crate) fn forward(
        &self,
        step: &Step,
        kv: &mut KvLayer,
        workspace: &mut Workspace,
    ) -> Result<(), KernelError> {
        let Workspace {
            hidden,
            normed,
            branch,
            attention,
            mlp,
            ..
        } = workspace;
        let n = step.num_tokens();
        let width = hidden.len() / n;

        self.input_layernorm.forward(hidden, normed)?;
        let x = Activations::new(normed, n, width)?;
        self.self_attn.forward(&x, step, kv, attention, branch)?;
        add_normed(
            hidden,
            branch,
            self.post_attention_layernorm.as_ref(),
            normed,
        )?;

        self.pre_feedforward_layernorm.forward(hidden, normed)?;
        let x = Activations::new(normed, n, width)?;
        self.mlp.forward(&x, mlp, branch)?;
        add_normed(
            hidden,
            branch,
            self.post_feedforward_layernorm.as_ref(),
            normed,
        )
    }
}

/// `hidden += norm(branch)`. The norm comes before the addition, never after.
fn add_normed(
    hidden: &mut [f32],
    branch: &[f32],
    norm: Option<&RmsNorm>,
    normed: &mut [f32],
) -> Result<(), KernelError> {
    match norm {
        Some(norm) => {
            norm.forward(branch, normed)?;
            add_assign(hidden, normed)
        }
        None => add_assign(hidden, branch),
    }
}
