//! When a runner that panicked is replaced: soon, then less and less soon, and not for ever.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use crate::runner::{ModelRunner, RunnerError, RunnerFactory};

/// Restarts that may happen within [`WINDOW`]; the next one is not tried.
const MAX_RESTARTS: usize = 8;

/// How long a restart counts.
const WINDOW: Duration = Duration::from_secs(300);

/// Before the second restart within the window; doubled for each one after.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What is next for an engine without a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Not yet.
    Wait,
    /// Make a new runner.
    Restart,
    /// It has failed too often.
    GiveUp,
}

/// Makes runners, and remembers when.
pub(super) struct Restarts {
    factory: Option<RunnerFactory>,
    /// Within the window, oldest first.
    tried: VecDeque<Instant>,
    due: Instant,
}

impl Restarts {
    /// Without a factory nothing is ever restarted.
    pub(super) fn new(factory: Option<RunnerFactory>, now: Instant) -> Self {
        Self {
            factory,
            tried: VecDeque::new(),
            due: now,
        }
    }

    /// No runner is made any more.
    pub(super) fn give_up(&mut self) {
        self.factory = None;
    }

    /// Whether a lost runner can be replaced at all.
    pub(super) fn are_possible(&self) -> bool {
        self.factory.is_some()
    }

    /// What to do now, the runner being lost.
    pub(super) fn next(&self, now: Instant) -> Next {
        if self.tried.len() >= MAX_RESTARTS || self.factory.is_none() {
            Next::GiveUp
        } else if now < self.due {
            Next::Wait
        } else {
            Next::Restart
        }
    }

    /// The runner was lost: sets the time of the next restart by how many there were.
    pub(super) fn note_loss(&mut self, now: Instant) {
        while self
            .tried
            .front()
            .is_some_and(|&tried| now.saturating_duration_since(tried) >= WINDOW)
        {
            self.tried.pop_front();
        }
        let pause = match self.tried.len() {
            0 => Duration::ZERO,
            // At most `MAX_RESTARTS`, so the shift is small.
            earlier => FIRST_PAUSE * (1 << (earlier - 1)),
        };
        self.due = now + pause;
    }

    /// A new runner, its KV cache not yet allocated. A panic is an error too.
    pub(super) fn make(&mut self, now: Instant) -> Result<Box<dyn ModelRunner>, RunnerError> {
        self.tried.push_back(now);
        let Some(factory) = &mut self.factory else {
            return Err(RunnerError::new("there is nothing to make a runner with"));
        };
        catch_unwind(AssertUnwindSafe(factory)).unwrap_or_else(|panic| {
            let message = super::panic_message(&*panic);
            Err(RunnerError::new(format!(
                "making a runner panicked: {message}"
            )))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimRunner;

    fn restarts(now: Instant) -> Restarts {
        let factory: RunnerFactory = Box::new(|| Ok(Box::new(SimRunner::default())));
        Restarts::new(Some(factory), now)
    }

    #[test]
    fn pauses_double_and_the_ninth_loss_within_the_window_is_the_last() {
        let start = Instant::now();
        let (mut restarts, mut now) = (restarts(start), start);
        let mut pauses = Vec::new();
        loop {
            restarts.note_loss(now);
            let lost = now;
            while restarts.next(now) == Next::Wait {
                now += Duration::from_millis(50);
            }
            if restarts.next(now) == Next::GiveUp {
                break;
            }
            pauses.push((now - lost).as_millis());
            restarts.make(now).unwrap();
        }
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 6400]);
    }

    #[test]
    fn old_restarts_are_forgotten() {
        let start = Instant::now();
        let mut restarts = restarts(start);
        for n in 0..100 {
            let now = start + WINDOW * n;
            restarts.note_loss(now);
            assert_eq!(restarts.next(now), Next::Restart);
            restarts.make(now).unwrap();
        }
    }

    #[test]
    fn a_factory_that_panics_has_failed() {
        let now = Instant::now();
        let mut restarts = Restarts::new(Some(Box::new(|| panic!("no memory"))), now);
        let error = restarts.make(now).err().unwrap();
        assert_eq!(error.message, "making a runner panicked: no memory");
    }
}
