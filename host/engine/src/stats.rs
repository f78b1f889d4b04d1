//! What the engine tells of itself: written by the engine thread once a step, read by anyone
//! at the price of a few atomic loads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::runner::KvPlan;

/// The engine's state as of its last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineStats {
    /// Sequences that hold a seat.
    pub running: usize,
    /// Requests that wait for one, preempted sequences included.
    pub waiting: usize,
    /// Blocks of the full group.
    pub full_blocks: BlockUsage,
    /// Blocks of the windowed group.
    pub windowed_blocks: BlockUsage,
    /// Steps run since the start.
    pub steps: u64,
    /// Steps that failed, a panic of the runner included.
    pub failed_steps: u64,
    /// Failed steps since the last one that succeeded.
    pub failed_steps_in_a_row: u64,
    /// Runners made anew after one panicked.
    pub restarts: u64,
    /// A runner was lost and its successor is not there yet.
    pub restarting: bool,
    /// Sequences that gave back their blocks to be computed again later.
    pub preemptions: u64,
    /// Prompt tokens of the requests that got a seat.
    pub prefix_query_tokens: u64,
    /// Those of them whose keys and values were already there.
    pub prefix_hit_tokens: u64,
    /// Prompt tokens computed, again after a preemption included.
    pub prefill_tokens: u64,
    /// Tokens generated.
    pub decode_tokens: u64,
    /// Since the thread last went around its loop: under two seconds when idle, at most one
    /// step's time when busy.
    pub since_heartbeat: Duration,
    /// The engine thread runs.
    pub alive: bool,
}

/// Blocks of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockUsage {
    /// Held by sequences.
    pub used: usize,
    /// Kept for the prefixes of templates, and held by no sequence.
    pub pinned: usize,
    /// Kept for requests that begin alike, until their place is needed.
    pub cached: usize,
    /// Allocated at start.
    pub total: usize,
}

/// The atomics behind [`EngineStats`]. Each is a number of its own, so relaxed order does.
#[derive(Debug)]
pub(crate) struct SharedStats {
    started: Instant,
    plan: KvPlan,
    /// Accepted by `submit`, not yet part of a step; held by [`QueueSlot`]s.
    queued: Arc<AtomicUsize>,
    pub(crate) running: AtomicUsize,
    pub(crate) preempted: AtomicUsize,
    pub(crate) full_blocks: SharedUsage,
    pub(crate) windowed_blocks: SharedUsage,
    pub(crate) steps: AtomicU64,
    pub(crate) failed_steps: AtomicU64,
    pub(crate) failed_steps_in_a_row: AtomicU64,
    pub(crate) restarts: AtomicU64,
    pub(crate) restarting: AtomicBool,
    pub(crate) preemptions: AtomicU64,
    pub(crate) prefix_query_tokens: AtomicU64,
    pub(crate) prefix_hit_tokens: AtomicU64,
    pub(crate) prefill_tokens: AtomicU64,
    pub(crate) decode_tokens: AtomicU64,
    heartbeat_ms: AtomicU64,
    alive: AtomicBool,
}

/// The atomics behind a [`BlockUsage`].
#[derive(Debug, Default)]
pub(crate) struct SharedUsage {
    pub(crate) used: AtomicUsize,
    pub(crate) pinned: AtomicUsize,
    pub(crate) cached: AtomicUsize,
}

impl SharedUsage {
    fn load(&self, total: u32) -> BlockUsage {
        BlockUsage {
            used: self.used.load(Relaxed),
            pinned: self.pinned.load(Relaxed),
            cached: self.cached.load(Relaxed),
            total: total as usize,
        }
    }
}

/// A place in the queue, given back on drop.
#[derive(Debug)]
pub(crate) struct QueueSlot(Arc<AtomicUsize>);

impl Drop for QueueSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl SharedStats {
    pub(crate) fn new(plan: KvPlan) -> Self {
        Self {
            started: Instant::now(),
            plan,
            queued: Arc::default(),
            running: AtomicUsize::new(0),
            preempted: AtomicUsize::new(0),
            full_blocks: SharedUsage::default(),
            windowed_blocks: SharedUsage::default(),
            steps: AtomicU64::new(0),
            failed_steps: AtomicU64::new(0),
            failed_steps_in_a_row: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            restarting: AtomicBool::new(false),
            preemptions: AtomicU64::new(0),
            prefix_query_tokens: AtomicU64::new(0),
            prefix_hit_tokens: AtomicU64::new(0),
            prefill_tokens: AtomicU64::new(0),
            decode_tokens: AtomicU64::new(0),
            heartbeat_ms: AtomicU64::new(0),
            alive: AtomicBool::new(true),
        }
    }

    /// `None` if `max_queued` are taken.
    pub(crate) fn take_queue_slot(&self, max_queued: usize) -> Option<QueueSlot> {
        self.queued
            .fetch_update(Relaxed, Relaxed, |queued| {
                (queued < max_queued).then_some(queued + 1)
            })
            .ok()
            .map(|_| QueueSlot(Arc::clone(&self.queued)))
    }

    pub(crate) fn beat(&self) {
        self.heartbeat_ms.store(self.elapsed_ms(), Relaxed);
    }

    pub(crate) fn set_dead(&self) {
        self.alive.store(false, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> EngineStats {
        let since_heartbeat = self
            .elapsed_ms()
            .saturating_sub(self.heartbeat_ms.load(Relaxed));
        EngineStats {
            running: self.running.load(Relaxed),
            waiting: self.queued.load(Relaxed) + self.preempted.load(Relaxed),
            full_blocks: self.full_blocks.load(self.plan.num_full_blocks),
            windowed_blocks: self.windowed_blocks.load(self.plan.num_windowed_blocks),
            steps: self.steps.load(Relaxed),
            failed_steps: self.failed_steps.load(Relaxed),
            failed_steps_in_a_row: self.failed_steps_in_a_row.load(Relaxed),
            restarts: self.restarts.load(Relaxed),
            restarting: self.restarting.load(Relaxed),
            preemptions: self.preemptions.load(Relaxed),
            prefix_query_tokens: self.prefix_query_tokens.load(Relaxed),
            prefix_hit_tokens: self.prefix_hit_tokens.load(Relaxed),
            prefill_tokens: self.prefill_tokens.load(Relaxed),
            decode_tokens: self.decode_tokens.load(Relaxed),
            since_heartbeat: Duration::from_millis(since_heartbeat),
            alive: self.alive.load(Relaxed),
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
