//! The one thread that owns the device: it takes requests in, has the scheduler put steps
//! together and the runner run them, draws tokens and tells the clients.

mod ahead;
mod draw;
mod restart;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use restart::{Next, Restarts};
use tokio::sync::mpsc::Sender;
use tracing::{debug, error, info};

use crate::{
    error::EngineError,
    grammar::MaskWorkers,
    inbox::Inbox,
    kv_cache::BlockDemand,
    request::{GenerateRequest, TokenEvent},
    runner::{
        Batch, BatchSequence, KvLayout, KvPlan, ModelRunner, Reach, RunnerError, RunnerFactory,
        StepOutput,
    },
    scheduler::{Scheduler, SchedulerLimits, Step},
    sequence::SequenceId,
    stats::{QueueSlot, SharedStats, SharedUsage},
    token_stream::{DroppedStreams, StepEvents},
};

/// What a step may need in a client's channel: a place for what it tells, and one for a failure. A
/// client with less room than this sits the step out, so that telling never waits.
const PLACES_FOR_STEP: usize = 2;

/// How long the thread sleeps when it has nothing to do at all; it wakes for its heartbeat.
const IDLE_WAIT: Duration = Duration::from_secs(1);

/// How long it sleeps when every sequence waits for its client to read.
const PAUSED_WAIT: Duration = Duration::from_millis(2);

/// How often a thread without a runner looks whether it may make one.
const RESTART_WAIT: Duration = Duration::from_millis(20);

/// What handles tell the thread.
pub(crate) enum Command {
    /// A request that was checked.
    Submit(Box<Submission>),
    /// No new requests; end by `deadline` at the latest.
    Shutdown { deadline: Instant },
}

/// A request on its way in.
pub(crate) struct Submission {
    pub(crate) id: SequenceId,
    pub(crate) request: GenerateRequest,
    pub(crate) events: Sender<StepEvents>,
    pub(crate) slot: QueueSlot,
    pub(crate) submitted: Instant,
}

/// The sending end of a request.
struct Client {
    events: Sender<StepEvents>,
    request_id: String,
    /// Held until the first step that computes a part of the request.
    slot: Option<QueueSlot>,
}

/// A runner, its KV cache allocated, and what makes others of its kind.
pub(crate) struct Supply {
    pub(crate) runner: Box<dyn ModelRunner>,
    pub(crate) factory: Option<RunnerFactory>,
}

/// The state of the thread.
pub(crate) struct EngineLoop {
    /// `None` after a panic, until the next one is made.
    runner: Option<Box<dyn ModelRunner>>,
    restarts: Restarts,
    layout: KvLayout,
    plan: KvPlan,
    limits: SchedulerLimits,
    scheduler: Scheduler,
    clients: HashMap<SequenceId, Client>,
    dropped: DroppedStreams,
    masks: MaskWorkers,
    stats: Arc<SharedStats>,
    /// Keyed at random by the standard library; hashes make the seeds that requests leave
    /// open.
    seeds: RandomState,
    num_received: u64,
    /// Begun before the one before it was collected.
    in_flight: Option<Step>,
    /// Set once no new requests are taken.
    deadline: Option<Instant>,
}

/// What a turn of the loop found to do.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// A step was run, or failed.
    Step,
    /// There are requests, but all wait for their clients.
    AllPaused,
    /// There is no request.
    Idle,
    /// There is no runner.
    NoRunner,
    /// There is no runner and there will be none.
    Dead,
}

impl EngineLoop {
    pub(crate) fn new(
        supply: Supply,
        limits: SchedulerLimits,
        layout: KvLayout,
        plan: KvPlan,
        dropped: DroppedStreams,
        stats: Arc<SharedStats>,
    ) -> Self {
        Self {
            runner: Some(supply.runner),
            restarts: Restarts::new(supply.factory, Instant::now()),
            layout,
            plan,
            scheduler: Scheduler::new(limits.clone(), &layout, plan),
            limits,
            clients: HashMap::new(),
            dropped,
            masks: MaskWorkers::default(),
            stats,
            seeds: RandomState::new(),
            num_received: 0,
            in_flight: None,
            deadline: None,
        }
    }

    /// Works until it is told to end or no handle is left, and all requests have ended.
    pub(crate) fn run(&mut self, commands: &Inbox<Command>) {
        let mut turn = Turn::Idle;
        loop {
            // Taken before commands are: a stream is dropped after its request was sent, so
            // the request is known when it is cancelled.
            let dropped = self.dropped.take();
            let goes_on = self.receive(commands, &turn);
            self.cancel(dropped);
            if !goes_on {
                break;
            }
            turn = self.step();
        }
        self.fail_all(&EngineError::ShuttingDown);
        self.publish();
        for command in commands.take(Duration::ZERO).items {
            if let Command::Submit(submission) = command {
                fail(&submission.events, EngineError::ShuttingDown);
            }
        }
    }

    /// After a panic of this loop itself, whose bookkeeping may now be wrong: every request
    /// that it knew fails and it begins anew, if there is a factory. False if there is none.
    pub(crate) fn recover(&mut self, panic: &(dyn std::any::Any + Send)) -> bool {
        let message = format!("the engine panicked: {}", panic_message(panic));
        error!(message);
        for (_, client) in self.clients.drain() {
            let message = message.clone();
            fail(&client.events, EngineError::Step { message });
        }
        self.scheduler = Scheduler::new(self.limits.clone(), &self.layout, self.plan);
        // A step may be under way in it.
        self.in_flight = None;
        self.lose_runner();
        self.restarts.are_possible()
    }

    /// One turn: every name is a step of its own.
    fn step(&mut self) -> Turn {
        self.expire();
        if self.runner.is_none() {
            let turn = self.restart();
            self.publish();
            return turn;
        }
        let (step, begun) = match self.in_flight.take() {
            Some(step) => (step, Ok(())),
            None => {
                let mut step = self.schedule();
                if step.ids.is_empty() {
                    self.publish();
                    let is_idle = self.clients.is_empty();
                    return if is_idle { Turn::Idle } else { Turn::AllPaused };
                }
                self.release_queue_slots(&step);
                self.scheduler.begin_masks(&step, &self.masks);
                let begun = self.submit(&step.batch);
                let begun = begun.and_then(|()| self.mask(&mut step));
                (step, begun)
            }
        };
        let mut ahead = None;
        let output = begun.and_then(|()| {
            ahead = self.run_ahead(&step)?;
            self.collect(&step.batch)
        });
        match output {
            Ok(output) => {
                let (results, failed) = draw::results(&self.scheduler, &step, output);
                self.fail(failed);
                let events = self.scheduler.update(&step, results, Instant::now());
                self.count(&step);
                // First, so that whoever has read an answer's end finds its blocks free.
                self.publish();
                self.deliver(events);
                self.go_on_with(ahead);
            }
            Err(error) => {
                self.fail_step(&step, &error);
                if let Some(ahead) = ahead {
                    self.fail_step(&ahead, &error);
                    // What it computed is of no use; the runner is not to think it under way.
                    if self.runner.is_some() {
                        let _ = self.collect(&ahead.batch);
                    }
                }
            }
        }
        self.publish();
        Turn::Step
    }

    /// Takes in what has arrived, sleeping first if the last turn found nothing to do. False
    /// once the thread is to end.
    fn receive(&mut self, commands: &Inbox<Command>, last: &Turn) -> bool {
        let patience = match last {
            Turn::Step => Duration::ZERO,
            Turn::AllPaused => PAUSED_WAIT,
            Turn::Idle => self.idle_wait(),
            Turn::NoRunner => RESTART_WAIT,
            Turn::Dead => return false,
        };
        let arrived = commands.take(patience);
        for command in arrived.items {
            self.obey(command);
        }
        let is_over = self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline);
        let may_end = arrived.is_last || self.deadline.is_some();
        !(is_over || may_end && self.clients.is_empty())
    }

    fn idle_wait(&self) -> Duration {
        if self.deadline.is_some() {
            Duration::ZERO
        } else {
            IDLE_WAIT
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(submission) => {
                let Submission {
                    id,
                    request,
                    events,
                    slot,
                    submitted,
                } = *submission;
                let request_id = request.request_id.clone();
                self.num_received += 1;
                let seed = self.seeds.hash_one(self.num_received);
                self.scheduler.add(id, request, seed, submitted);
                let client = Client {
                    events,
                    request_id,
                    slot: Some(slot),
                };
                self.clients.insert(id, client);
            }
            // A second one may only shorten the time.
            Command::Shutdown { deadline } => {
                let earlier = self.deadline.map_or(deadline, |known| known.min(deadline));
                self.deadline = Some(earlier);
            }
        }
    }

    /// A dropped stream is a cancelled request: its blocks are free from here on.
    fn cancel(&mut self, dropped: Vec<SequenceId>) {
        for id in dropped {
            if let Some(client) = self.clients.remove(&id) {
                self.scheduler.remove(id);
                debug!(request_id = client.request_id, "cancelled");
            }
        }
    }

    /// Ends what nobody waits for any more.
    fn expire(&mut self) {
        let expired = self.scheduler.expire(Instant::now());
        let cause = |generated_tokens| EngineError::DeadlineExceeded { generated_tokens };
        self.fail(
            expired
                .into_iter()
                .map(|(id, tokens)| (id, cause(tokens)))
                .collect(),
        );
    }

    fn schedule(&mut self) -> Step {
        let clients = &self.clients;
        self.scheduler.schedule(Instant::now(), |id| {
            clients
                .get(&id)
                .is_some_and(|client| client.events.capacity() >= PLACES_FOR_STEP)
        })
    }

    fn release_queue_slots(&mut self, step: &Step) {
        for id in &step.ids {
            if let Some(client) = self.clients.get_mut(id) {
                client.slot = None;
            }
        }
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), RunnerError> {
        self.guarded(|runner| runner.submit(batch))
    }

    fn collect(&mut self, batch: &Batch) -> Result<StepOutput, RunnerError> {
        let output = self.guarded(|runner| runner.collect())?;
        let wanted = batch.sequences.iter().map(BatchSequence::num_output_rows);
        if !output.rows.iter().map(Vec::len).eq(wanted) {
            return Err(RunnerError::new(
                "the runner returned other rows than the batch asked for",
            ));
        }
        Ok(output)
    }

    /// Calls the runner. A panic is an error; after it, and after an error that leaves the runner
    /// unable to go on, the runner is gone if there can be another one.
    fn guarded<T>(
        &mut self,
        call: impl FnOnce(&mut dyn ModelRunner) -> Result<T, RunnerError>,
    ) -> Result<T, RunnerError> {
        let Some(runner) = &mut self.runner else {
            return Err(RunnerError::new("there is no runner"));
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| call(&mut **runner)));
        let error = match outcome {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(panic) => RunnerError {
                message: format!("the runner panicked: {}", panic_message(&*panic)),
                reach: Reach::Runner,
            },
        };
        if error.reach == Reach::Process {
            self.restarts.give_up();
        }
        if error.reach == Reach::Process
            || error.reach == Reach::Runner && self.restarts.are_possible()
        {
            self.lose_runner();
        }
        Err(error)
    }

    /// Lets the runner go, which frees its KV cache.
    fn lose_runner(&mut self) {
        let runner = self.runner.take();
        if catch_unwind(AssertUnwindSafe(|| drop(runner))).is_err() {
            error!("the runner panicked once more when it was dropped");
        }
        self.restarts.note_loss(Instant::now());
        self.stats.restarting.store(true, Relaxed);
    }

    /// Makes a new runner, if it is time.
    fn restart(&mut self) -> Turn {
        let now = Instant::now();
        match self.restarts.next(now) {
            Next::Wait => return Turn::NoRunner,
            Next::GiveUp => {
                error!("the runner failed too often; no request can be served any more");
                return Turn::Dead;
            }
            Next::Restart => {}
        }
        let plan = self.plan;
        let made = self.restarts.make(now).and_then(|mut runner| {
            runner.allocate_kv(plan)?;
            Ok(runner)
        });
        match made {
            Ok(runner) => {
                self.runner = Some(runner);
                self.stats.restarts.fetch_add(1, Relaxed);
                self.stats.restarting.store(false, Relaxed);
                info!(took = ?now.elapsed(), "made a new runner");
                Turn::Step
            }
            Err(cause) => {
                error!(%cause, "cannot make a new runner");
                self.restarts.note_loss(now);
                Turn::NoRunner
            }
        }
    }

    fn deliver(&mut self, events: Vec<(SequenceId, TokenEvent)>) {
        let mut events = events.into_iter().peekable();
        while let Some((id, first)) = events.next() {
            let mut told = vec![first];
            while let Some((_, event)) = events.next_if(|(other, _)| *other == id) {
                told.push(event);
            }
            let is_token = |event: &&TokenEvent| matches!(event, TokenEvent::Token(_));
            let num_tokens = told.iter().filter(is_token).count() as u64;
            self.stats.decode_tokens.fetch_add(num_tokens, Relaxed);
            let is_last = matches!(told.last(), Some(TokenEvent::Finished { .. }));
            if let Some(client) = self.clients.get(&id) {
                // There is room, unless the client has left, which the next step notices.
                let _ = client.events.try_send(told);
            }
            if is_last {
                self.clients.remove(&id);
            }
        }
    }

    /// Tells those that were in it; all else is computed again where it cost the runner.
    fn fail_step(&mut self, step: &Step, cause: &RunnerError) {
        error!(%cause, num_sequences = step.ids.len(), "a step failed");
        self.stats.failed_steps.fetch_add(1, Relaxed);
        self.stats.failed_steps_in_a_row.fetch_add(1, Relaxed);
        let message = cause.message.clone();
        let failed = step.ids.iter().map(|&id| {
            let message = message.clone();
            (id, EngineError::Step { message })
        });
        self.fail(failed.collect());
        if self.runner.is_none() {
            self.scheduler.lose_kv(&self.layout, self.plan);
        }
    }

    fn fail_all(&mut self, cause: &EngineError) {
        let ids: Vec<SequenceId> = self.clients.keys().copied().collect();
        self.fail(ids.into_iter().map(|id| (id, cause.clone())).collect());
    }

    fn fail(&mut self, failed: Vec<(SequenceId, EngineError)>) {
        for (id, cause) in failed {
            self.scheduler.remove(id);
            if let Some(client) = self.clients.remove(&id) {
                fail(&client.events, cause);
            }
        }
    }

    fn count(&self, step: &Step) {
        let stats = &self.stats;
        stats.steps.fetch_add(1, Relaxed);
        stats.failed_steps_in_a_row.store(0, Relaxed);
        for part in &step.batch.sequences {
            let num_tokens = part.tokens.len();
            let num_prompt = part.sampling.num_prompt_tokens;
            let of_prompt = num_prompt
                .saturating_sub(part.first_position)
                .min(num_tokens);
            stats.prefill_tokens.fetch_add(of_prompt as u64, Relaxed);
        }
    }

    fn publish(&self) {
        let stats = &self.stats;
        let counts = self.scheduler.counts();
        stats.running.store(self.scheduler.num_running(), Relaxed);
        stats
            .preempted
            .store(self.scheduler.num_preempted(), Relaxed);
        let kv = self.scheduler.kv_use();
        let publish = |usage: &SharedUsage, of: fn(BlockDemand) -> usize| {
            usage.used.store(of(kv.used), Relaxed);
            usage.pinned.store(of(kv.pinned), Relaxed);
            usage.cached.store(of(kv.cached), Relaxed);
        };
        publish(&stats.full_blocks, |demand| demand.full);
        publish(&stats.windowed_blocks, |demand| demand.windowed);
        stats.preemptions.store(counts.preemptions, Relaxed);
        let (asked, hit) = (counts.prompt_tokens, counts.cached_tokens);
        stats.prefix_query_tokens.store(asked, Relaxed);
        stats.prefix_hit_tokens.store(hit, Relaxed);
        stats.beat();
    }
}

fn fail(events: &Sender<StepEvents>, cause: EngineError) {
    // A step uses one of two free places, so one is left.
    let _ = events.try_send(vec![TokenEvent::Failed(cause)]);
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}
