//! The seam between deciding and computing: a scheduler makes a [`Batch`], a [`ModelRunner`]
//! runs it. Everything that a step needs travels in the batch, so that it can be replayed by
//! any backend.

mod cpu;
mod device;

use thiserror::Error;

pub use cpu::{CpuModel, CpuOptions, CpuRunner};
pub use device::{DeviceOptions, DeviceRunner, LoadedDevice, OpenDevice};

use crate::grammar::TokenMask;
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
    /// The only token is not known yet: it is what this sequence of the batch before draws on the
    /// device, and `tokens` holds a stand-in. Only runners that [draw](ModelRunner::draws) get
    /// such.
    pub follows: Option<usize>,
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
#[derive(Debug, Clone, Default)]
pub struct SamplingInput {
    /// The request's parameters.
    pub params: std::sync::Arc<SamplingParams>,
    /// Draws depend on the seed and the position alone.
    pub seed: u64,
    /// Tokens before this position are the prompt's, the others were generated.
    pub num_prompt_tokens: usize,
    /// The tokens before the batch's last of the sequence, which is the newest; empty unless a
    /// penalty is about them.
    pub history: Vec<TokenId>,
    /// Not to be drawn.
    pub forbidden: Vec<TokenId>,
    /// Logprobs to return, with so many alternatives.
    pub logprobs: Option<u32>,
    /// A grammar restricts the draw, and its mask is known only once the step has begun: a runner
    /// returns logits, or waits for [`ModelRunner::mask`].
    pub is_masked: bool,
}

/// What a step returns for one wanted row.
#[derive(Debug, Clone)]
pub enum RowOutput {
    /// `[vocab_size]` float32 after the final soft cap; the engine draws the token.
    Logits(Vec<f32>),
    /// Drawn on the device.
    Sampled(SampledToken),
    /// To be drawn on the device, where no logit was finite: the sequence fails.
    Undrawable,
}

impl RowOutput {
    /// The logits that are still to be read: none where the device drew.
    pub(crate) fn num_logits(&self) -> usize {
        match self {
            Self::Logits(logits) => logits.len(),
            Self::Sampled(_) | Self::Undrawable => 0,
        }
    }
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
    /// What it takes to go on.
    pub reach: Reach,
}

/// How far a failure reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The step failed; the next one may not.
    Step,
    /// The runner can run no other step: it is replaced, and everything computed again.
    Runner,
    /// Nor can any other runner of this process: the engine ends.
    Process,
}

impl RunnerError {
    /// A failure of this step alone.
    pub fn new(message: impl std::fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            reach: Reach::Step,
        }
    }
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

    /// Starts a step. A device may run it while the caller goes on.
    fn submit(&mut self, batch: &Batch) -> Result<(), RunnerError>;

    /// Tells what may be drawn, by sequence of the batch submitted last, where a grammar restricts a
    /// row that the runner [draws](Self::draws) itself; `None` for all others and for those whose
    /// token nobody will read. Called once for a batch with such rows, before the next is submitted
    /// and before this one is collected.
    fn mask(&mut self, _masks: &[Option<TokenMask>]) -> Result<(), RunnerError> {
        Ok(())
    }

    /// Waits for the oldest step that was submitted and not collected.
    fn collect(&mut self) -> Result<StepOutput, RunnerError>;

    /// Whether it draws the token of a row itself, so that the next step can
    /// [follow](BatchSequence::follows) before this one is collected. A runner that never does has
    /// one step in flight at most, the others two.
    fn draws(&self, _input: &SamplingInput) -> bool {
        false
    }
}
