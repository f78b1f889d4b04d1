//! Takes down one request while it runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use gapura_engine::TextDelta;
use gapura_plugin_runtime::{
    CallObserver, ChainFailure, Chat, Delta, FailureKind, FailurePolicy, FinishReason, GuestCall,
    Message, PluginId, Prompt, Sampling, Stage, Told, Validated, Verdict,
};

use super::record::{self, Bytes, Cost, Outcome, Record};
use super::store::Records;
use crate::config::RecordConfig;
use crate::pipeline::{Shadow, Step, Trace};
use crate::routing::Route;
use crate::telemetry::ledger::Tally;

/// Bytes of text and values that one record may hold.
const MAX_RECORD_BYTES: usize = 1 << 20;

/// Hears of everything that a record holds. Dropping it keeps the record.
pub(crate) struct Recorder {
    tally: Arc<Tally>,
    keep: Keep,
    state: Mutex<State>,
}

/// Who gets what is taken down.
#[derive(Default)]
pub(crate) struct Keep {
    /// Those of the route, within these bounds.
    pub(crate) records: Option<(Arc<Records>, RecordConfig)>,
    /// A version on trial.
    pub(crate) shadow: Option<Shadow>,
    /// Whoever wants the request explained, as it happens.
    pub(crate) trace: Option<Arc<Trace>>,
}

struct State {
    record: Record,
    /// Text and values so far.
    bytes: usize,
}

impl Recorder {
    /// Begins with `chat`, which has come to `route`; its plugins' costs are in `tally`.
    pub(crate) fn new(
        keep: Keep,
        route: &Route,
        chat: &Chat,
        is_rendered: bool,
        tally: Arc<Tally>,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let record = Record {
            request_id: chat.request_id.clone(),
            at: now.map_or(0, |now| now.as_secs()),
            route: route.name.clone(),
            is_redacted: false,
            is_whole: true,
            plugins: record::bindings(&route.chain),
            chat: emptied(chat),
            is_rendered,
            deltas: Vec::new(),
            finish: None,
            tapes: Default::default(),
            outcome: Outcome::default(),
        };
        let mut state = State { record, bytes: 0 };
        if state.has_room(chat_bytes(chat)) {
            state.record.chat = chat.clone();
        }
        Self {
            tally,
            keep,
            state: Mutex::new(state),
        }
    }

    /// What the validators decided.
    pub(crate) fn validated(&self, validated: &Result<Validated, ChainFailure>) {
        self.with(|state| {
            let (verdict, detail) = match validated {
                Ok(Validated::Continue(_)) if !state.record.is_whole => ("continue", ""),
                Ok(Validated::Continue(chat)) if *chat == state.record.chat => ("accept", ""),
                Ok(Validated::Continue(_)) => ("amend", ""),
                Ok(Validated::Refused { refusal, .. }) => ("refuse", refusal.code.as_str()),
                Ok(Validated::Answered { .. }) => ("answer", ""),
                Ok(Validated::Rerouted { route, .. }) => ("reroute", route.as_str()),
                Err(failure) => ("fail", failure.kind.as_str()),
            };
            let outcome = &mut state.record.outcome;
            verdict.clone_into(&mut outcome.verdict);
            detail.clone_into(&mut outcome.detail);
        });
    }

    /// What the template made.
    pub(crate) fn rendered(&self, prompt: &Prompt) {
        self.trace(|| Step::Prompt(prompt.clone()));
        let texts = prompt.segments.iter().map(|segment| match segment {
            gapura_plugin_runtime::Segment::Text(text) => text.len(),
            _ => 16,
        });
        let bytes = texts.sum();
        self.with(|state| {
            if state.has_room(bytes) {
                state.record.outcome.prompt = Some(prompt.clone());
            }
        });
    }

    /// What the processors are given next.
    pub(crate) fn delta(&self, delta: &TextDelta) {
        if delta.text.is_empty() {
            return;
        }
        self.trace(|| Step::Delta {
            text: delta.text.clone(),
            tokens: delta.tokens.iter().map(|token| token.0).collect(),
        });
        self.with(|state| {
            if state.has_room(delta.text.len() + 8 * delta.tokens.len()) {
                state.record.deltas.push(Delta {
                    text: delta.text.clone(),
                    token_ids: delta.tokens.iter().map(|token| token.0).collect(),
                    logprobs: Vec::new(),
                });
            }
        });
    }

    /// The model has ended.
    pub(crate) fn finished(&self, reason: FinishReason) {
        self.with(|state| state.record.finish = Some(reason));
    }

    /// What the client gets next.
    pub(crate) fn emitted(&self, text: &str) {
        if !text.is_empty() {
            self.trace(|| Step::Text {
                text: text.to_owned(),
            });
        }
        self.with(|state| {
            if state.has_room(text.len()) {
                state.record.outcome.text.push_str(text);
            }
        });
    }

    /// The answer is complete.
    pub(crate) fn ended(&self, finish: FinishReason) {
        self.with(|state| state.record.outcome.finish = Some(finish));
    }

    fn trace(&self, step: impl FnOnce() -> Step) {
        if let Some(trace) = &self.keep.trace {
            trace.add(step());
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// Whether `bytes` more may be taken down. Once they may not, nothing more is, and what was is
    /// let go: half a request cannot be played.
    fn has_room(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.record.is_whole && self.bytes > MAX_RECORD_BYTES {
            let record = &mut self.record;
            record.is_whole = false;
            record.chat = emptied(&record.chat);
            record.deltas = Vec::new();
            record.tapes.clear();
            record.outcome.prompt = None;
            record.outcome.text = String::new();
        }
        self.record.is_whole
    }

    fn told(&mut self, plugin: &str, told: Told<'_>) {
        let bytes = match told {
            Told::Random(bytes) => bytes.len(),
            Told::Value { key, value } => key.len() + value.map_or(0, <[u8]>::len),
            Told::Answer(Ok(answer)) => answer.text.len(),
            Told::Response(Ok(response)) => {
                let headers = response.headers.iter();
                let headers = headers.map(|(name, value)| name.len() + value.len());
                headers.sum::<usize>() + response.body.len()
            }
            _ => 8,
        };
        if !self.has_room(bytes) {
            return;
        }
        let tapes = &mut self.record.tapes;
        if !tapes.contains_key(plugin) {
            tapes.insert(plugin.to_owned(), Default::default());
        }
        let Some(tape) = tapes.get_mut(plugin) else {
            return;
        };
        match told {
            Told::NowMs(ms) => tape.now_ms.push(ms),
            Told::MonotonicNs(ns) => tape.monotonic_ns.push(ns),
            Told::Random(bytes) => tape.random.push(Bytes(bytes.to_vec())),
            Told::Tokens(count) => tape.tokens.push(count),
            Told::Value { key, value } => {
                if let (Some(value), false) = (value, tape.values.contains_key(key)) {
                    let value = Bytes(value.to_vec());
                    tape.values.insert(key.to_owned(), value);
                }
            }
            Told::Answer(answer) => tape.answers.push(answer.clone()),
            Told::Response(response) => tape.responses.push(response.into()),
        }
    }
}

impl CallObserver for Recorder {
    fn observe(&self, call: &GuestCall<'_>) {
        self.tally.observe(call);
        self.trace(|| Step::Call {
            plugin: call.plugin.label(),
            stage: call.stage.as_str(),
            function: call.function,
            outcome: call.outcome.as_str(),
            us: call.duration.as_secs_f64() * 1e6,
        });
    }

    fn judged(&self, plugin: &PluginId, verdict: &Verdict) {
        self.trace(|| Step::Verdict {
            plugin: plugin.label(),
            verdict: verdict.clone(),
        });
    }

    fn told(&self, plugin: &PluginId, told: Told<'_>) {
        self.with(|state| state.told(&plugin.name, told));
    }

    fn failed(&self, plugin: &PluginId, stage: Stage, kind: FailureKind) {
        self.tally.failed(plugin, stage, kind);
        self.trace(|| Step::Failure {
            plugin: plugin.label(),
            stage: stage.as_str(),
            failure: kind.as_str(),
        });
    }

    fn fell_back(&self, plugin: &PluginId, stage: Stage, policy: &FailurePolicy) {
        self.tally.fell_back(plugin, stage, policy);
        self.trace(|| Step::Fallback {
            plugin: plugin.label(),
            stage: stage.as_str(),
            policy: policy.as_str(),
        });
    }

    fn reused(&self, plugin: &PluginId) {
        self.tally.reused(plugin);
    }

    fn recycled(&self, plugin: &PluginId) {
        self.tally.recycled(plugin);
    }

    fn breaker_opened(&self, plugin: &PluginId, stage: Stage) {
        self.tally.breaker_opened(plugin, stage);
    }

    fn held(&self, plugin: &PluginId, bytes: u64) {
        self.tally.held(plugin, bytes);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let costs = self.tally.costs().into_iter().map(|cost| Cost {
            plugin: cost.plugin.label(),
            stage: cost.stage.as_str().to_owned(),
            us: cost.took.as_secs_f64() * 1e6,
        });
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.record.outcome.costs = costs.collect();
        if let Some(shadow) = self.keep.shadow.take() {
            shadow.see(state.record.clone());
        }
        if let Some((records, bounds)) = &self.keep.records {
            records.add(&mut state.record, bounds);
        }
    }
}

fn chat_bytes(chat: &Chat) -> usize {
    let message = |message: &Message| {
        let parts = message.content.iter().map(String::len).sum::<usize>();
        let calls = message.tool_calls.iter();
        parts + calls.map(|call| call.arguments.len()).sum::<usize>() + 64
    };
    chat.messages.iter().map(message).sum::<usize>() + chat.extra.len()
}

/// `chat` without what was said in it.
fn emptied(chat: &Chat) -> Chat {
    Chat {
        request_id: chat.request_id.clone(),
        route: chat.route.clone(),
        model: chat.model.clone(),
        tenant: chat.tenant.clone(),
        stream: chat.stream,
        messages: Vec::new(),
        sampling: Sampling::default(),
        extra: "{}".to_owned(),
        call_id: chat.call_id.clone(),
    }
}
