//! Which sequence computes what in the next step. Pure bookkeeping: no tensor, no clock, no
//! channel; the loop around it brings the time, the results and the news of clients.
//!
//! One token budget per step: running decodes first, the rest to prompts in chunks, in order
//! of arrival. Blocks are taken as they are needed, nothing is reserved for an answer's
//! length; when a pool runs out, the newest sequence gives its blocks back and is computed
//! again later. The oldest is never preempted by a younger one and a sequence alone always
//! fits, so everything that was accepted comes to its end.

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc, time::Instant};

use crate::{
    kv_cache::{BlockDemand, KvCache},
    request::{GenerateRequest, TokenEvent, TokenId},
    runner::{Batch, KvLayout, KvPlan, OutputRows},
    sequence::{Sequence, SequenceId, SequenceResult},
};

/// Rows of logits that scoring prompts may ask of one step. A row of 256,000 float32 takes a
/// megabyte.
const MAX_SCORE_ROWS: usize = 32;

/// What a step may hold.
#[derive(Debug, Clone)]
pub(crate) struct SchedulerLimits {
    pub(crate) max_num_seqs: usize,
    pub(crate) max_batched_tokens: usize,
    /// Most tokens of prompt and answer; the pools hold one such sequence.
    pub(crate) context_length: usize,
    pub(crate) eos_token_ids: Vec<TokenId>,
}

/// All sequences, waiting and running.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: SchedulerLimits,
    eos_token_ids: Arc<[TokenId]>,
    kv: KvCache,
    waiting: VecDeque<Sequence>,
    /// In order of arrival, so that the last is the newest.
    running: Vec<Sequence>,
    next_id: u64,
    num_preemptions: u64,
}

/// A step to run: `ids[i]` is whose part `batch.sequences[i]` is.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) ids: Vec<SequenceId>,
    pub(crate) batch: Batch,
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
            limits,
            kv: KvCache::new(layout, plan),
            waiting: VecDeque::new(),
            running: Vec::new(),
            next_id: 0,
            num_preemptions: 0,
        }
    }

    /// Puts a request, checked before, at the end of the queue. `seed` is for one that brings
    /// none.
    pub(crate) fn add(
        &mut self,
        request: GenerateRequest,
        seed: u64,
        submitted: Instant,
    ) -> SequenceId {
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let eos_token_ids = Arc::clone(&self.eos_token_ids);
        let sequence = Sequence::new(id, request, eos_token_ids, seed, submitted);
        self.waiting.push_back(sequence);
        id
    }

    /// Forgets a sequence, cancelled or failed, and frees its blocks.
    pub(crate) fn remove(&mut self, id: SequenceId) {
        self.running.retain(|sequence| sequence.id != id);
        self.waiting.retain(|sequence| sequence.id != id);
    }

    /// Puts the next step together. A sequence that is not ready, because its client has not
    /// read what it has, sits out and is the first to lose its blocks; it keeps nobody from
    /// a seat.
    pub(crate) fn schedule(&mut self, now: Instant, is_ready: impl Fn(SequenceId) -> bool) -> Step {
        for sequence in self.running.iter_mut().chain(&mut self.waiting) {
            sequence.is_paused = !is_ready(sequence.id);
            sequence.in_step = false;
        }
        let mut budget = Budget {
            tokens: self.limits.max_batched_tokens,
            score_rows: MAX_SCORE_ROWS,
        };
        let mut step = Step::default();
        let mut all_fit = true;
        for wants_decoding in [true, false] {
            let turn: Vec<SequenceId> = self
                .running
                .iter()
                .filter(|sequence| !sequence.is_paused && sequence.is_decoding() == wants_decoding)
                .map(|sequence| sequence.id)
                .collect();
            for id in turn {
                all_fit &= self.put_in(id, &mut budget, &mut step, now);
            }
        }
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
        let mut events = Vec::new();
        let parts = step.ids.iter().zip(&step.batch.sequences);
        for ((&id, part), result) in parts.zip(results) {
            let Some(index) = self.running_index(id) else {
                continue;
            };
            let ended = self.running[index].advance(
                part.tokens.len(),
                result,
                self.limits.context_length,
                now,
                &mut events,
            );
            if ended {
                self.running.remove(index);
            }
        }
        events
    }

    /// A sequence that is part of the current step.
    pub(crate) fn running_sequence(&self, id: SequenceId) -> Option<&Sequence> {
        self.running_index(id).map(|index| &self.running[index])
    }

    pub(crate) fn num_running(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn num_preemptions(&self) -> u64 {
        self.num_preemptions
    }

    pub(crate) fn used_blocks(&self) -> BlockDemand {
        self.kv.used()
    }

    /// Gives seats to those that wait, in order, as long as their prompts fit beside what the
    /// running ones will still take. The first that does not fit keeps the others waiting, so
    /// that a long prompt is not overtaken for ever.
    fn admit(&mut self, budget: &mut Budget, step: &mut Step, now: Instant) {
        while budget.tokens > 0 && self.num_seated() < self.limits.max_num_seqs {
            let Some(next) = self.waiting.iter().position(|waiting| !waiting.is_paused) else {
                return;
            };
            if !self.has_room_for(&self.waiting[next]) {
                let is_paused = |running: &Sequence| running.is_paused;
                let Some(paused) = self.running.iter().rposition(is_paused) else {
                    return;
                };
                let sequence = self.running.remove(paused);
                self.requeue(sequence);
                continue;
            }
            let Some(sequence) = self.waiting.remove(next) else {
                return;
            };
            let id = sequence.id;
            let index = self.running.partition_point(|running| running.id < id);
            self.running.insert(index, sequence);
            self.put_in(id, budget, step, now);
        }
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
        // More than there are seats want to go on when slow clients catch up: the oldest do.
        if step.ids.len() >= self.limits.max_num_seqs {
            return true;
        }
        // Preempted for an older one in this very step.
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
        step.ids.push(id);
        step.batch.sequences.push(sequence.batch_part(chunk));
        true
    }

    /// Reserves blocks for a sequence, if need be by preempting one that is not yet part of
    /// the step: a paused one, else the newest that is younger.
    fn make_room(&mut self, id: SequenceId, first_position: usize, end: usize) -> bool {
        loop {
            let Some(index) = self.running_index(id) else {
                return false;
            };
            let blocks = &mut self.running[index].blocks;
            if self.kv.reserve(blocks, first_position, end) {
                return true;
            }
            let is_free = |other: &Sequence| !other.in_step && other.id != id;
            let newest = |wanted: &dyn Fn(&Sequence) -> bool| {
                self.running
                    .iter()
                    .rposition(|other| is_free(other) && wanted(other))
            };
            let victim =
                newest(&|other| other.is_paused).or_else(|| newest(&|other| other.id > id));
            let Some(victim) = victim else {
                return false;
            };
            let sequence = self.running.remove(victim);
            self.requeue(sequence);
        }
    }

    /// Preempts: the sequence waits, in order of arrival, to be computed again.
    fn requeue(&mut self, mut sequence: Sequence) {
        sequence.preempt();
        self.num_preemptions += 1;
        let index = self
            .waiting
            .partition_point(|waiting| waiting.id < sequence.id);
        self.waiting.insert(index, sequence);
    }

    fn has_room_for(&self, sequence: &Sequence) -> bool {
        let mut demand = BlockDemand::default();
        for sequence in self.running.iter().chain([sequence]) {
            demand += self.kv.outstanding(
                &sequence.blocks,
                sequence.num_tokens_to_compute(),
                self.limits.max_batched_tokens,
            );
        }
        self.kv.has_free(demand)
    }

    /// Paused sequences have no seat: slow clients keep nobody waiting.
    fn num_seated(&self) -> usize {
        self.running
            .iter()
            .filter(|running| !running.is_paused)
            .count()
    }

    fn running_index(&self, id: SequenceId) -> Option<usize> {
        self.running
            .binary_search_by_key(&id, |sequence| sequence.id)
            .ok()
    }
}
