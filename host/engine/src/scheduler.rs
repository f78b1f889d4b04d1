//! Which sequence computes what in the next step. Pure bookkeeping: no tensor, no clock, no
//! channel; the loop around it brings the time, the results and the news of clients, and the
//! same of these makes the same steps.
//!
//! One token budget per step: running decodes first, the rest to prompts in chunks. Blocks are
//! taken as they are needed, nothing is reserved for an answer's length; when a pool runs out,
//! the one that got its seat last gives its blocks back and is computed again later. The first
//! is never preempted by a later one and a sequence alone always fits, so everything that was
//! accepted comes to its end. What waits costs a step nothing: a step's work is bounded by
//! what runs and what joins.

mod admission;
mod ahead;
mod fair;
mod pace;
mod waiting;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use crate::{
    grammar::MaskWorkers,
    kv_cache::{KvCache, KvUse},
    request::{GenerateRequest, TokenEvent, TokenId},
    runner::{Batch, BatchSequence, KvLayout, KvPlan, OutputRows},
    sequence::{Rank, Sequence, SequenceId, SequenceResult},
};
use pace::{Pace, StepMix};
use waiting::Waiting;

/// Rows of logits that scoring prompts may ask of one step. A row of 256,000 float32 takes a
/// megabyte.
const MAX_SCORE_ROWS: usize = 32;

/// What a step may hold.
#[derive(Debug, Clone)]
pub(crate) struct SchedulerLimits {
    pub(crate) max_num_seqs: usize,
    pub(crate) max_batched_tokens: usize,
    /// How many times as long as a step that only decodes one with prompts may take.
    pub(crate) max_slowdown: f32,
    /// Most tokens of prompt and answer; the pools hold one such sequence.
    pub(crate) context_length: usize,
    pub(crate) eos_token_ids: Vec<TokenId>,
    /// Reuse what other sequences have computed.
    pub(crate) prefix_cache: bool,
}

/// All sequences, waiting and running.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: SchedulerLimits,
    eos_token_ids: Arc<[TokenId]>,
    kv: KvCache,
    pace: Pace,
    waiting: Waiting,
    /// By rank, so that the last is the first to give its blocks back.
    running: Vec<Sequence>,
    /// The ranks of `running`; never iterated.
    ranks: HashMap<SequenceId, Rank>,
    deadlines: BTreeSet<(Instant, SequenceId)>,
    counts: SchedulerCounts,
    /// When the results of the step before were taken in.
    updated: Option<Instant>,
}

/// What has happened since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SchedulerCounts {
    pub(crate) requests: u64,
    pub(crate) preemptions: u64,
    /// Prompt tokens of sequences that got their first seat, and how many of these were found
    /// computed.
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    /// Sequences looked at, for the test that nothing walks what waits.
    pub(crate) visits: u64,
}

/// A step to run: `ids[i]` is whose part `batch.sequences[i]` is.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) ids: Vec<SequenceId>,
    pub(crate) batch: Batch,
    /// Sequences whose rows cannot be drawn, since what may follow was not known in time.
    pub(crate) late: Vec<SequenceId>,
    mix: StepMix,
    scheduled: Option<Instant>,
}

/// What is left of a step while it is put together.
struct Budget {
    tokens: usize,
    score_rows: usize,
}

impl Scheduler {
    pub(crate) fn new(limits: SchedulerLimits, layout: &KvLayout, plan: KvPlan) -> Self {
        Self {
            eos_token_ids: limits.eos_token_ids.as_slice().into(),
            kv: KvCache::new(layout, plan),
            pace: Pace::new(limits.max_slowdown),
            limits,
            waiting: Waiting::default(),
            running: Vec::new(),
            ranks: HashMap::new(),
            deadlines: BTreeSet::new(),
            counts: SchedulerCounts::default(),
            updated: None,
        }
    }

    /// Takes in a request that was checked. Ids name the order of arrival; `seed` is for a
    /// request that brings none.
    pub(crate) fn add(
        &mut self,
        id: SequenceId,
        request: GenerateRequest,
        seed: u64,
        submitted: Instant,
    ) {
        let eos_token_ids = Arc::clone(&self.eos_token_ids);
        let sequence = Sequence::new(id, request, eos_token_ids, seed, submitted);
        if let Some(deadline) = sequence.deadline() {
            self.deadlines.insert((deadline, id));
        }
        self.waiting.add(sequence);
        self.counts.requests += 1;
    }

    /// Forgets a sequence, cancelled or failed, and frees its blocks. What it has computed
    /// stays known.
    pub(crate) fn remove(&mut self, id: SequenceId) {
        let sequence = match self.running_index(id) {
            Some(index) => {
                let sequence = self.take_running(index);
                self.waiting.left(&sequence);
                Some(sequence)
            }
            None => self.waiting.remove(id),
        };
        if let Some(deadline) = sequence.and_then(|sequence| sequence.deadline()) {
            self.deadlines.remove(&(deadline, id));
        }
    }

    /// Forgets those whose deadline has passed, running or waiting; their ids, and how many
    /// tokens each had generated.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(SequenceId, usize)> {
        let mut expired = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let generated = match self.running_sequence(id) {
                Some(sequence) => sequence.generated().len(),
                None => self.waiting.num_generated(id),
            };
            self.remove(id);
            expired.push((id, generated));
        }
        expired
    }

    /// Puts the next step together. A sequence that is not ready, because its client has not
    /// read what it has or a mask is late, sits out and is the first to lose its blocks; it keeps
    /// nobody from a seat.
    pub(crate) fn schedule(&mut self, now: Instant, is_ready: impl Fn(SequenceId) -> bool) -> Step {
        let seated_before = self.running.iter_mut().chain(self.waiting.preempted_mut());
        for sequence in seated_before {
            sequence.is_paused = !is_ready(sequence.id) || sequence.awaits_mask(now);
            sequence.in_step = false;
            self.counts.visits += 1;
        }
        let mut budget = Budget {
            tokens: self.limits.max_batched_tokens,
            score_rows: MAX_SCORE_ROWS,
        };
        let mut step = Step {
            scheduled: Some(now),
            ..Step::default()
        };
        let mut all_fit = self.put_all_in(true, &mut budget, &mut step, now);
        budget.tokens = self.pace.prompt_tokens(step.ids.len(), budget.tokens);
        all_fit &= self.put_all_in(false, &mut budget, &mut step, now);
        if all_fit {
            self.admit(&mut budget, &mut step, now);
        }
        step
    }

    /// Takes in a step's results, one for each of its sequences, and tells what the clients
    /// are to hear. Sequences that ended are gone and their blocks are free; results of
    /// sequences that were removed since are ignored.
    pub(crate) fn update(
        &mut self,
        step: &Step,
        results: Vec<SequenceResult>,
        now: Instant,
    ) -> Vec<(SequenceId, TokenEvent)> {
        // A step that was begun ahead waited for the one before.
        if let Some(began) = step.scheduled.max(self.updated) {
            self.pace
                .note(step.mix, now.saturating_duration_since(began));
        }
        self.updated = Some(now);
        let mut events = Vec::new();
        let parts = step.ids.iter().zip(&step.batch.sequences);
        for ((&id, part), result) in parts.zip(results) {
            let Some(index) = self.running_index(id) else {
                continue;
            };
            let sequence = &mut self.running[index];
            let ended = sequence.advance(
                part.tokens.len(),
                result,
                self.limits.context_length,
                now,
                &mut events,
            );
            if part.output == OutputRows::Last {
                self.waiting.charge(sequence, 1);
            }
            if self.limits.prefix_cache {
                let (blocks, hashes) = sequence.computed_blocks();
                self.kv.name(blocks, hashes);
                if let Some(prefix) = sequence.take_prefix() {
                    self.kv.pin(prefix);
                }
            }
            if ended {
                self.remove(id);
            }
        }
        events
    }

    /// All keys and values are gone: everything is to be computed again, in new pools.
    pub(crate) fn lose_kv(&mut self, layout: &KvLayout, plan: KvPlan) {
        while let Some(newest) = self.running.len().checked_sub(1) {
            self.preempt(newest);
        }
        self.kv = KvCache::new(layout, plan);
    }

    /// Has the masks of sequences that the step is the first of computed beside it.
    pub(crate) fn begin_masks(&mut self, step: &Step, workers: &MaskWorkers) {
        for &id in &step.ids {
            if let Some(index) = self.running_index(id) {
                self.running[index].begin_masks(workers);
            }
        }
    }

    /// Those of the step's sequences for whose draw it is not known by `deadline` what may follow.
    pub(crate) fn late_masks(&self, step: &Step, deadline: Instant) -> Vec<SequenceId> {
        let parts = step.ids.iter().zip(&step.batch.sequences);
        let is_late = |id: SequenceId, part: &BatchSequence| {
            let end = part.first_position + part.tokens.len();
            part.sampling.is_masked
                && part.output != OutputRows::None
                && self.running_sequence(id).is_some_and(|sequence| {
                    sequence.token_at(end).is_none() && !sequence.mask_is_known_by(deadline)
                })
        };
        parts
            .filter(|(id, part)| is_late(**id, part))
            .map(|(id, _)| *id)
            .collect()
    }

    /// A sequence that is part of the current step.
    pub(crate) fn running_sequence(&self, id: SequenceId) -> Option<&Sequence> {
        self.running_index(id).map(|index| &self.running[index])
    }

    pub(crate) fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that had a seat and wait for the next.
    pub(crate) fn num_preempted(&self) -> usize {
        self.waiting.num_preempted()
    }

    /// All that wait for a seat.
    #[cfg(test)]
    pub(crate) fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn counts(&self) -> SchedulerCounts {
        self.counts
    }

    pub(crate) fn kv_use(&self) -> KvUse {
        self.kv.usage()
    }

    /// Adds the next parts of the running sequences that decode, or of those that read their
    /// prompt. False if one had to be left out for want of blocks.
    fn put_all_in(
        &mut self,
        decoding: bool,
        budget: &mut Budget,
        step: &mut Step,
        now: Instant,
    ) -> bool {
        let is_wanted = |sequence: &&Sequence| {
            !sequence.is_paused && !sequence.in_step && sequence.is_decoding() == decoding
        };
        let wanted: Vec<SequenceId> = self
            .running
            .iter()
            .filter(is_wanted)
            .map(|sequence| sequence.id)
            .collect();
        let mut all_fit = true;
        for id in wanted {
            all_fit &= self.put_in(id, budget, step, now);
        }
        all_fit
    }

    /// Adds the next part of a running sequence to the step. False if it had to be left out
    /// for want of blocks.
    fn put_in(
        &mut self,
        id: SequenceId,
        budget: &mut Budget,
        step: &mut Step,
        now: Instant,
    ) -> bool {
        self.counts.visits += 1;
        // More than there are seats want to go on when slow clients catch up: the first do.
        if step.ids.len() >= self.limits.max_num_seqs {
            return true;
        }
        // Preempted for another in this very step.
        let Some(index) = self.running_index(id) else {
            return true;
        };
        let sequence = &self.running[index];
        let Some(chunk) = sequence.next_chunk(budget.tokens, budget.score_rows) else {
            return true;
        };
        let first_position = sequence.num_computed_tokens();
        if !self.make_room(id, first_position, first_position + chunk.num_tokens) {
            return false;
        }
        let Some(index) = self.running_index(id) else {
            return false;
        };
        let sequence = &mut self.running[index];
        sequence.in_step = true;
        sequence.note_step(now);
        budget.tokens -= chunk.num_tokens;
        if chunk.output == OutputRows::All {
            budget.score_rows -= chunk.num_tokens;
        }
        if sequence.is_decoding() {
            step.mix.num_decodes += 1;
        } else {
            step.mix.num_prompt_tokens += chunk.num_tokens;
        }
        step.ids.push(id);
        step.batch.sequences.push(sequence.batch_part(chunk));
        true
    }

    /// Takes a sequence out of its seat.
    fn take_running(&mut self, index: usize) -> Sequence {
        let sequence = self.running.remove(index);
        self.ranks.remove(&sequence.id);
        sequence
    }

    fn running_index(&self, id: SequenceId) -> Option<usize> {
        let rank = self.ranks.get(&id)?;
        self.running
            .binary_search_by_key(rank, |sequence| sequence.rank)
            .ok()
    }
}
