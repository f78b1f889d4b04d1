//! A forward pass as a list of operations: nine launches a layer for a few rows.

use gapura_kernels::{
    BLOCK_TOKENS,
    device::{
        AddNorm, Address, AttendDecode, AttendPrefill, Embed, GatherKv, Gemm, MaskedSoftmax,
        MergeSplits, Op, RopeKv,
    },
};

use super::{
    DeviceOptions,
    buffers::Buffers,
    inputs::{Inputs, Prompt},
    linear::Out,
    weights::{DeviceLayer, DeviceModel, Sizes},
};
use crate::layers::KvGroup;

/// Keys and values of one layer; `act`, `[blocks + 1, kv_heads, 16, head_dim]` each. The last
/// block belongs to rows that pad a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct KvPages {
    pub(super) k: Address,
    pub(super) v: Address,
}

/// What a list of operations is for. Two steps of the same shape take the same list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'a> {
    /// Rows of one token each, with a sequence of their own, before all others.
    pub(super) num_decodes: usize,
    /// All rows.
    pub(super) num_tokens: usize,
    /// Rows of logits.
    pub(super) num_outputs: usize,
    /// Tiles of prefill attention.
    pub(super) num_tiles: usize,
    /// The sequences behind the single rows, for attention by a library.
    pub(super) prompts: &'a [Prompt],
    /// Of the keys of single rows.
    pub(super) splits: usize,
}

/// Writes the list.
pub(super) struct Program<'a> {
    pub(super) model: &'a DeviceModel,
    pub(super) buffers: &'a Buffers,
    pub(super) inputs: &'a Inputs,
    pub(super) pages: &'a [KvPages],
    pub(super) options: &'a DeviceOptions,
    /// Entries of a block table.
    pub(super) table_stride: usize,
    pub(super) ops: Vec<Op>,
}

impl Program<'_> {
    /// From tokens to logits.
    pub(super) fn forward(&mut self, shape: &Shape<'_>) {
        let (model, buffers) = (self.model, self.buffers);
        let n = shape.num_tokens;
        self.embed(n);
        for (index, layer) in model.layers.iter().enumerate() {
            self.linear(&layer.qkv_proj, buffers.normed, buffers.qkv, n, Out::Act);
            self.rope_kv(layer, self.pages[index], n);
            self.attend(layer, self.pages[index], shape);
            self.linear(
                &layer.o_proj,
                buffers.attended,
                buffers.branch,
                n,
                Out::F32 { cap: 0.0 },
            );
            self.add_norm(
                layer.post_attention_layernorm,
                layer.pre_feedforward_layernorm,
                n,
            );
            self.gate_up(layer, n);
            self.linear(
                &layer.down_proj,
                buffers.gated,
                buffers.branch,
                n,
                Out::F32 { cap: 0.0 },
            );
            match model.layers.get(index + 1) {
                Some(next) => {
                    self.add_norm(layer.post_feedforward_layernorm, next.input_layernorm, n)
                }
                None => self.last_norm(layer.post_feedforward_layernorm, shape.num_outputs),
            }
        }
        if shape.num_outputs > 0 {
            let cap = model.final_logit_softcapping;
            let lm_head = [model.lm_head];
            self.linear(
                &lm_head,
                buffers.normed,
                buffers.logits,
                shape.num_outputs,
                Out::F32 { cap },
            );
        }
    }

    fn embed(&mut self, n: usize) {
        let (model, buffers) = (self.model, self.buffers);
        let table = model.embed_tokens;
        self.ops.push(Op::Embed(
            Embed {
                tokens: self.inputs.tokens,
                sources: self.inputs.sources,
                sampled: buffers.sampled.address,
                table: table.data.address,
                norm_weight: model.layers[0].input_layernorm,
                residual: buffers.residual.address,
                out: buffers.normed.address,
                n: n as u32,
                hidden: model.sizes.hidden as u32,
                vocab: table.rows as u32,
                row_bytes: table.row_bytes() as u32,
                scale: model.embedding_scale,
                eps: model.rms_norm_eps,
            },
            table.format,
        ));
    }

    fn add_norm(&mut self, post_weight: Address, next_weight: Address, n: usize) {
        self.push_add_norm(post_weight, next_weight, Address::NONE, n);
    }

    /// The last layer's, of the wanted rows alone.
    fn last_norm(&mut self, post_weight: Address, num_outputs: usize) {
        if num_outputs > 0 {
            let rows = self.inputs.output_rows;
            self.push_add_norm(post_weight, self.model.norm, rows, num_outputs);
        }
    }

    fn push_add_norm(
        &mut self,
        post_weight: Address,
        next_weight: Address,
        rows: Address,
        n: usize,
    ) {
        self.ops.push(Op::AddNorm(AddNorm {
            branch: self.buffers.branch.address,
            post_weight,
            residual: self.buffers.residual.address,
            next_weight,
            rows,
            out: self.buffers.normed.address,
            n: n as u32,
            hidden: self.model.sizes.hidden as u32,
            eps: self.model.rms_norm_eps,
            reserved: 0,
        }));
    }

    fn rope_kv(&mut self, layer: &DeviceLayer, pages: KvPages, n: usize) {
        let (buffers, sizes) = (self.buffers, self.model.sizes);
        let slots = match layer.group {
            KvGroup::Full => self.inputs.full_slots,
            KvGroup::Windowed => self.inputs.windowed_slots,
        };
        self.ops.push(Op::RopeKv(RopeKv {
            qkv: buffers.qkv.address,
            q_out: buffers.q.address,
            k_cache: pages.k,
            v_cache: pages.v,
            positions: self.inputs.positions,
            slots,
            inv_freq: layer.inv_freq,
            q_norm: layer.q_norm,
            k_norm: layer.k_norm,
            n: n as u32,
            heads: sizes.heads as u32,
            kv_heads: sizes.kv_heads as u32,
            eps: self.model.rms_norm_eps,
            interleaved: u32::from(layer.rope_is_interleaved),
            reserved: 0,
        }));
    }

    fn attend(&mut self, layer: &DeviceLayer, pages: KvPages, shape: &Shape<'_>) {
        if shape.num_decodes > 0 {
            self.attend_decode(layer, pages, shape);
        }
        if shape.num_tokens == shape.num_decodes {
            return;
        }
        if self.options.attends_by_library() {
            for prompt in shape.prompts {
                self.attend_by_library(layer, pages, prompt);
            }
            return;
        }
        let (buffers, sizes) = (self.buffers, self.model.sizes);
        self.ops.push(Op::AttendPrefill(AttendPrefill {
            q: buffers.q.address,
            k_cache: pages.k,
            v_cache: pages.v,
            tables: self.tables(layer.group),
            tiles: self.inputs.tiles,
            out: buffers.attended.address,
            num_tiles: shape.num_tiles as u32,
            kv_heads: sizes.kv_heads as u32,
            table_stride: self.table_stride as u32,
            window: layer.window,
            scale: layer.attention_scale,
            cap: layer.attention_cap,
        }));
    }

    fn tables(&self, group: KvGroup) -> Address {
        match group {
            KvGroup::Full => self.inputs.full_tables,
            KvGroup::Windowed => self.inputs.windowed_tables,
        }
    }

    fn attend_decode(&mut self, layer: &DeviceLayer, pages: KvPages, shape: &Shape<'_>) {
        let (buffers, sizes) = (self.buffers, self.model.sizes);
        self.ops.push(Op::AttendDecode(AttendDecode {
            q: buffers.q.address,
            k_cache: pages.k,
            v_cache: pages.v,
            tables: self.tables(layer.group),
            lengths: self.inputs.lengths,
            out: buffers.attended.address,
            partial: buffers.partial.address,
            partial_sums: buffers.partial_sums.address,
            n: shape.num_decodes as u32,
            kv_heads: sizes.kv_heads as u32,
            table_stride: self.table_stride as u32,
            window: layer.window,
            splits: shape.splits as u32,
            scale: layer.attention_scale,
            cap: layer.attention_cap,
            reserved: 0,
        }));
        if shape.splits > 1 {
            self.ops.push(Op::MergeSplits(MergeSplits {
                partial: buffers.partial.address,
                partial_sums: buffers.partial_sums.address,
                out: buffers.attended.address,
                n: shape.num_decodes as u32,
                heads: sizes.heads as u32,
                splits: shape.splits as u32,
                reserved: 0,
            }));
        }
    }

    /// One prompt's attention as matrix products over gathered keys and values, some rows at a
    /// time.
    fn attend_by_library(&mut self, layer: &DeviceLayer, pages: KvPages, prompt: &Prompt) {
        let (buffers, sizes) = (self.buffers, self.model.sizes);
        let act = self.options.precision.bytes();
        let last = prompt.first_position + prompt.num_tokens;
        let first_key = match layer.window {
            0 => 0,
            window => (prompt.first_position + 1).saturating_sub(window as usize),
        };
        let columns = last - first_key;
        // Rows of whole 16 bytes; what is behind the last key is later than every query.
        let stride = columns.next_multiple_of(8);
        let tables = self.tables(layer.group);
        let table = 4 * (prompt.table * self.table_stride) as u64;
        self.ops.push(Op::GatherKv(GatherKv {
            k_cache: pages.k,
            v_cache: pages.v,
            table: tables.offset(table),
            k_out: buffers.gathered_k.address,
            v_out: buffers.gathered_v.address,
            first: first_key as u32,
            count: columns as u32,
            kv_heads: sizes.kv_heads as u32,
            reserved: 0,
        }));
        let q_width = sizes.heads * sizes.head_dim;
        let rows_at_once = (buffers.scores.bytes as usize / 4 / (sizes.heads * stride)).max(1);
        let mut first = 0;
        while first < prompt.num_tokens {
            let rows = rows_at_once.min(prompt.num_tokens - first);
            let q = act * ((prompt.first_row + first) * q_width) as u64;
            let products = Products {
                rows,
                columns,
                stride,
                sizes,
                allow_tf32: self.options.allow_tf32,
            };
            self.ops.push(products.scores(
                buffers.q.address.offset(q),
                buffers.gathered_k.address,
                buffers.scores.address,
            ));
            self.ops.push(Op::MaskedSoftmax(MaskedSoftmax {
                scores: buffers.scores.address,
                out: buffers.weights.address,
                heads: sizes.heads as u32,
                rows: rows as u32,
                columns: stride as u32,
                first_position: (prompt.first_position + first) as u32,
                first_key: first_key as u32,
                window: layer.window,
                scale: layer.attention_scale,
                cap: layer.attention_cap,
            }));
            self.ops.push(products.values(
                buffers.weights.address,
                buffers.gathered_v.address,
                buffers.attended.address.offset(q),
            ));
            first += rows;
        }
    }
}

/// The two products of attention by a library, one for each query head.
struct Products {
    rows: usize,
    columns: usize,
    /// From row to row of scores and weights.
    stride: usize,
    sizes: Sizes,
    allow_tf32: bool,
}

impl Products {
    fn of_heads(&self) -> Gemm {
        let Sizes {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.sizes;
        Gemm {
            n: self.rows as u32,
            batch: heads as u32,
            w_shared: (heads / kv_heads) as u32,
            w_stride: head_dim as u32,
            w_batch_stride: (self.columns * head_dim) as u64,
            allow_tf32: u32::from(self.allow_tf32),
            ..Gemm::default()
        }
    }

    /// `scores[h, i, j] = q[i, h] . k[h, j]`.
    fn scores(&self, q: Address, k: Address, scores: Address) -> Op {
        let Sizes {
            heads, head_dim, ..
        } = self.sizes;
        Op::Gemm(Gemm {
            x: q,
            w: k,
            out: scores,
            m: self.columns as u32,
            k: head_dim as u32,
            x_stride: (heads * head_dim) as u32,
            x_batch_stride: head_dim as u64,
            out_stride: self.stride as u32,
            out_batch_stride: (self.rows * self.stride) as u64,
            out_is_f32: 1,
            ..self.of_heads()
        })
    }

    /// `out[i, h] = sum over j of weights[h, i, j] * v[h, j]`.
    fn values(&self, weights: Address, v: Address, out: Address) -> Op {
        let Sizes {
            heads, head_dim, ..
        } = self.sizes;
        Op::Gemm(Gemm {
            x: weights,
            w: v,
            out,
            m: head_dim as u32,
            k: self.columns as u32,
            x_stride: self.stride as u32,
            x_batch_stride: (self.rows * self.stride) as u64,
            out_stride: (heads * head_dim) as u32,
            out_batch_stride: head_dim as u64,
            w_is_kn: 1,
            ..self.of_heads()
        })
    }
}

const _: () = assert!(BLOCK_TOKENS == gapura_kernels::device::KV_BLOCK as usize);
