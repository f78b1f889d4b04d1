//! Who gets a seat, and who gives one back.

use std::time::Instant;

use super::{Budget, Scheduler, Step};
use crate::{
    kv_cache::BlockDemand,
    sequence::{Sequence, SequenceId},
};

impl Scheduler {
    /// Gives seats to those that wait, in their order, as long as their prompts fit beside what
    /// the running ones will still take. The first that does not fit keeps the others waiting,
    /// so that a long prompt is not overtaken for ever.
    pub(super) fn admit(&mut self, budget: &mut Budget, step: &mut Step, now: Instant) {
        let mut num_seated = self.num_seated();
        let mut promised = self.promised();
        while budget.tokens > 0 && num_seated < self.limits.max_num_seqs {
            self.counts.visits += 1;
            let Some(mut next) = self.waiting.take_next() else {
                return;
            };
            let blocks = match self.limits.prefix_cache {
                true => self.kv.share_prefix(next.wanted_hashes()),
                false => Default::default(),
            };
            let demand = self.kv.outstanding(
                &blocks,
                next.num_tokens_to_compute(),
                self.limits.max_batched_tokens,
            );
            if !self.kv.has_free(promised + demand) {
                drop(blocks);
                self.waiting.put_back(next);
                if !self.free_some() {
                    return;
                }
                promised = self.promised();
                continue;
            }
            let num_tokens = next.num_tokens_to_compute() - blocks.num_known_tokens();
            let is_first = self.waiting.admit(&mut next, num_tokens);
            next.begin(blocks, is_first);
            if is_first {
                self.counts.prompt_tokens += next.num_prompt_tokens() as u64;
                self.counts.cached_tokens += next.num_cached_tokens() as u64;
            }
            let id = next.id;
            let rank = next.rank;
            let index = self.running.partition_point(|running| running.rank < rank);
            self.running.insert(index, next);
            self.ranks.insert(id, rank);
            self.put_in(id, budget, step, now);
            num_seated += 1;
            promised += self.outstanding_of(id);
        }
    }

    /// Makes a place where nobody who computes has to give way: of a sequence whose client does
    /// not read or, where nothing runs at all, of a template's prefix.
    fn free_some(&mut self) -> bool {
        let is_paused = |running: &Sequence| running.is_paused;
        if let Some(paused) = self.running.iter().rposition(is_paused) {
            self.preempt(paused);
            return true;
        }
        self.running.is_empty() && self.kv.unpin_oldest()
    }

    /// Reserves blocks for a sequence. If need be it preempts one that is not yet part of the
    /// step: a paused one, else the last that is after it. Where there is none, prefixes that
    /// are only kept go.
    pub(super) fn make_room(&mut self, id: SequenceId, first_position: usize, end: usize) -> bool {
        loop {
            let Some(index) = self.running_index(id) else {
                return false;
            };
            let rank = self.running[index].rank;
            let blocks = &mut self.running[index].blocks;
            if self.kv.reserve(blocks, first_position, end) {
                return true;
            }
            let is_free = |other: &Sequence| !other.in_step && other.id != id;
            let last = |wanted: &dyn Fn(&Sequence) -> bool| {
                self.running
                    .iter()
                    .rposition(|other| is_free(other) && wanted(other))
            };
            let victim =
                last(&|other| other.is_paused).or_else(|| last(&|other| other.rank > rank));
            match victim {
                Some(victim) => self.preempt(victim),
                None if self.kv.unpin_oldest() => {}
                None => return false,
            }
        }
    }

    /// The sequence at `index` gives its seat and its blocks back and waits, to be computed
    /// again.
    pub(super) fn preempt(&mut self, index: usize) {
        let mut sequence = self.take_running(index);
        sequence.preempt();
        self.counts.preemptions += 1;
        self.waiting.add_preempted(sequence);
    }

    /// What the running sequences will still take to compute the tokens they have.
    fn promised(&self) -> BlockDemand {
        self.running
            .iter()
            .map(|sequence| self.outstanding(sequence))
            .fold(BlockDemand::default(), std::ops::Add::add)
    }

    fn outstanding_of(&self, id: SequenceId) -> BlockDemand {
        self.running_sequence(id)
            .map_or_else(BlockDemand::default, |sequence| self.outstanding(sequence))
    }

    fn outstanding(&self, sequence: &Sequence) -> BlockDemand {
        self.kv.outstanding(
            &sequence.blocks,
            sequence.num_tokens_to_compute(),
            self.limits.max_batched_tokens,
        )
    }

    /// Paused sequences have no seat: slow clients keep nobody waiting.
    pub(super) fn num_seated(&self) -> usize {
        self.running
            .iter()
            .filter(|running| !running.is_paused)
            .count()
    }
}
