//! The step after one whose tokens are not known yet. A device that draws tokens itself can begin
//! it at once: each of its sequences goes on from what the step under way will draw.

use std::time::Instant;

use super::{Scheduler, Step};
use crate::{
    runner::SamplingInput,
    sequence::{Sequence, SequenceId},
};

impl Scheduler {
    /// Continues `step`, which is under way, by one token of each of its sequences that go on
    /// whatever is drawn. `None` where that is not the next thing to do: where something else
    /// could join, a prompt is read, a client is behind, blocks are scarce, or `draws` says that
    /// the device does not choose a sequence's token.
    ///
    /// What ends with a token of `step` is in vain in this one. Its blocks are free then, and
    /// whoever gets them writes to them later than this step does.
    pub(crate) fn schedule_ahead(
        &mut self,
        step: &Step,
        now: Instant,
        is_ready: impl Fn(SequenceId) -> bool,
        draws: impl Fn(&SamplingInput) -> bool,
    ) -> Option<Step> {
        let is_left_out = |sequence: &Sequence| {
            !sequence.in_step
                && (!sequence.is_paused || is_ready(sequence.id))
                && !sequence.awaits_mask(now)
        };
        let can_join = !self.waiting.is_empty() && self.num_seated() < self.limits.max_num_seqs;
        if step.mix.num_prompt_tokens > 0 || can_join || self.running.iter().any(is_left_out) {
            return None;
        }
        let mut ahead = Step {
            scheduled: Some(now),
            ..Step::default()
        };
        for (follows, (&id, part)) in step.ids.iter().zip(&step.batch.sequences).enumerate() {
            self.counts.visits += 1;
            let index = self.running_index(id)?;
            let sequence = &mut self.running[index];
            if !draws(&part.sampling) || !is_ready(id) {
                return None;
            }
            if step.late.contains(&id) {
                // It draws nothing that could be followed.
                sequence.in_step = false;
                continue;
            }
            if !sequence.goes_on(self.limits.context_length) {
                continue;
            }
            let position = part.first_position + part.tokens.len();
            if !self
                .kv
                .reserve(&mut sequence.blocks, position, position + 1)
            {
                return None;
            }
            ahead.ids.push(id);
            ahead
                .batch
                .sequences
                .push(sequence.part_ahead(position, follows));
            ahead.mix.num_decodes += 1;
        }
        (!ahead.ids.is_empty()).then_some(ahead)
    }
}
