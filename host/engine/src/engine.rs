//! The handle to a running engine: requests go in without waiting, tokens come out of a
//! stream, and nothing but bounded channels and atomics lies between the caller and the one
//! thread that owns the device.

#[cfg(test)]
mod tests;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    engine_loop::{Command, EngineLoop, Submission, Supply},
    error::{EngineError, StartError},
    inbox,
    kv_cache::PlanDemand,
    request::{GenerateRequest, TokenId},
    runner::{KvPlan, ModelInfo, ModelRunner, RunnerFactory},
    scheduler::SchedulerLimits,
    sequence::SequenceId,
    stats::{EngineStats, SharedStats},
    token_stream::{DroppedStreams, TokenStream},
};

/// Most alternatives that a report of logprobs names.
const MAX_ALTERNATIVES: u32 = 20;

/// Stands for a grace beyond what clocks can count.
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What an operator may turn. Zero is refused everywhere.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// Sequences that decode together. Default 64.
    pub max_num_seqs: usize,
    /// Tokens computed in one step, prompt chunks and decodes together: more favours
    /// throughput, less the time between tokens. At least `max_num_seqs` lets every sequence
    /// decode in every step. Default 256.
    pub max_batched_tokens: usize,
    /// How many times as long as a step that only decodes one with prompts in it may take, as
    /// far as measured: a prompt that arrives slows running answers by no more than this. At
    /// least 1, where prompts get 4 tokens a step while anything decodes; infinite for steps
    /// that are always full. Default 2.2, which keeps the slowest of a hundred below 3.
    pub max_slowdown: f32,
    /// Requests that may wait for a seat; the next one is refused as
    /// [`EngineError::Overloaded`]. Default 256.
    pub max_queued: usize,
    /// Bytes for the KV cache; less is taken where `max_num_seqs` whole contexts need less.
    /// Default 1 GiB.
    pub kv_bytes: u64,
    /// Most tokens of prompt and answer together, where the model's own context is too much.
    /// Default none.
    pub context_length: Option<usize>,
    /// Keep what ended requests have computed, for those that begin alike, as long as nobody
    /// needs the room. Default true.
    pub prefix_cache: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_num_seqs: 64,
            max_batched_tokens: 256,
            max_slowdown: 2.2,
            max_queued: 256,
            kv_bytes: 1 << 30,
            context_length: None,
            prefix_cache: true,
        }
    }
}

/// A running engine. Clones are handles to the same one; it ends with
/// [`shutdown`](Self::shutdown), or by itself once every handle is gone and every request
/// has ended.
#[derive(Clone)]
pub struct Engine {
    commands: inbox::Sender<Command>,
    shared: Arc<Shared>,
}

/// What all handles have in common.
struct Shared {
    model: ModelInfo,
    plan: KvPlan,
    max_batched_tokens: usize,
    max_queued: usize,
    num_submitted: AtomicU64,
    dropped: DroppedStreams,
    stats: Arc<SharedStats>,
    is_shutting_down: AtomicBool,
    /// Its sender lives on the engine thread: closed means ended.
    ended: watch::Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Plans and allocates the KV cache and starts the thread `gapura-engine`, which owns
    /// `runner` from here on.
    ///
    /// # Errors
    /// [`StartError`] if a limit is zero, the KV budget too small, the allocation fails or
    /// there is no thread to be had.
    pub fn start(runner: Box<dyn ModelRunner>, config: EngineConfig) -> Result<Self, StartError> {
        Self::start_with(runner, None, config)
    }

    /// As [`start`](Self::start), and a runner that panics is replaced by what `factory`
    /// makes: the requests of its step fail, the others are computed again. Restarts come
    /// with growing pauses, and at most eight in five minutes; then the engine is dead.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_supervised(
        runner: Box<dyn ModelRunner>,
        factory: RunnerFactory,
        config: EngineConfig,
    ) -> Result<Self, StartError> {
        Self::start_with(runner, Some(factory), config)
    }

    fn start_with(
        mut runner: Box<dyn ModelRunner>,
        factory: Option<RunnerFactory>,
        config: EngineConfig,
    ) -> Result<Self, StartError> {
        config.check()?;
        let mut model = runner.model().clone();
        let demand = PlanDemand {
            budget_bytes: config.kv_bytes,
            max_num_seqs: config.max_num_seqs,
            max_batched_tokens: config.max_batched_tokens,
            context_length: config.context_length.map_or(model.context_length, |limit| {
                limit.min(model.context_length)
            }),
        };
        let plan = KvPlan::for_demand(&model.kv, &demand)?;
        model.context_length = plan.context_length(&model.kv, &demand);
        report_plan(&model, plan, &demand);
        runner.allocate_kv(plan)?;

        let limits = SchedulerLimits {
            max_num_seqs: config.max_num_seqs,
            max_batched_tokens: config.max_batched_tokens,
            max_slowdown: config.max_slowdown,
            context_length: model.context_length,
            prefix_cache: config.prefix_cache,
            eos_token_ids: model.eos_token_ids.clone(),
        };
        let stats = Arc::new(SharedStats::new(plan));
        let (commands, received) = inbox::inbox();
        let (ended_sender, ended) = watch::channel(());
        let layout = model.kv;
        let dropped = DroppedStreams::default();
        let thread_dropped = dropped.clone();
        let thread_stats = Arc::clone(&stats);
        let thread = std::thread::Builder::new()
            .name("gapura-engine".into())
            .spawn(move || {
                let stats = Arc::clone(&thread_stats);
                let supply = Supply { runner, factory };
                let mut engine_loop =
                    EngineLoop::new(supply, limits, layout, plan, thread_dropped, thread_stats);
                // The loop survives a runner's panic by itself; this catches a defect of
                // our own, so that health checks and waiting clients learn of it.
                while let Err(panic) = catch_unwind(AssertUnwindSafe(|| engine_loop.run(&received)))
                {
                    if !engine_loop.recover(&*panic) {
                        break;
                    }
                }
                stats.set_dead();
                // Last: whoever sees the end finds nothing that takes requests.
                drop(received);
                drop(ended_sender);
            })
            .map_err(StartError::Thread)?;

        Ok(Self {
            commands,
            shared: Arc::new(Shared {
                model,
                plan,
                max_batched_tokens: config.max_batched_tokens,
                max_queued: config.max_queued,
                num_submitted: AtomicU64::new(0),
                dropped,
                stats,
                is_shutting_down: AtomicBool::new(false),
                ended,
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Queues `request` without waiting. Dropping the stream cancels the request and frees
    /// its blocks at the next step.
    ///
    /// # Errors
    /// A request that can never be served ([`EngineError::EmptyPrompt`],
    /// [`EngineError::PromptTooLong`], [`EngineError::UnknownToken`],
    /// [`EngineError::InvalidParameter`]), a full queue ([`EngineError::Overloaded`]), or an
    /// engine that takes no more ([`EngineError::ShuttingDown`]).
    pub fn submit(&self, request: GenerateRequest) -> Result<TokenStream, EngineError> {
        request.check(&self.shared.model)?;
        if self.shared.is_shutting_down.load(Relaxed) {
            return Err(EngineError::ShuttingDown);
        }
        let slot = self
            .shared
            .stats
            .take_queue_slot(self.shared.max_queued)
            .ok_or(EngineError::Overloaded {
                max_queued: self.shared.max_queued,
            })?;
        let id = SequenceId(self.shared.num_submitted.fetch_add(1, Relaxed));
        let (events, stream) = TokenStream::channel(id, self.shared.dropped.clone());
        let submission = Submission {
            id,
            request,
            events,
            slot,
            submitted: Instant::now(),
        };
        self.commands
            .send(Command::Submit(Box::new(submission)))
            .map_err(|_| EngineError::ShuttingDown)?;
        Ok(stream)
    }

    /// What is loaded. Its `context_length` is what this engine serves: the model's own, the
    /// configured limit or what the KV cache holds, whichever is least.
    #[must_use]
    pub fn model(&self) -> &ModelInfo {
        &self.shared.model
    }

    /// Most tokens that each of `num_sequences` can have at once, where their first
    /// `shared_tokens` are the same for all: what the KV cache holds of them together. More
    /// is served too, but one after the other.
    #[must_use]
    pub fn tokens_each(&self, num_sequences: usize, shared_tokens: usize) -> usize {
        let shared = &*self.shared;
        let chunk_tokens = shared.max_batched_tokens;
        let layout = &shared.model.kv;
        let most = shared
            .plan
            .tokens_each(layout, num_sequences, shared_tokens, chunk_tokens);
        most.min(shared.model.context_length)
    }

    /// The KV cache as it was planned at start.
    #[must_use]
    pub fn kv_plan(&self) -> KvPlan {
        self.shared.plan
    }

    /// What the engine is doing, as of its last step. A few atomic loads.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.shared.stats.snapshot()
    }

    /// Returns once the engine has ended: it was shut down, or nothing can run its model any more.
    pub async fn ended(&self) {
        // Nothing is ever sent: an error says that the thread let go of its end.
        let _ = self.shared.ended.clone().changed().await;
    }

    /// Takes no new request, lets those already accepted end for as long as `grace`, fails
    /// the rest with [`EngineError::ShuttingDown`], and returns once the thread has ended.
    pub async fn shutdown(&self, grace: Duration) {
        self.begin_shutdown(grace);
        self.ended().await;
        self.join();
    }

    /// [`shutdown`](Self::shutdown) for callers outside an async runtime.
    pub fn blocking_shutdown(&self, grace: Duration) {
        self.begin_shutdown(grace);
        self.join();
    }

    fn begin_shutdown(&self, grace: Duration) {
        self.shared.is_shutting_down.store(true, Relaxed);
        let now = Instant::now();
        let deadline = now.checked_add(grace).unwrap_or(now + LONGEST_GRACE);
        // A failed send means that the thread has ended already.
        let _ = self.commands.send(Command::Shutdown { deadline });
    }

    fn join(&self) {
        let thread = self
            .shared
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // Its closure catches its own panics.
            let _ = thread.join();
        }
    }
}

impl EngineConfig {
    fn check(&self) -> Result<(), StartError> {
        let limits = [
            ("max_num_seqs", self.max_num_seqs),
            ("max_batched_tokens", self.max_batched_tokens),
            ("max_queued", self.max_queued),
            ("context_length", self.context_length.unwrap_or(1)),
        ];
        if let Some((name, _)) = limits.into_iter().find(|(_, value)| *value == 0) {
            return Err(StartError::ZeroLimit { name });
        }
        // Not a number is below 1 too.
        if self.max_slowdown >= 1.0 {
            Ok(())
        } else {
            Err(StartError::Slowdown(self.max_slowdown))
        }
    }
}

fn report_plan(model: &ModelInfo, plan: KvPlan, demand: &PlanDemand) {
    info!(
        model = %model.id,
        weight_bytes = model.weight_bytes,
        kv_bytes = plan.bytes(&model.kv),
        num_full_blocks = plan.num_full_blocks,
        num_windowed_blocks = plan.num_windowed_blocks,
        context_length = model.context_length,
        max_num_seqs = demand.max_num_seqs,
        max_batched_tokens = demand.max_batched_tokens,
        "planned the KV cache"
    );
    if model.context_length < demand.context_length {
        warn!(
            wanted = demand.context_length,
            context_length = model.context_length,
            kv_bytes = demand.budget_bytes,
            "the KV budget shortens the context"
        );
    }
}

impl GenerateRequest {
    /// Refuses what could never be served, so that the engine thread meets only valid
    /// requests.
    fn check(&self, model: &ModelInfo) -> Result<(), EngineError> {
        if self.prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let room_for_answer = usize::from(self.stop.max_tokens > 0);
        if self.prompt.len() + room_for_answer > model.context_length {
            return Err(EngineError::PromptTooLong {
                num_tokens: self.prompt.len(),
                context_length: model.context_length,
            });
        }
        let biased = self.sampling.logit_bias.iter().map(|(id, _)| id);
        for &TokenId(id) in self.prompt.iter().chain(biased) {
            if id as usize >= model.vocab_size {
                return Err(EngineError::UnknownToken {
                    id,
                    vocab_size: model.vocab_size,
                });
            }
        }
        let reports = [
            ("logprobs", self.logprobs),
            ("prompt_logprobs", self.prompt_logprobs),
        ];
        for (name, alternatives) in reports {
            if let Some(count) = alternatives.filter(|&count| count > MAX_ALTERNATIVES) {
                return Err(EngineError::InvalidParameter {
                    name,
                    value: count.to_string(),
                    allowed: "0 to 20",
                });
            }
        }
        self.sampling.check()
    }
}
