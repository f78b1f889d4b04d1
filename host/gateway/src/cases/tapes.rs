//! What imports told the plugins of a record, told again: to each plugin its own, in order. A
//! plugin that asks for more than its tape holds gets what a case would give it: a clock that
//! stands still, random numbers of a fixed seed, an estimate of tokens, and no answer.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use gapura_plugin_runtime::{
    Answering, Asker, CallObserver, Clock, GuestCall, Http, HttpCaller, HttpError, HttpRequest,
    HttpResponse, Kv, Model, ModelAnswer, ModelError, PluginId, PluginValues, Question, Random,
    Sending, Services, TokenCounter,
};

use super::script::Script;
use crate::recording::{Record, Tape};

/// Bytes of a token where nothing else is known.
const BYTES_PER_TOKEN: usize = 4;

/// The host of one replay. A replay runs one guest call at a time, so that whoever asks is known
/// by the call.
pub(super) struct Tapes {
    /// Takes down what the plugin `of` uses, and its numbers.
    pub(super) script: Arc<Script>,
    of: String,
    state: Mutex<State>,
}

struct State {
    calling: String,
    tapes: BTreeMap<String, Playing>,
    /// What the clocks last said.
    now_ms: u64,
    monotonic_ns: u64,
}

/// What of a tape has not been told yet.
#[derive(Default)]
struct Playing {
    now_ms: VecDeque<u64>,
    monotonic_ns: VecDeque<u64>,
    random: VecDeque<u8>,
    tokens: VecDeque<u32>,
    answers: VecDeque<Result<ModelAnswer, ModelError>>,
    responses: VecDeque<Result<HttpResponse, HttpError>>,
}

impl From<&Tape> for Playing {
    fn from(tape: &Tape) -> Self {
        Self {
            now_ms: tape.now_ms.iter().copied().collect(),
            monotonic_ns: tape.monotonic_ns.iter().copied().collect(),
            random: tape
                .random
                .iter()
                .flat_map(|bytes| &bytes.0)
                .copied()
                .collect(),
            tokens: tape.tokens.iter().copied().collect(),
            answers: tape.answers.iter().cloned().collect(),
            responses: tape.responses.iter().cloned().map(Into::into).collect(),
        }
    }
}

impl Tapes {
    pub(super) fn new(record: &Record, of: &str) -> Arc<Self> {
        let now_ms = record.at.saturating_mul(1000);
        let tapes = record.tapes.iter();
        Arc::new(Self {
            script: Script::with(now_ms, 0, std::iter::empty(), Vec::new()),
            of: of.to_owned(),
            state: Mutex::new(State {
                calling: String::new(),
                tapes: tapes
                    .map(|(name, tape)| (name.clone(), tape.into()))
                    .collect(),
                now_ms,
                monotonic_ns: 0,
            }),
        })
    }

    /// The services of a run; what plugins remembered is there.
    pub(super) fn services(self: &Arc<Self>, record: &Record) -> Services {
        let kv = Kv::default();
        for (name, tape) in &record.tapes {
            for (key, value) in &tape.values {
                kv.preset(&record.route, name, key, &value.0);
            }
        }
        Services {
            tokens: self.clone(),
            observer: self.clone(),
            values: self.clone(),
            kv: Arc::new(kv),
            clock: self.clone(),
            random: self.clone(),
            model: self.clone(),
            http: self.clone(),
        }
    }

    fn locked<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// The tape of the plugin whose call this is.
    fn tape(&mut self) -> Option<&mut Playing> {
        self.tapes.get_mut(&self.calling)
    }
}

impl CallObserver for Tapes {
    fn begins(&self, plugin: &PluginId) {
        self.locked(|state| plugin.name.clone_into(&mut state.calling));
    }

    fn observe(&self, call: &GuestCall<'_>) {
        if call.plugin.name == self.of {
            CallObserver::observe(&*self.script, call);
        }
    }
}

impl TokenCounter for Tapes {
    fn count(&self, text: &str) -> u32 {
        let told = self.locked(|state| state.tape()?.tokens.pop_front());
        let estimate = text.len().div_ceil(BYTES_PER_TOKEN);
        told.unwrap_or_else(|| u32::try_from(estimate).unwrap_or(u32::MAX))
    }
}

impl Clock for Tapes {
    fn now_ms(&self) -> u64 {
        self.locked(|state| {
            let told = state.tape().and_then(|tape| tape.now_ms.pop_front());
            state.now_ms = told.unwrap_or(state.now_ms);
            state.now_ms
        })
    }

    fn monotonic_ns(&self) -> u64 {
        self.locked(|state| {
            let told = state.tape().and_then(|tape| tape.monotonic_ns.pop_front());
            state.monotonic_ns = told.unwrap_or(0).max(state.monotonic_ns);
            state.monotonic_ns
        })
    }
}

impl Random for Tapes {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        let told = self.locked(|state| match state.tape() {
            Some(tape) => {
                let count = bytes.len().min(tape.random.len());
                for (byte, told) in bytes.iter_mut().zip(tape.random.drain(..count)) {
                    *byte = told;
                }
                count
            }
            None => 0,
        });
        self.script.fill(&mut bytes[told..])
    }

    /// Of no tape: an instance that has served before was seeded then.
    fn seed(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.script.fill(bytes)
    }
}

impl Model for Tapes {
    fn ask<'a>(&'a self, asker: Asker<'a>, _question: Question) -> Answering<'a> {
        let answer = self.locked(|state| {
            let tape = state.tapes.get_mut(&asker.plugin.name);
            tape.and_then(|tape| tape.answers.pop_front())
        });
        let none = || {
            Err(ModelError::Failed(
                "the record has no more answers".to_owned(),
            ))
        };
        Box::pin(std::future::ready(answer.unwrap_or_else(none)))
    }
}

impl Http for Tapes {
    fn send<'a>(&'a self, caller: HttpCaller<'a>, _request: HttpRequest) -> Sending<'a> {
        let response = self.locked(|state| {
            let tape = state.tapes.get_mut(&caller.plugin.name);
            tape.and_then(|tape| tape.responses.pop_front())
        });
        let none = || {
            Err(HttpError::Connect(
                "the record has no more responses".to_owned(),
            ))
        };
        Box::pin(std::future::ready(response.unwrap_or_else(none)))
    }
}

impl PluginValues for Tapes {
    fn add(&self, plugin: &PluginId, route: &str, name: &str, by: u64) {
        if plugin.name == self.of {
            self.script.add(plugin, route, name, by);
        }
    }

    fn observe(&self, plugin: &PluginId, route: &str, name: &str, value: f64) {
        if plugin.name == self.of {
            PluginValues::observe(&*self.script, plugin, route, name, value);
        }
    }
}
