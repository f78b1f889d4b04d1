//! Masks beside the forward pass: each constrained sequence has a slot, and a worker fills it
//! with what may follow as soon as the last token is known. The engine thread reads it after
//! the forward pass. Where a worker is late, the sequence sits out until it is done.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    time::Instant,
};

use tracing::error;

use super::{Allowed, Grammar, GrammarState};
use crate::{error::EngineError, request::TokenId};

/// More threads do not help: a mask takes some tens of microseconds.
const MAX_WORKERS: usize = 8;

/// The threads that compute masks, started with the first constrained request. They end when
/// this and every constraint is gone.
#[derive(Debug, Default)]
pub(crate) struct MaskWorkers {
    jobs: OnceLock<mpsc::Sender<Job>>,
}

/// One sequence's grammar.
#[derive(Debug)]
pub(crate) struct Constraint {
    grammar: Grammar,
    /// `None` until the sequence is first part of a step, so that queued requests cost nothing.
    started: Option<Started>,
}

#[derive(Debug)]
struct Started {
    slot: Arc<Slot>,
    jobs: mpsc::Sender<Job>,
}

/// Where a mask is waited for.
#[derive(Debug, Default)]
struct Slot {
    mask: Mutex<Mask>,
    ready: Condvar,
}

#[derive(Debug, Default)]
enum Mask {
    #[default]
    Computing,
    /// The state goes back to a worker with the next token.
    Ready(Box<GrammarState>, Allowed),
    Failed(EngineError),
}

#[derive(Debug)]
pub(crate) struct Job {
    slot: Arc<Slot>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Start(Grammar),
    Accept(Box<GrammarState>, TokenId),
}

impl MaskWorkers {
    fn jobs(&self) -> mpsc::Sender<Job> {
        self.jobs.get_or_init(spawn).clone()
    }

    /// Without threads: whoever has the jobs [does](Job::run) them.
    #[cfg(test)]
    pub(crate) fn by_hand() -> (Self, mpsc::Receiver<Job>) {
        let (sender, jobs) = mpsc::channel();
        let workers = Self {
            jobs: OnceLock::from(sender),
        };
        (workers, jobs)
    }
}

impl Constraint {
    pub(crate) fn new(grammar: Grammar) -> Self {
        Self {
            grammar,
            started: None,
        }
    }

    /// Has the first mask computed, once.
    pub(crate) fn begin(&mut self, workers: &MaskWorkers) {
        let grammar = &self.grammar;
        self.started.get_or_insert_with(|| {
            let started = Started {
                slot: Arc::default(),
                jobs: workers.jobs(),
            };
            started.send(Work::Start(grammar.clone()));
            started
        });
    }

    /// Whether it is known what may follow, or will be by `deadline`, until which this waits.
    pub(crate) fn is_known_by(&self, deadline: Instant) -> bool {
        let Some(started) = &self.started else {
            return true;
        };
        let slot = &started.slot;
        let mut mask = slot.lock();
        while matches!(*mask, Mask::Computing) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = slot.ready.wait_timeout(mask, left);
            mask = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// What may follow, once it is known. The same until [`accept`](Self::accept): a step may
    /// be computed again.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] where a limit of the grammar is met.
    pub(crate) fn allowed(&self) -> Result<Allowed, EngineError> {
        let Some(started) = &self.started else {
            return Err(EngineError::Step {
                message: "a mask was wanted that nobody computes".into(),
            });
        };
        let slot = &started.slot;
        let mut mask = slot.lock();
        loop {
            match &*mask {
                Mask::Ready(_, allowed) => return Ok(allowed.clone()),
                Mask::Failed(error) => return Err(error.clone()),
                Mask::Computing => {
                    mask = slot
                        .ready
                        .wait(mask)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Takes in the token that was drawn and has the next mask computed.
    pub(crate) fn accept(&self, token: TokenId) {
        let Some(started) = &self.started else {
            return;
        };
        let mut mask = started.slot.lock();
        match std::mem::take(&mut *mask) {
            Mask::Ready(state, _) => {
                drop(mask);
                started.send(Work::Accept(state, token));
            }
            other => *mask = other,
        }
    }
}

impl Started {
    fn send(&self, work: Work) {
        let job = Job {
            slot: Arc::clone(&self.slot),
            work,
        };
        if self.jobs.send(job).is_err() {
            self.slot.fill(Mask::Failed(EngineError::Step {
                message: "there is no thread to compute masks".into(),
            }));
        }
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Mask> {
        self.mask.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, mask: Mask) {
        *self.lock() = mask;
        self.ready.notify_all();
    }
}

/// Threads that take jobs until every sender is gone. Where none can be started, the channel
/// is closed, and whoever sends learns of it.
fn spawn() -> mpsc::Sender<Job> {
    let (sender, jobs) = mpsc::channel();
    let jobs = Arc::new(Mutex::new(jobs));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for index in 0..(cores / 2).clamp(1, MAX_WORKERS) {
        let jobs = Arc::clone(&jobs);
        let spawned = std::thread::Builder::new()
            .name(format!("gapura-mask-{index}"))
            .spawn(move || work(&jobs));
        if let Err(cause) = spawned {
            error!(%cause, index, "cannot start a thread for grammar masks");
        }
    }
    sender
}

fn work(jobs: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else {
            return;
        };
        job.run();
    }
}

impl Job {
    /// Computes the mask and fills the slot.
    pub(crate) fn run(self) {
        // llguidance turns its panics into errors; this keeps the slot from waiting for ever
        // should one escape.
        let mask = catch_unwind(AssertUnwindSafe(|| self.work.mask())).unwrap_or_else(|_| {
            Mask::Failed(EngineError::Step {
                message: "computing a mask panicked".into(),
            })
        });
        self.slot.fill(mask);
    }
}

impl Work {
    fn mask(self) -> Mask {
        let accepted = match self {
            Self::Start(grammar) => Ok(Box::new(grammar.start())),
            Self::Accept(mut state, token) => state.accept(token).map(|()| state),
        };
        let allowed = accepted.and_then(|mut state| {
            let allowed = state.allowed()?;
            Ok((state, allowed))
        });
        match allowed {
            Ok((state, allowed)) => Mask::Ready(state, allowed),
            Err(error) => Mask::Failed(error),
        }
    }
}
