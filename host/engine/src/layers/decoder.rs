//! [`Decoder`]: a whole model, from token ids to logits, and the buffers it computes in.

use gapura_kernels::{Activations, KernelError, KvLayer, soft_cap};

use super::{
    attention::KvGroup, decoder_layer::DecoderLayer, embedding::Embedding, linear::Linear,
    rms_norm::RmsNorm, step::Step,
};
use crate::{
    checkpoint::Weight,
    model_config::ModelConfig,
    runner::{BLOCK_TOKENS, KvLayout, KvPlan},
};

/// Rows of logits computed at once, which bounds their buffer: 16 MiB at 262,144 tokens.
const LOGIT_ROWS: usize = 16;

/// A decoder-only transformer. The families differ in how they fill it.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) embed_tokens: Embedding,
    pub(crate) layers: Vec<DecoderLayer>,
    pub(crate) norm: RmsNorm,
    /// `None` where it is tied to the embedding.
    pub(crate) lm_head: Option<Linear>,
    pub(crate) final_logit_softcapping: Option<f32>,
}

impl Decoder {
    /// The logits of each of `step.output_rows`, `[vocab_size]` after the final soft cap. Keys and
    /// values of the step's tokens are stored in `kv`.
    ///
    /// # Errors
    /// [`KernelError`] only where step, KV cache and model contradict each other.
    pub(crate) fn forward(
        &self,
        step: &Step,
        kv: &mut KvCache,
        workspace: &mut Workspace,
    ) -> Result<Vec<Vec<f32>>, KernelError> {
        workspace.fit(step.num_tokens());
        self.embed_tokens
            .forward(&step.tokens, &mut workspace.hidden)?;
        for (layer, kv) in self.layers.iter().zip(&mut kv.layers) {
            layer.forward(step, kv, workspace)?;
        }
        let mut logits = Vec::with_capacity(step.output_rows.len());
        for rows in step.output_rows.chunks(LOGIT_ROWS) {
            self.logits(rows, workspace, &mut logits)?;
        }
        Ok(logits)
    }

    /// Final norm and output layer, of the wanted rows alone.
    fn logits(
        &self,
        rows: &[usize],
        workspace: &mut Workspace,
        out: &mut Vec<Vec<f32>>,
    ) -> Result<(), KernelError> {
        let Workspace {
            sizes,
            hidden,
            normed,
            branch,
            logits,
            ..
        } = workspace;
        let (width, count) = (sizes.hidden, rows.len());
        let (wanted, normed) = (&mut branch[..count * width], &mut normed[..count * width]);
        for (wanted, &row) in wanted.chunks_exact_mut(width).zip(rows) {
            wanted.copy_from_slice(&hidden[row * width..][..width]);
        }
        self.norm.forward(wanted, normed)?;
        logits.resize(count * sizes.vocab, 0.0);
        let x = Activations::new(normed, count, width)?;
        match &self.lm_head {
            Some(lm_head) => lm_head.forward(&x, logits)?,
            None => self.embed_tokens.logits(&x, logits)?,
        }
        if let Some(cap) = self.final_logit_softcapping {
            soft_cap(logits, cap);
        }
        out.extend(logits.chunks_exact(sizes.vocab).map(<[f32]>::to_vec));
        Ok(())
    }

    /// Every weight matrix once, for quantizing them while the model loads.
    pub(crate) fn matrices_mut(&mut self) -> Vec<&mut Weight> {
        let mut matrices = vec![self.embed_tokens.weight_mut()];
        for layer in &mut self.layers {
            matrices.extend(layer.self_attn.linears_mut().map(Linear::weight_mut));
            matrices.extend(layer.mlp.linears_mut().map(Linear::weight_mut));
        }
        matrices.extend(self.lm_head.as_mut().map(Linear::weight_mut));
        matrices
    }

    /// What the layers need of a KV cache.
    pub(crate) fn kv_layout(&self, config: &ModelConfig) -> KvLayout {
        let mut layout = KvLayout {
            window_tokens: config.sliding_window.unwrap_or(0),
            ..KvLayout::default()
        };
        for layer in &self.layers {
            let (kv_heads, head_dim) = layer.self_attn.kv_shape();
            let bytes = KvLayer::block_bytes(kv_heads, head_dim) as u64;
            match layer.self_attn.group() {
                KvGroup::Full => layout.full_block_bytes += bytes,
                KvGroup::Windowed => layout.windowed_block_bytes += bytes,
            }
        }
        layout
    }
}

/// Keys and values of all layers.
#[derive(Debug, Default)]
pub(crate) struct KvCache {
    layers: Vec<KvLayer>,
}

impl KvCache {
    /// Blocks for every layer, by its group.
    ///
    /// # Errors
    /// [`KernelError`] where the plan does not fit the address space.
    pub(crate) fn new(decoder: &Decoder, plan: KvPlan) -> Result<Self, KernelError> {
        let mut layers = Vec::with_capacity(decoder.layers.len());
        for layer in &decoder.layers {
            let num_blocks = match layer.self_attn.group() {
                KvGroup::Full => plan.num_full_blocks,
                KvGroup::Windowed => plan.num_windowed_blocks,
            };
            let (kv_heads, head_dim) = layer.self_attn.kv_shape();
            layers.push(KvLayer::new(
                num_blocks as usize,
                BLOCK_TOKENS,
                kv_heads,
                head_dim,
            )?);
        }
        Ok(Self { layers })
    }
}

/// The buffers of a step, reused by the next. Each holds exactly the rows of the step.
#[derive(Debug)]
pub(crate) struct Workspace {
    sizes: Sizes,
    /// The residual stream, `[n, hidden_size]`.
    pub(super) hidden: Vec<f32>,
    /// `[n, hidden_size]`, what enters a branch.
    pub(super) normed: Vec<f32>,
    /// `[n, hidden_size]`, what leaves it.
    pub(super) branch: Vec<f32>,
    pub(super) attention: AttentionBuffers,
    pub(super) mlp: MlpBuffers,
    /// `[up to LOGIT_ROWS, vocab_size]`.
    logits: Vec<f32>,
}

/// Inside attention.
#[derive(Debug, Default)]
pub(super) struct AttentionBuffers {
    /// `[n, heads, head_dim]`.
    pub(super) q: Vec<f32>,
    /// `[n, kv_heads, head_dim]`.
    pub(super) k: Vec<f32>,
    /// `[n, kv_heads, head_dim]`.
    pub(super) v: Vec<f32>,
    /// As `q`.
    pub(super) normed: Vec<f32>,
    /// As `q`.
    pub(super) attended: Vec<f32>,
}

/// Inside the MLP, each `[n, intermediate_size]`.
#[derive(Debug, Default)]
pub(super) struct MlpBuffers {
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
}

#[derive(Debug, Clone, Copy)]
struct Sizes {
    hidden: usize,
    intermediate: usize,
    q: usize,
    kv: usize,
    vocab: usize,
}

impl Workspace {
    /// Empty buffers for a model.
    pub(crate) fn new(config: &ModelConfig) -> Self {
        Self {
            sizes: Sizes {
                hidden: config.hidden_size,
                intermediate: config.intermediate_size,
                q: config.num_attention_heads * config.head_dim,
                kv: config.num_key_value_heads * config.head_dim,
                vocab: config.vocab_size,
            },
            hidden: Vec::new(),
            normed: Vec::new(),
            branch: Vec::new(),
            attention: AttentionBuffers::default(),
            mlp: MlpBuffers::default(),
            logits: Vec::new(),
        }
    }

    /// Room for `n` tokens. Every element is written before it is read, so what an earlier step
    /// left is not cleared.
    fn fit(&mut self, n: usize) {
        let Sizes {
            hidden,
            intermediate,
            q,
            kv,
            ..
        } = self.sizes;
        for buffer in [&mut self.hidden, &mut self.normed, &mut self.branch] {
            buffer.resize(n * hidden, 0.0);
        }
        let attention = &mut self.attention;
        for buffer in [
            &mut attention.q,
            &mut attention.normed,
            &mut attention.attended,
        ] {
            buffer.resize(n * q, 0.0);
        }
        for buffer in [&mut attention.k, &mut attention.v] {
            buffer.resize(n * kv, 0.0);
        }
        for buffer in [&mut self.mlp.gate, &mut self.mlp.up] {
            buffer.resize(n * intermediate, 0.0);
        }
    }
}
