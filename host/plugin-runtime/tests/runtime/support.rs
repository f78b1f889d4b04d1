//! One runtime for all tests, chats, and services that remember.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use gapura_plugin_runtime::{
    AnswerContext, Binding, CallObserver, Chain, ChainFailure, Chat, Clock, Delta, FailureKind,
    FailurePolicy, Grants, GuestCall, HttpError, Message, ModelError, NoHttp, NoModel, Outcome,
    Plugin, PluginId, PluginRuntime, PluginValues, Random, Responder, Role, RuntimeConfig,
    Sampling, Services, Stage, SystemClock, TokenCounter,
};
use gapura_test_guests as guests;

pub(crate) fn runtime() -> &'static PluginRuntime {
    static RUNTIME: OnceLock<PluginRuntime> = OnceLock::new();
    RUNTIME.get_or_init(|| small_runtime(RuntimeConfig::default()))
}

/// A runtime with a small pool, since each reserves address space for the whole of it.
pub(crate) fn small_runtime(config: RuntimeConfig) -> PluginRuntime {
    small_runtime_with(config, Arc::new(SystemClock))
}

/// The same, whose circuit breakers go by `clock`.
pub(crate) fn small_runtime_with(config: RuntimeConfig, clock: Arc<dyn Clock>) -> PluginRuntime {
    let max_instances = config.max_instances.min(64);
    let config = RuntimeConfig {
        max_instances,
        ..config
    };
    PluginRuntime::with_clock(config, clock).expect("a runtime")
}

pub(crate) fn load(name: &str, wasm: &[u8]) -> Plugin {
    runtime().load(name, wasm).expect("loads")
}

/// `plugin` with every grant.
pub(crate) fn bind(plugin: Plugin) -> Binding {
    Binding {
        grants: Grants::ALL,
        ..Binding::new(plugin)
    }
}

/// A chain of `bindings` and a renderer behind them.
pub(crate) fn chain(mut bindings: Vec<Binding>) -> Arc<Chain> {
    bindings.push(bind(load("render", guests::RENDER)));
    Arc::new(Chain::new("route", bindings).expect("a chain"))
}

pub(crate) fn chat(model: &str) -> Chat {
    Chat {
        request_id: "request-1".to_owned(),
        route: "route".to_owned(),
        model: model.to_owned(),
        tenant: None,
        stream: true,
        messages: vec![message("halo")],
        sampling: Sampling::default(),
        extra: "{}".to_owned(),
        call_id: "call-1".to_owned(),
    }
}

pub(crate) fn message(text: &str) -> Message {
    Message {
        role: Role::User,
        content: vec![text.to_owned()],
        name: None,
        tool_calls: Vec::new(),
        tool_call_id: None,
    }
}

pub(crate) fn answer_context() -> AnswerContext {
    AnswerContext {
        request_id: "request-1".to_owned(),
        route: "route".to_owned(),
        model: "model".to_owned(),
        tenant: Some("tenant".to_owned()),
        stream: true,
        choice: 0,
        extra: "{}".to_owned(),
        call_id: "call-1".to_owned(),
    }
}

/// A delta of one token.
pub(crate) fn delta(text: &str) -> Delta {
    Delta {
        text: text.to_owned(),
        token_ids: vec![7],
        logprobs: vec![-0.5],
    }
}

pub(crate) async fn responder(bindings: Vec<Binding>) -> Responder {
    let run = chain(bindings).start(services());
    run.responder(answer_context()).await.expect("a responder")
}

/// How the validator of `binding` fails.
pub(crate) async fn failure(binding: Binding) -> ChainFailure {
    let run = &mut chain(vec![binding]).start(services());
    run.validate(chat("z")).await.expect_err("a failure")
}

pub(crate) fn services() -> Services {
    observed().0
}

/// Services, and the calls that they hear of.
pub(crate) fn observed() -> (Services, Arc<Calls>) {
    let calls = Arc::<Calls>::default();
    let observer: Arc<dyn CallObserver> = Arc::clone(&calls) as _;
    (
        Services {
            tokens: Arc::new(Words),
            observer,
            values: Arc::new(Values::default()),
            kv: Arc::default(),
            clock: Arc::new(HandClock::default()),
            random: Arc::new(Counting::default()),
            model: Arc::new(NoModel(ModelError::Failed("there is none".to_owned()))),
            http: Arc::new(NoHttp(HttpError::Connect("there is none".to_owned()))),
        },
        calls,
    )
}

/// A clock that a test sets.
#[derive(Default)]
pub(crate) struct HandClock(pub(crate) AtomicU64);

impl HandClock {
    pub(crate) fn set_ms(&self, ms: u64) {
        self.0.store(ms, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn monotonic_ns(&self) -> u64 {
        self.now_ms() * 1_000_000
    }
}

/// The bytes 1, 2, 3 and so on.
#[derive(Default)]
pub(crate) struct Counting(AtomicU64);

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        for byte in bytes {
            *byte = self.0.fetch_add(1, Ordering::Relaxed) as u8 + 1;
        }
        Ok(())
    }
}

/// Remembers every number, as `plugin route name value`.
#[derive(Default)]
pub(crate) struct Values(pub(crate) Mutex<Vec<String>>);

impl PluginValues for Values {
    fn add(&self, plugin: &PluginId, route: &str, name: &str, by: u64) {
        let line = format!("{} {route} {name} +{by}", plugin.name);
        self.0.lock().expect("no panic").push(line);
    }

    fn observe(&self, plugin: &PluginId, route: &str, name: &str, value: f64) {
        let line = format!("{} {route} {name} {value}", plugin.name);
        self.0.lock().expect("no panic").push(line);
    }
}

/// Counts words.
struct Words;

impl TokenCounter for Words {
    fn count(&self, text: &str) -> u32 {
        u32::try_from(text.split_whitespace().count()).expect("few words")
    }
}

/// The plugin, function and outcome of each call, and what else was told of plugins, as lines.
#[derive(Default)]
pub(crate) struct Calls(
    Mutex<Vec<(String, &'static str, Outcome)>>,
    Mutex<Vec<String>>,
);

impl Calls {
    pub(crate) fn take(&self) -> Vec<(String, &'static str, Outcome)> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }

    /// Failures without a call, fallbacks and breakers that opened, since they were last taken.
    pub(crate) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.1.lock().expect("no panic"))
    }

    fn note(&self, note: String) {
        self.1.lock().expect("no panic").push(note);
    }

    /// How often `function` was called.
    pub(crate) fn of(&self, function: &str) -> usize {
        let calls = self.0.lock().expect("no panic");
        calls.iter().filter(|call| call.1 == function).count()
    }
}

impl CallObserver for Calls {
    fn observe(&self, call: &GuestCall<'_>) {
        assert!(
            call.memory_bytes >= 128 << 10,
            "a guest has two pages: {call:?}"
        );
        let mut calls = self.0.lock().expect("no panic");
        calls.push((call.plugin.name.clone(), call.function, call.outcome));
    }

    fn failed(&self, plugin: &PluginId, stage: Stage, kind: FailureKind) {
        self.note(format!("{} failed in {stage}: {kind}", plugin.name));
    }

    fn fell_back(&self, plugin: &PluginId, stage: Stage, policy: &FailurePolicy) {
        let policy = policy.as_str();
        self.note(format!("{} fell back in {stage}: {policy}", plugin.name));
    }

    fn reused(&self, plugin: &PluginId) {
        self.note(format!("{} serves again", plugin.name));
    }

    fn recycled(&self, plugin: &PluginId) {
        self.note(format!("{} is recycled", plugin.name));
    }

    fn breaker_opened(&self, plugin: &PluginId, stage: Stage) {
        self.note(format!("{} has an open breaker in {stage}", plugin.name));
    }
}
