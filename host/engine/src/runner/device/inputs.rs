//! What a step uploads: one block of bytes, laid out by the step's sizes, so that steps of the
//! same sizes find everything at the same addresses.

use gapura_kernels::device::{
    Address, PREFILL_TILE_ROWS, PrefillTile, Region, RowSampling, Upload,
};

use super::sampling::{self, Referred};
use crate::{
    layers::{StepError, StepLimits},
    runner::{BLOCK_TOKENS, Batch, BatchSequence, KvPlan, OutputRows},
};

/// Entries of a block table that are never read.
const GONE: u32 = u32::MAX;

/// How many of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Counts {
    pub(super) tokens: usize,
    pub(super) sequences: usize,
    pub(super) outputs: usize,
    pub(super) tiles: usize,
    /// Entries of a block table.
    pub(super) table: usize,
}

/// Where a step's inputs are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs {
    /// u32 `[tokens]`.
    pub(super) tokens: Address,
    /// i32 `[tokens]`: row of the step before whose drawn token this is, or -1.
    pub(super) sources: Address,
    /// u32 `[tokens]`.
    pub(super) positions: Address,
    /// u32 `[tokens]`.
    pub(super) full_slots: Address,
    /// u32 `[tokens]`.
    pub(super) windowed_slots: Address,
    /// u32 `[sequences]`.
    pub(super) lengths: Address,
    /// u32 `[outputs]`.
    pub(super) output_rows: Address,
    /// u32 `[sequences, table]`.
    pub(super) full_tables: Address,
    /// As `full_tables`.
    pub(super) windowed_tables: Address,
    /// [`PrefillTile`] `[tiles]`.
    pub(super) tiles: Address,
    /// [`RowSampling`] `[outputs]`.
    pub(super) sampling: Address,
}

impl Inputs {
    /// The layout at the beginning of `region`.
    pub(super) fn at(region: Region, counts: &Counts) -> Self {
        let starts = Self::starts(counts);
        let address = |part: usize| region.address.offset(starts[part] as u64);
        Self {
            tokens: address(0),
            sources: address(1),
            positions: address(2),
            full_slots: address(3),
            windowed_slots: address(4),
            lengths: address(5),
            output_rows: address(6),
            full_tables: address(7),
            windowed_tables: address(8),
            tiles: address(9),
            sampling: address(10),
        }
    }

    /// Bytes of all parts together.
    pub(super) fn bytes(counts: &Counts) -> usize {
        Self::starts(counts)[11]
    }

    /// Where each part begins, and the end.
    fn starts(counts: &Counts) -> [usize; 12] {
        let Counts {
            tokens,
            sequences,
            outputs,
            tiles,
            table,
        } = *counts;
        let sizes = [
            4 * tokens,
            4 * tokens,
            4 * tokens,
            4 * tokens,
            4 * tokens,
            4 * sequences,
            4 * outputs,
            4 * sequences * table,
            4 * sequences * table,
            size_of::<PrefillTile>() * tiles,
            size_of::<RowSampling>() * outputs,
        ];
        let mut starts = [0; 12];
        for (part, size) in sizes.into_iter().enumerate() {
            starts[part + 1] = starts[part] + size.next_multiple_of(16);
        }
        starts
    }
}

/// A sequence with several tokens in the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) first_row: usize,
    pub(super) num_tokens: usize,
    pub(super) first_position: usize,
    /// Row of the block tables.
    pub(super) table: usize,
}

/// What comes back for one sequence of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Output {
    /// The first of its rows of logits.
    pub(super) first: usize,
    pub(super) count: usize,
    /// The device draws its token.
    pub(super) is_drawn: bool,
    /// Alternatives to report of it.
    pub(super) logprobs: Option<u32>,
}

/// A batch as numbers: single rows first, then prompts.
#[derive(Debug, Default)]
pub(super) struct DeviceStep {
    pub(super) num_decodes: usize,
    pub(super) prompts: Vec<Prompt>,
    /// By sequence of the batch.
    pub(super) outputs: Vec<Output>,
    pub(super) refers: Referred,
    tokens: Vec<u32>,
    sources: Vec<i32>,
    positions: Vec<u32>,
    full_slots: Vec<u32>,
    windowed_slots: Vec<u32>,
    lengths: Vec<u32>,
    output_rows: Vec<u32>,
    full_tables: Vec<u32>,
    windowed_tables: Vec<u32>,
    tiles: Vec<PrefillTile>,
    sampling: Vec<RowSampling>,
    num_sequences: usize,
}

impl DeviceStep {
    /// Takes over `batch`. `drawn` says, by sequence of the batch before, in which row its token
    /// was drawn.
    ///
    /// # Errors
    /// [`StepError`], the first thing that is wrong.
    pub(super) fn new(
        batch: &Batch,
        limits: &StepLimits,
        table: usize,
        drawn: &[Option<usize>],
    ) -> Result<Self, StepError> {
        let mut step = Self {
            outputs: vec![
                Output {
                    first: 0,
                    count: 0,
                    is_drawn: false,
                    logprobs: None
                };
                batch.sequences.len()
            ],
            ..Self::default()
        };
        let is_single = |sequence: &BatchSequence| sequence.tokens.len() == 1;
        for singles in [true, false] {
            for (index, sequence) in batch.sequences.iter().enumerate() {
                if is_single(sequence) == singles {
                    limits.check(index, sequence)?;
                    step.add(index, sequence, table, drawn)?;
                }
            }
            if singles {
                step.num_decodes = step.tokens.len();
            }
        }
        Ok(step)
    }

    fn add(
        &mut self,
        index: usize,
        sequence: &BatchSequence,
        table: usize,
        drawn: &[Option<usize>],
    ) -> Result<(), StepError> {
        let first_row = self.tokens.len();
        let num_tokens = sequence.tokens.len();
        let first_position = sequence.first_position;
        let source = match sequence.follows {
            None => -1,
            Some(before) => match drawn.get(before).copied().flatten() {
                Some(row) => row as i32,
                None => return Err(StepError::NothingDrawn { sequence: index }),
            },
        };
        for (offset, token) in sequence.tokens.iter().enumerate() {
            let position = first_position + offset;
            let (block, place) = (position / BLOCK_TOKENS, (position % BLOCK_TOKENS) as u32);
            let slot =
                |block: Option<u32>| block.map_or(0, |block| block * BLOCK_TOKENS as u32 + place);
            self.tokens.push(token.0);
            self.sources.push(source);
            self.positions.push(position as u32);
            self.full_slots
                .push(slot(sequence.full_blocks.get(block).map(|block| block.0)));
            let windowed = sequence.windowed_blocks.get(block).copied().flatten();
            self.windowed_slots
                .push(slot(windowed.map(|block| block.0)));
        }
        let full = sequence.full_blocks.iter().map(|block| block.0);
        extend_table(&mut self.full_tables, full, table);
        let windowed = sequence.windowed_blocks.iter();
        let windowed = windowed.map(|block| block.map_or(GONE, |block| block.0));
        extend_table(&mut self.windowed_tables, windowed, table);
        self.lengths.push((first_position + num_tokens) as u32);
        if num_tokens > 1 {
            self.add_prompt(first_row, num_tokens, first_position);
        }
        self.num_sequences += 1;
        self.add_outputs(index, sequence, first_row);
        Ok(())
    }

    fn add_prompt(&mut self, first_row: usize, num_tokens: usize, first_position: usize) {
        let prompt = Prompt {
            first_row,
            num_tokens,
            first_position,
            table: self.num_sequences,
        };
        self.prompts.push(prompt);
        let tile_rows = PREFILL_TILE_ROWS as usize;
        for first in (0..num_tokens).step_by(tile_rows) {
            self.tiles.push(PrefillTile {
                row: (first_row + first) as u32,
                count: tile_rows.min(num_tokens - first) as u32,
                first_position: (first_position + first) as u32,
                table: prompt.table as u32,
            });
        }
    }

    fn add_outputs(&mut self, index: usize, sequence: &BatchSequence, first_row: usize) {
        let end = first_row + sequence.tokens.len();
        let rows = match sequence.output {
            OutputRows::None => end..end,
            OutputRows::Last => end - 1..end,
            OutputRows::All => first_row..end,
        };
        let first = self.output_rows.len();
        let is_drawn =
            sequence.output == OutputRows::Last && sampling::on_device(&sequence.sampling);
        self.outputs[index] = Output {
            first,
            count: rows.len(),
            is_drawn,
            logprobs: sequence.sampling.logprobs.filter(|_| is_drawn),
        };
        for row in rows {
            self.output_rows.push(row as u32);
            let sampling = match is_drawn {
                true => sampling::row(index, sequence, row, &mut self.refers),
                false => RowSampling::default(),
            };
            self.sampling.push(sampling);
        }
    }

    pub(super) fn num_tokens(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn num_outputs(&self) -> usize {
        self.output_rows.len()
    }

    pub(super) fn num_tiles(&self) -> usize {
        self.tiles.len()
    }

    /// Nothing but single rows, each of which wants its logits: what recordings are made of.
    pub(super) fn is_decode(&self) -> bool {
        self.prompts.is_empty() && self.output_rows.len() == self.num_decodes
    }

    /// What some row of the step wants.
    pub(super) fn flags(&self) -> u32 {
        self.sampling.iter().fold(0, |flags, row| flags | row.flags)
    }

    /// Adds rows that compute nothing which is read, up to `rows`: their keys and values go to the
    /// block behind the last.
    pub(super) fn pad_decodes(&mut self, rows: usize, plan: KvPlan, table: usize) {
        let missing = rows - self.num_decodes;
        let scratch = |num_blocks: u32| num_blocks * BLOCK_TOKENS as u32;
        self.tokens.resize(rows, 0);
        self.sources.resize(rows, -1);
        self.positions.resize(rows, 0);
        self.full_slots.resize(rows, scratch(plan.num_full_blocks));
        self.windowed_slots
            .resize(rows, scratch(plan.num_windowed_blocks));
        self.lengths.resize(rows, 0);
        self.output_rows
            .extend((rows - missing..rows).map(|row| row as u32));
        self.sampling.resize(rows, RowSampling::default());
        self.full_tables.resize(rows * table, GONE);
        self.windowed_tables.resize(rows * table, GONE);
        self.num_decodes = rows;
        self.num_sequences = rows;
    }

    pub(super) fn counts(&self, table: usize) -> Counts {
        Counts {
            tokens: self.num_tokens(),
            sequences: self.num_sequences,
            outputs: self.num_outputs(),
            tiles: self.tiles.len(),
            table,
        }
    }

    /// The bytes of [`Inputs`].
    pub(super) fn pack(&self, counts: &Counts) -> Vec<u8> {
        let starts = Inputs::starts(counts);
        let mut bytes = vec![0; starts[11]];
        let sources: Vec<u32> = self.sources.iter().map(|source| *source as u32).collect();
        let words = [
            &self.tokens,
            &sources,
            &self.positions,
            &self.full_slots,
            &self.windowed_slots,
            &self.lengths,
            &self.output_rows,
            &self.full_tables,
            &self.windowed_tables,
        ];
        for (part, words) in words.into_iter().enumerate() {
            let to = &mut bytes[starts[part]..][..4 * words.len()];
            for (to, word) in to.chunks_exact_mut(4).zip(words) {
                to.copy_from_slice(&word.to_le_bytes());
            }
        }
        let mut put =
            |part: usize, from: &[u8]| bytes[starts[part]..][..from.len()].copy_from_slice(from);
        put(9, self.tiles.as_bytes());
        put(10, self.sampling.as_bytes());
        bytes
    }
}

fn extend_table(tables: &mut Vec<u32>, blocks: impl Iterator<Item = u32>, table: usize) {
    let end = tables.len() + table;
    tables.extend(blocks.take(table));
    tables.resize(end, GONE);
}
