//! [`Buffers`]: everything that steps compute in, one allocation for the life of the runner, so
//! that recorded steps find it where it was and no step ever asks for memory.

use gapura_kernels::device::{Address, Bias, PREFILL_TILE_ROWS, Region, RowLogprobs};

use super::{
    DeviceOptions,
    inputs::{Counts, Inputs},
    weights::DeviceModel,
};
use crate::runner::BLOCK_TOKENS;

/// Rows of logits beyond one a sequence, for prompts that are scored.
const SCORE_ROWS: usize = 32;

/// Elements of a weight matrix that are turned into activations at a time.
const DEQUANTIZED_ELEMENTS: usize = 64 << 20;

/// Elements of attention scores held at a time where a library multiplies.
const SCORE_ELEMENTS: usize = 32 << 20;

/// Most parts that the keys of one row are cut into.
pub(super) const MAX_SPLITS: usize = 32;

/// Entries of logit bias, and of tokens that may not come, of one row that the device draws.
pub(super) const MAX_ROW_BIASES: usize = 512;

/// What a step may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepSizes {
    /// Tokens.
    pub(super) tokens: usize,
    /// Sequences.
    pub(super) sequences: usize,
    /// Rows of logits.
    pub(super) outputs: usize,
    /// Entries of a block table.
    pub(super) table: usize,
    /// Tiles of prefill attention.
    pub(super) tiles: usize,
    /// Tokens in the histories of rows with penalties.
    pub(super) history: usize,
}

impl StepSizes {
    pub(super) fn new(options: &DeviceOptions, context_length: usize) -> Self {
        let sequences = options.max_num_seqs;
        let tokens = options.max_batched_tokens.max(sequences);
        Self {
            tokens,
            sequences,
            outputs: sequences + SCORE_ROWS,
            table: context_length.div_ceil(BLOCK_TOKENS),
            // Every sequence may end with a tile that is not full.
            tiles: tokens.div_ceil(PREFILL_TILE_ROWS as usize) + sequences,
            history: sequences * context_length,
        }
    }

    fn counts(&self) -> Counts {
        Counts {
            tokens: self.tokens,
            sequences: self.sequences,
            outputs: self.outputs,
            tiles: self.tiles,
            table: self.table,
        }
    }
}

/// Regions of the one allocation. Activations are `act` unless it says otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffers {
    /// f32 `[tokens, hidden]`.
    pub(super) residual: Region,
    /// `[tokens, hidden]`.
    pub(super) normed: Region,
    /// `[tokens, heads + 2 kv_heads, head_dim]`.
    pub(super) qkv: Region,
    /// `[tokens, heads, head_dim]`.
    pub(super) q: Region,
    /// As `q`.
    pub(super) attended: Region,
    /// f32 `[tokens, hidden]`.
    pub(super) branch: Region,
    /// `[tokens, 2 inner]`.
    pub(super) gate_up: Region,
    /// `[tokens, inner]`.
    pub(super) gated: Region,
    /// f32 `[sequences, heads, MAX_SPLITS, head_dim]`.
    pub(super) partial: Region,
    /// f32 `[sequences, heads, MAX_SPLITS, 2]`.
    pub(super) partial_sums: Region,
    /// f32 `[outputs, vocab]`.
    pub(super) logits: Region,
    /// `[DEQUANTIZED_ELEMENTS]`, where a format needs it.
    pub(super) dequantized: Region,
    /// `[kv_heads, context, head_dim]`, for attention by a library.
    pub(super) gathered_k: Region,
    /// As `gathered_k`.
    pub(super) gathered_v: Region,
    /// f32 `[heads, rows, columns]`, as many rows as fit.
    pub(super) scores: Region,
    /// The same as `act`.
    pub(super) weights: Region,
    /// u32 `[outputs]`.
    pub(super) sampled: Region,
    /// f32 `[outputs]`.
    pub(super) sampled_logits: Region,
    /// [`RowLogprobs`] `[outputs]`.
    pub(super) logprobs: Region,
    /// u32 `[outputs, 2, ceil(vocab / 32)]`.
    pub(super) seen: Region,
    /// The [`Inputs`](super::inputs::Inputs) of a step.
    pub(super) inputs: Region,
    /// u32 `[history]`: tokens that penalties are about.
    pub(super) history: Region,
    /// [`Bias`] `[sequences, MAX_ROW_BIASES]`.
    pub(super) biases: Region,
    /// u32 `[sequences, ceil(vocab / 32)]`: what grammars allow.
    pub(super) masks: Region,
}

/// Hands out regions one after the other; addresses are offsets until [`Buffers::at`].
#[derive(Default)]
struct Layout {
    bytes: u64,
}

impl Layout {
    fn reserve(&mut self, elements: usize, size: usize) -> Region {
        let bytes = (elements * size) as u64;
        let address = Address(self.bytes);
        self.bytes = (self.bytes + bytes).next_multiple_of(256);
        Region { address, bytes }
    }
}

impl Buffers {
    /// The buffers, as offsets, and the bytes of all together.
    pub(super) fn lay_out(
        model: &DeviceModel,
        sizes: &StepSizes,
        options: &DeviceOptions,
        context_length: usize,
    ) -> (Self, u64) {
        let s = model.sizes;
        let act = options.precision.bytes() as usize;
        let (n, outputs) = (sizes.tokens, sizes.outputs);
        let q_width = s.heads * s.head_dim;
        let needs_dequantized = model
            .matrices()
            .any(|matrix| !options.is_plain(matrix.format));
        let dequantized = if needs_dequantized {
            DEQUANTIZED_ELEMENTS
        } else {
            0
        };
        let by_library = options.attends_by_library();
        let gathered = if by_library {
            context_length * s.kv_heads * s.head_dim
        } else {
            0
        };
        let scores = if by_library {
            SCORE_ELEMENTS.max(s.heads * context_length.next_multiple_of(8))
        } else {
            0
        };
        let mut layout = Layout::default();
        let mut reserve = |elements: usize, size: usize| layout.reserve(elements, size);
        let buffers = Self {
            residual: reserve(n * s.hidden, 4),
            normed: reserve(n * s.hidden, act),
            qkv: reserve(n * (q_width + 2 * s.kv_heads * s.head_dim), act),
            q: reserve(n * q_width, act),
            attended: reserve(n * q_width, act),
            branch: reserve(n * s.hidden, 4),
            gate_up: reserve(n * 2 * s.inner, act),
            gated: reserve(n * s.inner, act),
            partial: reserve(sizes.sequences * q_width * MAX_SPLITS, 4),
            partial_sums: reserve(sizes.sequences * s.heads * MAX_SPLITS * 2, 4),
            logits: reserve(outputs * s.vocab, 4),
            dequantized: reserve(dequantized, act),
            gathered_k: reserve(gathered, act),
            gathered_v: reserve(gathered, act),
            scores: reserve(scores, 4),
            weights: reserve(scores, act),
            sampled: reserve(outputs, 4),
            sampled_logits: reserve(outputs, 4),
            logprobs: reserve(outputs, size_of::<RowLogprobs>()),
            seen: reserve(outputs * 2 * s.vocab.div_ceil(32), 4),
            inputs: reserve(Inputs::bytes(&sizes.counts()), 1),
            history: reserve(sizes.history, 4),
            biases: reserve(sizes.sequences * MAX_ROW_BIASES, size_of::<Bias>()),
            masks: reserve(sizes.sequences * s.vocab.div_ceil(32), 4),
        };
        (buffers, layout.bytes)
    }

    /// The same buffers at `base`.
    pub(super) fn at(mut self, base: Region) -> Self {
        for region in [
            &mut self.residual,
            &mut self.normed,
            &mut self.qkv,
            &mut self.q,
            &mut self.attended,
            &mut self.branch,
            &mut self.gate_up,
            &mut self.gated,
            &mut self.partial,
            &mut self.partial_sums,
            &mut self.logits,
            &mut self.dequantized,
            &mut self.gathered_k,
            &mut self.gathered_v,
            &mut self.scores,
            &mut self.weights,
            &mut self.sampled,
            &mut self.sampled_logits,
            &mut self.logprobs,
            &mut self.seen,
            &mut self.inputs,
            &mut self.history,
            &mut self.biases,
            &mut self.masks,
        ] {
            *region = base.slice(region.address.0, region.bytes);
        }
        self
    }
}
