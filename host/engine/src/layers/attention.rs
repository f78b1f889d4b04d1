//! [`Attention`]: projections, rotary embedding and causal attention over paged keys and values.

use std::sync::Arc;

use gapura_kernels::{Activations, AttentionParams, KernelError, KvLayer, attention};

use super::{decoder::AttentionBuffers, linear::Linear, rms_norm::RmsNorm, rope::Rope, step::Step};
use crate::{checkpoint::Checkpoint, error::LoadError};

/// Which pages a layer's keys and values live in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvGroup {
    /// Those of the whole context.
    Full,
    /// Those of the sliding window.
    Windowed,
}

/// Grouped-query attention of one layer.
#[derive(Debug)]
pub(crate) struct Attention {
    pub(crate) q_proj: Linear,
    pub(crate) k_proj: Linear,
    pub(crate) v_proj: Linear,
    pub(crate) o_proj: Linear,
    /// Over each head, before the rotary embedding: Gemma 3.
    pub(crate) qk_norms: Option<(RmsNorm, RmsNorm)>,
    pub(crate) rope: Arc<Rope>,
    pub(crate) params: AttentionParams,
    kv_heads: usize,
    head_dim: usize,
}

impl Attention {
    /// The weights under `{name}` of layer `layer`, which the configuration says is windowed or
    /// not.
    ///
    /// # Errors
    /// As [`Linear::load`].
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        name: &str,
        layer: usize,
        rope: &Arc<Rope>,
    ) -> Result<Self, LoadError> {
        let config = checkpoint.config();
        let (hidden, dim) = (config.hidden_size, config.head_dim);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let linear = |part: &str, shape| Linear::load(checkpoint, &format!("{name}.{part}"), shape);
        Ok(Self {
            q_proj: linear("q_proj", [heads * dim, hidden])?,
            k_proj: linear("k_proj", [kv_heads * dim, hidden])?,
            v_proj: linear("v_proj", [kv_heads * dim, hidden])?,
            o_proj: linear("o_proj", [hidden, heads * dim])?,
            qk_norms: None,
            rope: Arc::clone(rope),
            params: AttentionParams {
                heads,
                scale: config.query_pre_attn_scalar.powf(-0.5),
                soft_cap: config.attn_logit_softcapping,
                window: config
                    .sliding_window
                    .filter(|_| config.windowed_layers[layer]),
            },
            kv_heads,
            head_dim: dim,
        })
    }

    /// Adds the norms over queries and keys.
    ///
    /// # Errors
    /// As [`RmsNorm::load`].
    pub(crate) fn with_qk_norms(
        mut self,
        checkpoint: &Checkpoint,
        name: &str,
    ) -> Result<Self, LoadError> {
        let norm = |part: &str| RmsNorm::load(checkpoint, &format!("{name}.{part}"), self.head_dim);
        self.qk_norms = Some((norm("q_norm")?, norm("k_norm")?));
        Ok(self)
    }

    /// The projections, for quantizing them while the model loads.
    pub(super) fn linears_mut(&mut self) -> [&mut Linear; 4] {
        [
            &mut self.q_proj,
            &mut self.k_proj,
            &mut self.v_proj,
            &mut self.o_proj,
        ]
    }

    /// Where this layer's keys and values go.
    pub(crate) fn group(&self) -> KvGroup {
        if self.params.window.is_some() {
            KvGroup::Windowed
        } else {
            KvGroup::Full
        }
    }

    /// Heads of keys and values, and their width.
    pub(crate) fn kv_shape(&self) -> (usize, usize) {
        (self.kv_heads, self.head_dim)
    }

    /// `x`, `out`: `[n, hidden_size]`. Stores the step's keys and values in `kv`.
    pub(super) fn forward(
        &self,
        x: &Activations<'_>,
        step: &Step,
        kv: &mut KvLayer,
        buffers: &mut AttentionBuffers,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let AttentionBuffers {
            q, k, v, normed, ..
        } = buffers;
        self.q_proj.forward(x, q)?;
        self.k_proj.forward(x, k)?;
        self.v_proj.forward(x, v)?;
        if let Some((q_norm, k_norm)) = &self.qk_norms {
            norm_in_place(q_norm, q, normed)?;
            norm_in_place(k_norm, k, normed)?;
        }
        self.rope.turn(q, self.params.heads, &step.positions)?;
        self.rope.turn(k, self.kv_heads, &step.positions)?;
        self.attend(step, kv, buffers)?;
        let width = self.params.heads * self.head_dim;
        self.o_proj
            .forward(&Activations::new(&buffers.attended, x.n(), width)?, out)
    }

    /// Each sequence by itself, over its own pages.
    fn attend(
        &self,
        step: &Step,
        kv: &mut KvLayer,
        buffers: &mut AttentionBuffers,
    ) -> Result<(), KernelError> {
        let AttentionBuffers {
            q, k, v, attended, ..
        } = buffers;
        let (q_width, kv_width) = (
            self.params.heads * self.head_dim,
            self.kv_heads * self.head_dim,
        );
        for sequence in &step.sequences {
            let table = sequence.block_table(self.group());
            let rows = sequence.rows.clone();
            let q_rows = rows.start * q_width..rows.end * q_width;
            let kv_rows = rows.start * kv_width..rows.end * kv_width;
            kv.store(
                &k[kv_rows.clone()],
                &v[kv_rows],
                table,
                &step.positions[rows],
            )?;
            attention(
                &q[q_rows.clone()],
                sequence.first_position,
                kv,
                table,
                self.params,
                &mut attended[q_rows],
            )?;
        }
        Ok(())
    }
}

/// `x = norm(x)`, by way of `buffer`, which is at least as long.
fn norm_in_place(norm: &RmsNorm, x: &mut [f32], buffer: &mut [f32]) -> Result<(), KernelError> {
    let buffer = &mut buffer[..x.len()];
    norm.forward(x, buffer)?;
    x.copy_from_slice(buffer);
    Ok(())
}
