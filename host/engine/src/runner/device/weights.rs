//! A model's weights in a device's memory: which there are, and where each lies.

use std::sync::atomic::AtomicBool;

use gapura_kernels::device::{Address, DeviceMatrix, MatrixFormat, Precision, Region};

use super::DeviceOptions;
use crate::{
    checkpoint::{Checkpoint, Weight},
    error::LoadError,
    layers::{Activation, Decoder, DecoderLayer, KvGroup, RmsNorm},
    model_config::ModelConfig,
    quantization::Quantization,
    runner::BLOCK_TOKENS,
};

/// Every part of the one allocation begins at a multiple of this.
const ALIGNMENT: u64 = 256;

/// Matrices with the same input, whose outputs lie side by side: one where their formats are the
/// same, else several.
pub(super) type Stacked = Vec<DeviceMatrix>;

/// What a forward pass reads.
#[derive(Debug)]
pub(super) struct DeviceModel {
    pub(super) embed_tokens: DeviceMatrix,
    pub(super) embedding_scale: f32,
    pub(super) layers: Vec<DeviceLayer>,
    pub(super) norm: Address,
    pub(super) lm_head: DeviceMatrix,
    /// 0 for none.
    pub(super) final_logit_softcapping: f32,
    pub(super) rms_norm_eps: f32,
    pub(super) sizes: Sizes,
    pub(super) activation: Activation,
    /// The one allocation of all weights.
    pub(super) region: Region,
}

/// Widths of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) vocab: usize,
}

/// One layer; addresses of norms are `NONE` where the model has none.
#[derive(Debug)]
pub(super) struct DeviceLayer {
    pub(super) input_layernorm: Address,
    pub(super) qkv_proj: Stacked,
    pub(super) q_norm: Address,
    pub(super) k_norm: Address,
    pub(super) inv_freq: Address,
    pub(super) rope_is_interleaved: bool,
    pub(super) o_proj: Stacked,
    pub(super) post_attention_layernorm: Address,
    pub(super) pre_feedforward_layernorm: Address,
    pub(super) gate_up_proj: Stacked,
    pub(super) down_proj: Stacked,
    pub(super) post_feedforward_layernorm: Address,
    pub(super) group: KvGroup,
    /// 0 for all keys.
    pub(super) window: u32,
    pub(super) attention_scale: f32,
    /// 0 for none.
    pub(super) attention_cap: f32,
}

/// Where everything goes, before anything is allocated: offsets into one region.
pub(super) struct WeightPlan<'a> {
    decoder: &'a Decoder,
    config: &'a ModelConfig,
    pub(super) precision: Precision,
    quantize: Quantization,
    pub(super) matrices: Vec<PlannedMatrix<'a>>,
    /// Values, and where they go.
    pub(super) vectors: Vec<(Vec<f32>, u64)>,
    bytes: u64,
}

pub(super) struct PlannedMatrix<'a> {
    pub(super) weight: &'a Weight,
    pub(super) format: MatrixFormat,
    pub(super) offset: u64,
    /// A scale of its blocks was found to be infinite or not a number.
    pub(super) has_odd_scale: AtomicBool,
}

impl<'a> WeightPlan<'a> {
    pub(super) fn new(
        decoder: &'a Decoder,
        config: &'a ModelConfig,
        options: &DeviceOptions,
    ) -> Self {
        Self {
            decoder,
            config,
            precision: options.precision,
            quantize: options.quantize,
            matrices: Vec::new(),
            vectors: Vec::new(),
            bytes: 0,
        }
    }

    /// Lays the model out; addresses are offsets until [`load`](Self::load).
    pub(super) fn lay_out(&mut self) -> DeviceModel {
        let (decoder, config) = (self.decoder, self.config);
        let embed_tokens = self.matrix(decoder.embed_tokens.weight(), true);
        let lm_head = match &decoder.lm_head {
            Some(lm_head) => self.matrix(lm_head.weight(), true),
            None => embed_tokens,
        };
        let activation = decoder
            .layers
            .first()
            .map_or(Activation::Silu, |layer| layer.mlp.activation);
        DeviceModel {
            embed_tokens,
            embedding_scale: decoder.embed_tokens.scale(),
            layers: decoder
                .layers
                .iter()
                .map(|layer| self.layer(layer))
                .collect(),
            norm: self.norm(&decoder.norm),
            lm_head,
            final_logit_softcapping: decoder.final_logit_softcapping.unwrap_or(0.0),
            rms_norm_eps: config.rms_norm_eps,
            sizes: Sizes {
                hidden: config.hidden_size,
                inner: config.intermediate_size,
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
                vocab: config.vocab_size,
            },
            activation,
            region: Region::default(),
        }
    }

    /// Bytes of the one allocation, once laid out.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn layer(&mut self, layer: &'a DecoderLayer) -> DeviceLayer {
        let attention = &layer.self_attn;
        let (q, k, v) = (&attention.q_proj, &attention.k_proj, &attention.v_proj);
        let optional = |plan: &mut Self, norm: Option<&RmsNorm>| {
            norm.map_or(Address::NONE, |norm| plan.norm(norm))
        };
        DeviceLayer {
            input_layernorm: self.norm(&layer.input_layernorm),
            qkv_proj: self.stacked(&[q.weight(), k.weight(), v.weight()]),
            q_norm: optional(self, attention.qk_norms.as_ref().map(|norms| &norms.0)),
            k_norm: optional(self, attention.qk_norms.as_ref().map(|norms| &norms.1)),
            inv_freq: self.vector(attention.rope.inv_freq()),
            rope_is_interleaved: attention.rope.is_interleaved(),
            o_proj: self.stacked(&[attention.o_proj.weight()]),
            post_attention_layernorm: optional(self, layer.post_attention_layernorm.as_ref()),
            pre_feedforward_layernorm: self.norm(&layer.pre_feedforward_layernorm),
            gate_up_proj: self.stacked(&[layer.mlp.gate_proj.weight(), layer.mlp.up_proj.weight()]),
            down_proj: self.stacked(&[layer.mlp.down_proj.weight()]),
            post_feedforward_layernorm: optional(self, layer.post_feedforward_layernorm.as_ref()),
            group: attention.group(),
            window: attention.params.window.map_or(0, |window| window as u32),
            attention_scale: attention.params.scale,
            attention_cap: attention.params.soft_cap.unwrap_or(0.0),
        }
    }

    fn norm(&mut self, norm: &RmsNorm) -> Address {
        self.vector(norm.weight())
    }

    fn vector(&mut self, values: &[f32]) -> Address {
        let offset = self.reserve(4 * values.len() as u64);
        self.vectors.push((values.to_vec(), offset));
        Address(offset)
    }

    /// Matrices one after the other, merged where they can be.
    fn stacked(&mut self, weights: &[&'a Weight]) -> Stacked {
        let mut parts: Stacked = Vec::new();
        for weight in weights {
            let part = self.matrix(weight, false);
            match parts.last_mut() {
                // Rows are whole multiples of 16 bytes, but a merged matrix has no gaps: only
                // where the next begins at once.
                Some(last) if follows(last, &part) => {
                    last.rows += part.rows;
                    last.data.bytes += part.data.bytes;
                }
                _ => parts.push(part),
            }
        }
        parts
    }

    fn matrix(&mut self, weight: &'a Weight, is_table: bool) -> DeviceMatrix {
        let format = self.format(weight, is_table);
        let bytes = (weight.rows() * format.row_bytes(weight.cols())) as u64;
        let offset = self.reserve(bytes);
        self.matrices.push(PlannedMatrix {
            weight,
            format,
            offset,
            has_odd_scale: AtomicBool::new(false),
        });
        DeviceMatrix {
            format,
            rows: weight.rows(),
            cols: weight.cols(),
            data: Region {
                address: Address(offset),
                bytes,
            },
        }
    }

    fn format(&self, weight: &Weight, is_table: bool) -> MatrixFormat {
        match self.quantize {
            Quantization::None => MatrixFormat::of(weight.weight_type(), self.precision),
            Quantization::FourBit if !is_table => MatrixFormat::W4,
            Quantization::EightBit | Quantization::FourBit => MatrixFormat::W8,
        }
    }

    fn reserve(&mut self, bytes: u64) -> u64 {
        let offset = self.bytes;
        self.bytes = (offset + bytes).next_multiple_of(ALIGNMENT);
        offset
    }
}

/// Whether `next` can become a part of `last`.
fn follows(last: &DeviceMatrix, next: &DeviceMatrix) -> bool {
    last.format == next.format
        && last.cols == next.cols
        && last.data.address.0 + last.data.bytes == next.data.address.0
}

impl DeviceModel {
    /// From offsets to addresses.
    pub(super) fn move_by(&mut self, base: u64) {
        let vector = |address: &mut Address| address.0 += base;
        // An absent norm stays absent; offset 0 belongs to the embedding.
        let optional = |address: &mut Address| {
            if *address != Address::NONE {
                address.0 += base;
            }
        };
        let matrix = |matrix: &mut DeviceMatrix| matrix.data.address.0 += base;
        matrix(&mut self.embed_tokens);
        matrix(&mut self.lm_head);
        vector(&mut self.norm);
        for layer in &mut self.layers {
            vector(&mut layer.input_layernorm);
            vector(&mut layer.inv_freq);
            vector(&mut layer.pre_feedforward_layernorm);
            optional(&mut layer.q_norm);
            optional(&mut layer.k_norm);
            optional(&mut layer.post_attention_layernorm);
            optional(&mut layer.post_feedforward_layernorm);
            layer.qkv_proj.iter_mut().for_each(matrix);
            layer.o_proj.iter_mut().for_each(matrix);
            layer.gate_up_proj.iter_mut().for_each(matrix);
            layer.down_proj.iter_mut().for_each(matrix);
        }
    }

    /// Bytes of the keys, or of the values, of one block of a layer.
    pub(super) fn half_block_bytes(&self, precision: Precision) -> u64 {
        let elements = self.sizes.kv_heads * BLOCK_TOKENS * self.sizes.head_dim;
        elements as u64 * precision.bytes()
    }

    /// Refuses matrices that no kernel reads.
    ///
    /// # Errors
    /// [`LoadError::UnsupportedFeature`].
    pub(super) fn check(&self, checkpoint: &Checkpoint) -> Result<(), LoadError> {
        let odd = self
            .matrices()
            .find(|matrix| !matrix.cols.is_multiple_of(matrix.format.block_len()));
        match odd {
            Some(matrix) => Err(LoadError::UnsupportedFeature {
                path: checkpoint.path().to_path_buf(),
                feature: format!("a matrix with rows of {}", matrix.cols),
                supported: "on a GPU rows of whole blocks, in multiples of 8",
            }),
            None => Ok(()),
        }
    }

    /// Every matrix that multiplies.
    pub(super) fn matrices(&self) -> impl Iterator<Item = &DeviceMatrix> {
        let layers = self.layers.iter().flat_map(|layer| {
            let stacks = [
                &layer.qkv_proj,
                &layer.o_proj,
                &layer.gate_up_proj,
                &layer.down_proj,
            ];
            stacks.into_iter().flatten()
        });
        layers.chain([&self.lm_head])
    }
}
