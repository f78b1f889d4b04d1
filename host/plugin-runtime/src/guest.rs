//! One live instance and the calls of it: time, bytes and outcome are dealt with here and nowhere
//! else. A guest that failed is dead; its owner drops it.

mod size;
mod wall;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, warn};
use wasmtime::component::{Instance, ResourceAny};
use wasmtime::error::Context as _;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};

use crate::bindings::{
    self, InvalidOutput, completion_observer, prompt_template, request_validation,
    response_processing, types as w,
};
use crate::bound::Bound;
use crate::error::{ChainFailure, FailureKind};
use crate::plugin::{Artifact, Stage};
use crate::rooms::Room;
use crate::services::{CallObserver, GuestCall, Outcome};
use crate::state::{Abort, GuestState, Profile, RequestScope};
use crate::ticker::Alive;
use crate::types::{AnswerContext, Delta, FinishReason, Output, Prompt, Refusal, Verdict};
pub(crate) use size::{message_bytes, sampling_bytes};
use size::{prompt_bytes, refusal_bytes, verdict_bytes};
use wall::Wall;

/// Bytes that list elements may take beside their text, on top of twice the text.
const FUEL_FLOOR_BYTES: u64 = 64 << 10;

/// Why a call failed, before anyone knows what that means for the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
    /// When asking again may help, where that is known.
    pub(crate) retry_in: Option<Duration>,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_in: None,
        }
    }

    pub(crate) fn in_chain(self, bound: &Bound, stage: Stage) -> ChainFailure {
        let plugin = bound.binding.plugin.label().to_owned();
        ChainFailure {
            plugin,
            stage,
            kind: self.kind,
            message: self.message,
            retry_in: self.retry_in,
        }
    }
}

/// A live instance.
pub(crate) struct Guest {
    store: Store<GuestState>,
    instance: Instance,
    /// Its functions, as far as they were called.
    exports: Exports,
    /// `None` while it waits for a request.
    serving: Option<Serving>,
    /// Requests that it has served.
    served: u32,
    /// Its place in the pool, where it is one that is lent. Last, since it must be given back after
    /// the instance.
    room: Option<Arc<Room>>,
}

/// What an instance has while it serves.
struct Serving {
    observer: Arc<dyn CallObserver>,
    _alive: Alive,
}

#[derive(Default)]
struct Exports {
    validate: Option<request_validation::Guest>,
    render: Option<prompt_template::Guest>,
    observe: Option<completion_observer::Guest>,
}

/// A processor of a live instance: the guest's resource and where its methods are.
pub(crate) struct Processor {
    guest: Guest,
    exports: response_processing::Guest,
    resource: ResourceAny,
}

impl Guest {
    /// Makes a fresh instance in `room`. `stage` is the one that it is first needed for.
    pub(crate) async fn start(
        artifact: &Artifact,
        profile: &Arc<Profile>,
        request: &Arc<RequestScope>,
        request_id: &str,
        stage: Stage,
        room: Option<Arc<Room>>,
    ) -> Result<Self, Failure> {
        let mut state = GuestState::new(Arc::clone(profile), request_id, Arc::clone(request));
        state.counts_fuel = artifact.shared.counts_fuel;
        let mut store = Store::new(&artifact.shared.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.epoch_deadline_callback(|mut context| {
            let budget = &mut context.data_mut().budget;
            match budget.charge() {
                Ok(()) => Ok(UpdateDeadline::YieldCustom(1, Box::pin(budget.pause()))),
                Err(limit) => Err(Abort::Deadline {
                    limit_ms: limit.as_millis(),
                }
                .into()),
            }
        });
        let alive = artifact.shared.ticker.alive();
        let budget = Duration::from_millis(profile.limits.call_ms);
        let started = Instant::now();
        let wall = begin(&mut store, budget, profile.limits.output_bytes);
        let made = wall.hold(artifact.pre.instantiate_async(&mut store)).await;
        let result = settle(&mut store, made);
        let outcome = match &result {
            Ok(_) => Outcome::Answered,
            Err(failure) => Outcome::Failed(failure.kind),
        };
        let observer = Arc::clone(&request.services.observer);
        report(&store, &*observer, stage, "instantiate", started, outcome);
        let instance = result?;
        Ok(Self {
            store,
            instance,
            exports: Exports::default(),
            serving: Some(Serving {
                observer,
                _alive: alive,
            }),
            served: 0,
            room,
        })
    }

    /// Begins another request, in its room.
    pub(crate) fn adopt(
        &mut self,
        artifact: &Artifact,
        request_id: &str,
        request: &Arc<RequestScope>,
        room: Arc<Room>,
    ) {
        self.room = Some(room);
        let state = self.store.data_mut();
        state.begin_request(request_id, Arc::clone(request));
        self.serving = Some(Serving {
            observer: Arc::clone(&request.services.observer),
            _alive: artifact.shared.ticker.alive(),
        });
    }

    /// Ends a request; whether another may follow, where `reuse` may do so.
    pub(crate) fn rest(&mut self, reuse: u32) -> bool {
        self.served += 1;
        self.serving = None;
        let state = self.store.data_mut();
        state.end_request();
        let has_room = state.limiter.memory_bytes <= state.profile.limits.memory_bytes / 2;
        self.served <= reuse && has_room
    }

    /// Waits for another request, in `room`; that of the request before is given back.
    pub(crate) fn wait_in(&mut self, room: Room) {
        self.room = Some(Arc::new(room));
    }

    fn observer(&self) -> &dyn CallObserver {
        let serving = self.serving.as_ref();
        &*serving
            .expect("a guest is called for a request only")
            .observer
    }

    /// Checks the types of every export of `artifact`. An error names the stage's interface.
    pub(crate) fn check_types(&mut self, artifact: &Artifact) -> wasmtime::Result<()> {
        let (store, instance) = (&mut self.store, &self.instance);
        let indices = &artifact.indices;
        if let Some(found) = &indices.validate {
            let loaded = found.load(&mut *store, instance).map(drop);
            loaded.context(Stage::Validate.interface())?;
        }
        if let Some(found) = &indices.render {
            let loaded = found.load(&mut *store, instance).map(drop);
            loaded.context(Stage::Render.interface())?;
        }
        if let Some(found) = &indices.respond {
            let loaded = found.load(&mut *store, instance).map(drop);
            loaded.context(Stage::Respond.interface())?;
        }
        if let Some(found) = &indices.observe {
            let loaded = found.load(&mut *store, instance).map(drop);
            loaded.context(Stage::Observe.interface())?;
        }
        Ok(())
    }

    pub(crate) async fn validate(
        &mut self,
        artifact: &Artifact,
        chat: &w::Chat,
        input_bytes: usize,
    ) -> Result<Verdict, Failure> {
        let (budget, allowance) = self.call_limits(input_bytes);
        let started = Instant::now();
        let wall = begin(&mut self.store, budget, allowance);
        let indices = artifact.indices.validate.as_ref();
        let indices = indices.expect("the plugin validates");
        let exports = match self.exports.validate.take() {
            Some(known) => Ok(known),
            None => indices.load(&mut self.store, &self.instance),
        };
        let result = match exports {
            Ok(exports) => {
                let call = exports.call_validate(&mut self.store, chat);
                let result = wall.hold(call).await;
                self.exports.validate = Some(exports);
                result
            }
            Err(error) => Err(error),
        };
        let result = settle(&mut self.store, result).and_then(|answer| {
            let declined = |failure: w::Failure| {
                let message = match failure.message.trim() {
                    "" => "gave no reason".to_owned(),
                    _ => failure.message,
                };
                Failure::new(FailureKind::Declined, message)
            };
            let verdict = bindings::verdict(answer.map_err(declined)?)?;
            bounded(verdict_bytes(&verdict), allowance)?;
            Ok(verdict)
        });
        let outcome = match &result {
            Ok(Verdict::Refuse(_)) => Outcome::Refused,
            Ok(_) => Outcome::Answered,
            Err(failure) => Outcome::Failed(failure.kind),
        };
        report(
            &self.store,
            self.observer(),
            Stage::Validate,
            "validate",
            started,
            outcome,
        );
        result
    }

    pub(crate) async fn render(
        &mut self,
        artifact: &Artifact,
        chat: &w::Chat,
        input_bytes: usize,
    ) -> Result<Result<Prompt, Refusal>, Failure> {
        let (budget, allowance) = self.call_limits(input_bytes);
        let started = Instant::now();
        let wall = begin(&mut self.store, budget, allowance);
        let indices = artifact.indices.render.as_ref();
        let indices = indices.expect("the plugin renders");
        let exports = match self.exports.render.take() {
            Some(known) => Ok(known),
            None => indices.load(&mut self.store, &self.instance),
        };
        let result = match exports {
            Ok(exports) => {
                let call = exports.call_render(&mut self.store, chat);
                let result = wall.hold(call).await;
                self.exports.render = Some(exports);
                result
            }
            Err(error) => Err(error),
        };
        let result = settle(&mut self.store, result).and_then(|answer| {
            let rendered = answer.map(bindings::prompt).map_err(bindings::refusal);
            bounded(
                rendered.as_ref().map_or_else(refusal_bytes, prompt_bytes),
                allowance,
            )?;
            Ok(rendered)
        });
        let outcome = match &result {
            Ok(Ok(_)) => Outcome::Answered,
            Ok(Err(_)) => Outcome::Refused,
            Err(failure) => Outcome::Failed(failure.kind),
        };
        report(
            &self.store,
            self.observer(),
            Stage::Render,
            "render",
            started,
            outcome,
        );
        result
    }

    pub(crate) async fn completed(
        &mut self,
        artifact: &Artifact,
        summary: &completion_observer::Summary,
    ) -> Result<(), Failure> {
        let (budget, allowance) = self.call_limits(0);
        let started = Instant::now();
        let wall = begin(&mut self.store, budget, allowance);
        let indices = artifact.indices.observe.as_ref();
        let indices = indices.expect("the plugin observes");
        let exports = match self.exports.observe.take() {
            Some(known) => Ok(known),
            None => indices.load(&mut self.store, &self.instance),
        };
        let result = match exports {
            Ok(exports) => {
                let call = exports.call_completed(&mut self.store, summary);
                let result = wall.hold(call).await;
                self.exports.observe = Some(exports);
                result
            }
            Err(error) => Err(error),
        };
        let result = settle(&mut self.store, result);
        let outcome = match &result {
            Ok(()) => Outcome::Answered,
            Err(failure) => Outcome::Failed(failure.kind),
        };
        report(
            &self.store,
            self.observer(),
            Stage::Observe,
            "completed",
            started,
            outcome,
        );
        result
    }

    /// Makes the processor of one answer.
    pub(crate) async fn processor(
        mut self,
        artifact: &Artifact,
        context: &AnswerContext,
    ) -> Result<Processor, Failure> {
        let (budget, allowance) = self.call_limits(0);
        let started = Instant::now();
        let wall = begin(&mut self.store, budget, allowance);
        let indices = artifact
            .indices
            .respond
            .as_ref()
            .expect("the plugin responds");
        let result = match indices.load(&mut self.store, &self.instance) {
            Ok(exports) => {
                let context = bindings::context(context);
                let resources = exports.processor();
                let call = resources.call_constructor(&mut self.store, &context);
                let made = wall.hold(call).await;
                made.map(|resource| (exports, resource))
            }
            Err(error) => Err(error),
        };
        let result = settle(&mut self.store, result);
        let outcome = match &result {
            Ok(_) => Outcome::Answered,
            Err(failure) => Outcome::Failed(failure.kind),
        };
        report(
            &self.store,
            self.observer(),
            Stage::Respond,
            "processor",
            started,
            outcome,
        );
        let (exports, resource) = result?;
        Ok(Processor {
            guest: self,
            exports,
            resource,
        })
    }

    /// Time and bytes of a call that is given `input_bytes`.
    fn call_limits(&self, input_bytes: usize) -> (Duration, u64) {
        let limits = &self.store.data().profile.limits;
        let allowance = limits.output_bytes.saturating_add(input_bytes as u64);
        (Duration::from_millis(limits.call_ms), allowance)
    }
}

impl Processor {
    /// `None` is `hold`. `held_bytes` is what the processor holds already.
    pub(crate) async fn push(
        &mut self,
        delta: Delta,
        held_bytes: usize,
    ) -> Result<Option<Output>, Failure> {
        let (budget, allowance) = self.delta_limits(held_bytes + delta.text.len());
        let delta = bindings::delta(delta);
        let started = Instant::now();
        let guest = &mut self.guest;
        let wall = begin(&mut guest.store, budget, allowance);
        let resources = self.exports.processor();
        let call = resources.call_push(&mut guest.store, self.resource, &delta);
        let result = wall.hold(call).await;
        self.conclude("push", started, allowance, result)
    }

    /// `None` is `hold`, which emits nothing here.
    pub(crate) async fn finish(
        &mut self,
        reason: FinishReason,
        held_bytes: usize,
    ) -> Result<Option<Output>, Failure> {
        let (budget, allowance) = self.delta_limits(held_bytes);
        let reason = bindings::finish_reason(reason);
        let started = Instant::now();
        let guest = &mut self.guest;
        let wall = begin(&mut guest.store, budget, allowance);
        let resources = self.exports.processor();
        let call = resources.call_finish(&mut guest.store, self.resource, reason);
        let result = wall.hold(call).await;
        self.conclude("finish", started, allowance, result)
    }

    /// Ends the processor after its last word; its instance, unless that failed.
    pub(crate) async fn release(mut self) -> Option<Guest> {
        let (budget, allowance) = self.delta_limits(0);
        let guest = &mut self.guest;
        let wall = begin(&mut guest.store, budget, allowance);
        let dropped = self.resource.resource_drop_async(&mut guest.store);
        let result = wall.hold(dropped).await;
        settle(&mut guest.store, result).ok()?;
        Some(self.guest)
    }

    fn conclude(
        &mut self,
        function: &'static str,
        started: Instant,
        allowance: u64,
        result: wasmtime::Result<response_processing::Action>,
    ) -> Result<Option<Output>, Failure> {
        let guest = &mut self.guest;
        let result = settle(&mut guest.store, result).and_then(|action| {
            let output = bindings::action(action);
            if let Some(Output::Emit(text) | Output::Cut { text, .. }) = &output {
                bounded(text.len(), allowance)?;
            }
            Ok(output)
        });
        let outcome = match &result {
            Ok(Some(Output::Cut { .. })) => Outcome::Refused,
            Ok(_) => Outcome::Answered,
            Err(failure) => Outcome::Failed(failure.kind),
        };
        report(
            &guest.store,
            guest.observer(),
            Stage::Respond,
            function,
            started,
            outcome,
        );
        result
    }

    fn delta_limits(&self, input_bytes: usize) -> (Duration, u64) {
        let limits = &self.guest.store.data().profile.limits;
        let allowance = limits.output_bytes.saturating_add(input_bytes as u64);
        (Duration::from_millis(limits.delta_ms), allowance)
    }
}

/// Starts the clocks and counters of one call.
fn begin(store: &mut Store<GuestState>, budget: Duration, allowance: u64) -> Wall {
    let fuel = allowance.saturating_mul(2).saturating_add(FUEL_FLOOR_BYTES);
    store.set_hostcall_fuel(usize::try_from(fuel).unwrap_or(usize::MAX));
    store.set_epoch_deadline(1);
    if store.data().counts_fuel {
        // Refused only where the engine does not count.
        let _ = store.set_fuel(u64::MAX);
    }
    let state = store.data_mut();
    state.begin_call();
    state.budget.begin(budget);
    Wall::new(budget, state.budget.extra())
}

/// Turns what wasmtime says into what failed, and tells the log what the call left behind.
fn settle<T>(store: &mut Store<GuestState>, result: wasmtime::Result<T>) -> Result<T, Failure> {
    let state = store.data_mut();
    if state.lines_dropped > 0 {
        let id = &state.profile.id;
        warn!(
            plugin = id.name,
            version = id.version,
            lines = state.lines_dropped,
            limit = state.profile.limits.log_lines,
            "plugin logs too much: lines dropped"
        );
    }
    result.map_err(|error| {
        debug!(
            plugin = state.profile.id.label(),
            "guest call failed: {error:?}"
        );
        classify(&error, state)
    })
}

fn classify(error: &wasmtime::Error, state: &mut GuestState) -> Failure {
    if let Some(abort) = error.downcast_ref::<Abort>() {
        let kind = match abort {
            Abort::Deadline { .. } | Abort::TookTooLong { .. } => FailureKind::Deadline,
            Abort::Memory { .. } | Abort::Table { .. } => FailureKind::Memory,
            Abort::HostCalls { .. } => FailureKind::HostCalls,
            Abort::RandomBytes { .. } => FailureKind::InvalidOutput,
        };
        return Failure::new(kind, abort.to_string());
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return match (trap, state.last_error.take()) {
            (Trap::StackOverflow, _) => Failure::new(FailureKind::Stack, trap.to_string()),
            (_, Some(said)) => Failure::new(FailureKind::Trap, format!("{said} ({trap})")),
            (_, None) => Failure::new(FailureKind::Trap, trap.to_string()),
        };
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return Failure::new(FailureKind::Exhausted, error.to_string());
    }
    let cause = error.root_cause().to_string();
    // The error's type is private to wasmtime; a test holds the wording.
    if cause.contains("fuel allocated for hostcalls has been exhausted") {
        let limit = state.profile.limits.output_bytes;
        let message = format!("handed over more than its input and {limit} bytes in one call");
        return Failure::new(FailureKind::OutputTooLarge, message);
    }
    Failure::new(FailureKind::InvalidOutput, cause)
}

impl From<InvalidOutput> for Failure {
    fn from(error: InvalidOutput) -> Self {
        Self::new(FailureKind::InvalidOutput, error.to_string())
    }
}

fn bounded(bytes: usize, allowance: u64) -> Result<(), Failure> {
    if bytes as u64 <= allowance {
        return Ok(());
    }
    let message = format!("answered with {bytes} bytes, {allowance} are allowed");
    Err(Failure::new(FailureKind::OutputTooLarge, message))
}

fn report(
    store: &Store<GuestState>,
    observer: &dyn CallObserver,
    stage: Stage,
    function: &'static str,
    started: Instant,
    outcome: Outcome,
) {
    let state = store.data();
    let left = state.counts_fuel.then(|| store.get_fuel().ok()).flatten();
    observer.observe(&GuestCall {
        plugin: &state.profile.id,
        route: &state.profile.route,
        stage,
        function,
        outcome,
        duration: started.elapsed(),
        memory_bytes: state.limiter.memory_bytes,
        fuel: left.map(|left| u64::MAX - left),
    });
}
