//! The seam between deciding and computing: a scheduler makes a [`Batch`], a [`ModelRunner`]
//! runs it. Everything that a step needs travels in the batch, so that it can be replayed by
//! any backend.

mod cpu;

use thiserror::Error;

pub use cpu::{CpuModel, CpuOptions, CpuRunner};

use crate::request::{SampledToken, SamplingParams, TokenId};

/// A page of the KV pool of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// Tokens per KV block.
pub const BLOCK_TOKENS: usize = 16;

/// What the engine needs to know of a loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// The name that clients see, such as `SmolLM2-135M-Instruct`.
    pub id: String,
    /// As its files name it: `gemma2`, `gemma3`, `llama`, `sim`.
    pub architecture: String,
    /// Entries of the vocabulary; logits have as many.
    pub vocab_size: usize,
    /// Most tokens of prompt and answer together.
    pub context_length: usize,
    /// Union of the tokenizer's, the generation config's and the template's end tokens.
    pub eos_token_ids: Vec<TokenId>,
    /// What a raw completion prompt begins with, if anything.
    pub bos_token_id: Option<TokenId>,
    /// The KV cache that the model needs.
    pub kv: KvLayout,
    /// Bytes of the weights in memory.
    pub weight_bytes: u64,
    /// Where it runs: `cpu`, `cuda`, `sim`.
    pub device: String,
}

/// Bytes that one block takes over all layers of its group. A group without layers takes 0
/// and gets no blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KvLayout {
    /// Layers that attend to the whole context.
    pub full_block_bytes: u64,
    /// Layers that attend to a sliding window.
    pub windowed_block_bytes: u64,
    /// Keys that a windowed layer sees, the query's own included.
    pub window_tokens: usize,
}

/// Blocks to allocate, by group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KvPlan {
    /// Of the full group.
    pub num_full_blocks: u32,
    /// Of the windowed group.
    pub num_windowed_blocks: u32,
}

/// One step's work.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Each sequence at most once; decodes first.
    pub sequences: Vec<BatchSequence>,
}

/// One sequence's part of a step.
#[derive(Debug, Clone)]
pub struct BatchSequence {
    /// The tokens to compute, at least one.
    pub tokens: Vec<TokenId>,
    /// The position of the first of them; all before are in the KV cache.
    pub first_position: usize,
    /// Block of positions `16 i .. 16 i + 16` at index `i`, up to the last position computed.
    /// Empty where the model has no such group.
    pub full_blocks: Vec<BlockId>,
    /// The same for the windowed group. `None` where the block has left every window.
    pub windowed_blocks: Vec<Option<BlockId>>,
    /// Which of the tokens' outputs are wanted.
    pub output: OutputRows,
    /// How a sampling device draws the token after the last one.
    pub sampling: SamplingInput,
}

impl BatchSequence {
    /// Rows that a step must return for this part.
    #[must_use]
    pub fn num_output_rows(&self) -> usize {
        match self.output {
            OutputRows::None => 0,
            OutputRows::Last => 1,
            OutputRows::All => self.tokens.len(),
        }
    }
}

/// Which of a sequence's rows a step must return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputRows {
    /// None: more of the prompt follows.
    None,
    /// The last one, to draw the next token.
    Last,
    /// Every one, as logits: the prompt is being scored.
    All,
}

/// What drawing a token needs beside its logits.
#[derive(Debug, Clone)]
pub struct SamplingInput {
    /// The request's parameters.
    pub params: std::sync::Arc<SamplingParams>,
    /// Draws depend on the seed and the position alone.
    pub seed: u64,
    /// Tokens before this position are the prompt's, the others were generated.
    pub num_prompt_tokens: usize,
    /// Logprobs to return, with so many alternatives.
    pub logprobs: Option<u32>,
    /// A grammar restricts the draw, and its mask is known only after the step: the runner
    /// must return logits.
    pub needs_logits: bool,
}

/// What a step returns for one wanted row.
#[derive(Debug, Clone)]
pub enum RowOutput {
    /// `[vocab_size]` float32 after the final soft cap; the engine draws the token.
    Logits(Vec<f32>),
    /// Drawn on the device.
    Sampled(SampledToken),
}

/// What a step returns: for each sequence of the batch, in order, its wanted rows in order.
#[derive(Debug, Clone, Default)]
pub struct StepOutput {
    /// `rows[i]` belongs to `batch.sequences[i]`; as many as its `output` says.
    pub rows: Vec<Vec<RowOutput>>,
}

/// A step or an allocation failed. The engine fails the sequences of the step and goes on.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct RunnerError {
    /// What failed, for the log.
    pub message: String,
}

/// Makes a runner of the same model again, from what is still mapped or otherwise at hand.
/// Called on the engine thread, after the old runner is gone.
pub type RunnerFactory = Box<dyn FnMut() -> Result<Box<dyn ModelRunner>, RunnerError> + Send>;

/// A loaded model on a device. Owned by the engine thread, which alone calls it.
pub trait ModelRunner: Send {
    /// What is loaded.
    fn model(&self) -> &ModelInfo;

    /// Allocates the KV cache, once, before the first step. Nothing that grows with the
    /// traffic is allocated afterwards.
    fn allocate_kv(&mut self, plan: KvPlan) -> Result<(), RunnerError>;

    /// Starts a step. A device may run it while the caller goes on; at most one step is in
    /// flight unless [`max_in_flight`](Self::max_in_flight) says more.
    fn submit(&mut self, batch: &Batch) -> Result<(), RunnerError>;

    /// Waits for the oldest step that was submitted and not collected.
    fn collect(&mut self) -> Result<StepOutput, RunnerError>;

    /// Steps that may be submitted before the first is collected.
    fn max_in_flight(&self) -> usize {
        1
    }
}
