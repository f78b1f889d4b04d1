//! [`Step`]: a batch laid out as rows, with all of it checked before anything is computed.

use std::ops::Range;

use thiserror::Error;

use super::attention::KvGroup;
use crate::{
    request::TokenId,
    runner::{BLOCK_TOKENS, Batch, BatchSequence, BlockId, KvPlan, OutputRows},
};

/// The rows of one step: the tokens of all sequences, one sequence after the other.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// `[n]`.
    pub(crate) tokens: Vec<TokenId>,
    /// `[n]`, each in its sequence.
    pub(crate) positions: Vec<usize>,
    /// In the batch's order.
    pub(crate) sequences: Vec<StepSequence>,
    /// Rows whose logits are wanted, in order.
    pub(crate) output_rows: Vec<usize>,
}

/// One sequence's part of a step.
#[derive(Debug)]
pub(crate) struct StepSequence {
    pub(crate) rows: Range<usize>,
    pub(crate) first_position: usize,
    /// How many of the rows are wanted.
    pub(crate) num_outputs: usize,
    full_blocks: Vec<u32>,
    windowed_blocks: Vec<u32>,
}

impl StepSequence {
    /// The block of positions `16 i .. 16 i + 16` at index `i`.
    pub(crate) fn block_table(&self, group: KvGroup) -> &[u32] {
        match group {
            KvGroup::Full => &self.full_blocks,
            KvGroup::Windowed => &self.windowed_blocks,
        }
    }
}

/// A batch that contradicts the model or the KV plan: a defect of the caller.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum StepError {
    #[error("sequence {sequence} of the batch has no tokens")]
    NoTokens { sequence: usize },
    #[error("token id {id} is outside the vocabulary of {vocab_size}")]
    UnknownToken { id: u32, vocab_size: usize },
    #[error("position {position} is outside the context of {context_length}")]
    OutsideContext {
        position: usize,
        context_length: usize,
    },
    #[error("position {position} of sequence {sequence} has no {group:?} block")]
    NoBlock {
        sequence: usize,
        position: usize,
        group: KvGroup,
    },
    #[error("sequence {sequence} follows one of the step before that drew nothing on the device")]
    NothingDrawn { sequence: usize },
    #[error("block {block} is outside the {num_blocks} {group:?} blocks")]
    UnknownBlock {
        block: u32,
        num_blocks: u32,
        group: KvGroup,
    },
}

/// What a batch must keep to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepLimits {
    pub(crate) vocab_size: usize,
    pub(crate) context_length: usize,
    pub(crate) plan: KvPlan,
    pub(crate) has_full_layers: bool,
    /// Of the windowed layers, where there are any.
    pub(crate) window: Option<usize>,
}

/// Stands for a block that left every window; never read.
const GONE: u32 = u32::MAX;

impl Step {
    /// Takes over `batch`, reusing its own memory.
    ///
    /// # Errors
    /// [`StepError`], the first thing that is wrong.
    pub(crate) fn fill(&mut self, batch: &Batch, limits: &StepLimits) -> Result<(), StepError> {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.output_rows.clear();
        for (index, sequence) in batch.sequences.iter().enumerate() {
            limits.check(index, sequence)?;
            let start = self.tokens.len();
            let count = sequence.tokens.len();
            self.tokens.extend_from_slice(&sequence.tokens);
            self.positions
                .extend(sequence.first_position..sequence.first_position + count);
            let rows = start..start + count;
            let outputs = match sequence.output {
                OutputRows::None => rows.end..rows.end,
                OutputRows::Last => rows.end - 1..rows.end,
                OutputRows::All => rows.clone(),
            };
            self.sequences.push(StepSequence {
                rows,
                first_position: sequence.first_position,
                num_outputs: outputs.len(),
                full_blocks: sequence.full_blocks.iter().map(|block| block.0).collect(),
                windowed_blocks: sequence
                    .windowed_blocks
                    .iter()
                    .map(|block| block.map_or(GONE, |block| block.0))
                    .collect(),
            });
            self.output_rows.extend(outputs);
        }
        Ok(())
    }

    /// Rows.
    pub(crate) fn num_tokens(&self) -> usize {
        self.tokens.len()
    }
}

impl StepLimits {
    pub(crate) fn check(&self, index: usize, sequence: &BatchSequence) -> Result<(), StepError> {
        if sequence.tokens.is_empty() {
            return Err(StepError::NoTokens { sequence: index });
        }
        if let Some(token) = sequence
            .tokens
            .iter()
            .find(|token| token.0 as usize >= self.vocab_size)
        {
            return Err(StepError::UnknownToken {
                id: token.0,
                vocab_size: self.vocab_size,
            });
        }
        let first = sequence.first_position;
        let last = first.saturating_add(sequence.tokens.len() - 1);
        if last >= self.context_length {
            let context_length = self.context_length;
            return Err(StepError::OutsideContext {
                position: last,
                context_length,
            });
        }
        if self.has_full_layers {
            let num_blocks = self.plan.num_full_blocks;
            let block_at = |i: usize| sequence.full_blocks.get(i).copied();
            check_blocks(index, 0, last, KvGroup::Full, num_blocks, block_at)?;
        }
        if let Some(window) = self.window {
            let oldest = (first + 1).saturating_sub(window);
            let num_blocks = self.plan.num_windowed_blocks;
            let block_at = |i: usize| sequence.windowed_blocks.get(i).copied().flatten();
            check_blocks(index, oldest, last, KvGroup::Windowed, num_blocks, block_at)?;
        }
        Ok(())
    }
}

/// Every visible position must have a block that exists.
fn check_blocks(
    sequence: usize,
    oldest: usize,
    last: usize,
    group: KvGroup,
    num_blocks: u32,
    block_at: impl Fn(usize) -> Option<BlockId>,
) -> Result<(), StepError> {
    for i in oldest / BLOCK_TOKENS..=last / BLOCK_TOKENS {
        match block_at(i) {
            None => {
                let position = i * BLOCK_TOKENS;
                return Err(StepError::NoBlock {
                    sequence,
                    position,
                    group,
                });
            }
            Some(BlockId(block)) if block >= num_blocks => {
                return Err(StepError::UnknownBlock {
                    block,
                    num_blocks,
                    group,
                });
            }
            Some(_) => {}
        }
    }
    Ok(())
}
