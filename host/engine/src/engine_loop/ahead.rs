//! Beside a step that is under way: its masks, and the step after it.

use std::time::{Duration, Instant};

use tracing::warn;

use super::{EngineLoop, PLACES_FOR_STEP};
use crate::{
    runner::{BatchSequence, OutputRows, RunnerError},
    scheduler::Step,
    sequence::{Sequence, SequenceId},
};

/// How long a step waits for masks, beside its forward pass where a device runs it. A row whose
/// mask takes longer is computed again once it is known; the step's others go on.
const MASK_PATIENCE: Duration = Duration::from_millis(2);

impl EngineLoop {
    /// The step that was begun ahead: now its masks can be known.
    pub(super) fn go_on_with(&mut self, ahead: Option<Step>) {
        let Some(mut ahead) = ahead else {
            return;
        };
        match self.mask(&mut ahead) {
            Ok(()) => self.in_flight = Some(ahead),
            Err(error) => self.fail_step(&ahead, &error),
        }
    }

    /// Finds out which rows' masks are late, and tells the runner what may be drawn of those that
    /// it draws itself within a grammar.
    pub(super) fn mask(&mut self, step: &mut Step) -> Result<(), RunnerError> {
        let deadline = Instant::now() + MASK_PATIENCE;
        step.late = self.scheduler.late_masks(step, deadline);
        let Some(runner) = &self.runner else {
            return Ok(());
        };
        let is_due = |part: &BatchSequence| {
            let sampling = &part.sampling;
            part.output == OutputRows::Last && sampling.is_masked && runner.draws(sampling)
        };
        let parts = &step.batch.sequences;
        if !parts.iter().any(is_due) {
            return Ok(());
        }
        let of_part = |(&id, part): (&SequenceId, &BatchSequence)| match is_due(part) {
            true if step.late.contains(&id) => None,
            true => self.scheduler.running_sequence(id).and_then(Sequence::mask),
            false => None,
        };
        let masks: Vec<_> = step.ids.iter().zip(parts).map(of_part).collect();
        self.guarded(|runner| runner.mask(&masks))
    }

    /// Begins the step after `step`, which is under way, if it can be told what it computes.
    ///
    /// # Errors
    /// What cost the runner: a failure of `step` often shows in the first call after it.
    pub(super) fn run_ahead(&mut self, step: &Step) -> Result<Option<Step>, RunnerError> {
        let Some(runner) = &self.runner else {
            return Ok(None);
        };
        let clients = &self.clients;
        let ahead = self.scheduler.schedule_ahead(
            step,
            Instant::now(),
            |id| {
                clients
                    .get(&id)
                    .is_some_and(|client| client.events.capacity() >= 2 * PLACES_FOR_STEP)
            },
            |input| runner.draws(input),
        );
        let Some(ahead) = ahead else {
            return Ok(None);
        };
        match self.submit(&ahead.batch) {
            Ok(()) => Ok(Some(ahead)),
            Err(error) if self.runner.is_none() => Err(error),
            // It is tried again once the step under way is known.
            Err(error) => {
                warn!(%error, "a step could not be begun ahead");
                Ok(None)
            }
        }
    }
}
