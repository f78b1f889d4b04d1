//! Everything that a plugin can ask for, scripted: the same for every run of a case.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use gapura_plugin_runtime::{
    Answering, Asker, CallObserver, Clock, FinishReason, GuestCall, Http, HttpCaller, HttpError,
    HttpRequest, Kv, Model, ModelAnswer, ModelError, PluginId, PluginValues, Question, Random,
    Sending, Services, Stage, TokenCounter,
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};
use toml::{Table, Value};

use crate::outbound::prepare;

use super::{file::Case, http::Exchange};

/// The host of one case.
pub(super) struct Script {
    now_ms: u64,
    state: Mutex<State>,
}

struct State {
    random: ChaCha8Rng,
    answers: VecDeque<String>,
    exchanges: Vec<Exchange>,
    sent: Vec<String>,
    values: Table,
    uses: Vec<StageUse>,
}

/// What the calls of one stage used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageUse {
    /// The stage.
    pub stage: Stage,
    /// Calls, that which made the instance included.
    pub calls: u64,
    /// Of all of them; see [`GuestCall::fuel`].
    pub fuel: u64,
    /// The most linear memory of an instance.
    pub memory_bytes: u64,
}

impl Script {
    pub(super) fn new(case: &Case) -> Arc<Self> {
        let answers = case.model.iter().cloned();
        Self::with(case.now_ms, case.seed, answers, case.http.clone())
    }

    /// A host whose clock stands still, with these answers of the model and of servers.
    pub(super) fn with(
        now_ms: u64,
        seed: u64,
        answers: impl Iterator<Item = String>,
        exchanges: Vec<Exchange>,
    ) -> Arc<Self> {
        Arc::new(Self {
            now_ms,
            state: Mutex::new(State {
                random: ChaCha8Rng::seed_from_u64(seed),
                answers: answers.collect(),
                exchanges,
                sent: Vec::new(),
                values: Table::new(),
                uses: Vec::new(),
            }),
        })
    }

    pub(super) fn services(self: &Arc<Self>) -> Services {
        Services {
            tokens: self.clone(),
            observer: self.clone(),
            values: self.clone(),
            kv: Arc::new(Kv::default()),
            clock: self.clone(),
            random: self.clone(),
            model: self.clone(),
            http: self.clone(),
        }
    }

    /// The HTTP requests that came, in order; those that the case does not have say so.
    pub(super) fn sent(&self) -> Vec<String> {
        self.locked(|state| state.sent.clone())
    }

    /// The plugin's own metrics: the sum of a counter, the list of a histogram's values.
    pub(super) fn values(&self) -> Table {
        self.locked(|state| state.values.clone())
    }

    /// By stage, in the order of the pipeline.
    pub(super) fn uses(&self) -> Vec<StageUse> {
        self.locked(|state| state.uses.clone())
    }

    fn locked<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl TokenCounter for Script {
    /// One for each word: no model is loaded.
    fn count(&self, text: &str) -> u32 {
        u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX)
    }
}

impl CallObserver for Script {
    fn observe(&self, call: &GuestCall<'_>) {
        self.locked(|state| {
            let place = state.uses.iter().position(|of| of.stage == call.stage);
            let place = place.unwrap_or_else(|| {
                state.uses.push(StageUse {
                    stage: call.stage,
                    calls: 0,
                    fuel: 0,
                    memory_bytes: 0,
                });
                state.uses.len() - 1
            });
            let of_stage = &mut state.uses[place];
            of_stage.calls += 1;
            of_stage.fuel += call.fuel.unwrap_or(0);
            of_stage.memory_bytes = of_stage.memory_bytes.max(call.memory_bytes);
        });
    }
}

impl PluginValues for Script {
    fn add(&self, _plugin: &PluginId, _route: &str, name: &str, by: u64) {
        let by = i64::try_from(by).unwrap_or(i64::MAX);
        self.locked(|state| {
            let sum = state.values.get(name).and_then(Value::as_integer);
            let sum = sum.unwrap_or(0).saturating_add(by);
            state.values.insert(name.to_owned(), sum.into());
        });
    }

    fn observe(&self, _plugin: &PluginId, _route: &str, name: &str, value: f64) {
        self.locked(|state| {
            let list = state
                .values
                .entry(name)
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(values) = list {
                values.push(value.into());
            }
        });
    }
}

impl Clock for Script {
    fn now_ms(&self) -> u64 {
        self.now_ms
    }

    fn monotonic_ns(&self) -> u64 {
        0
    }
}

impl Random for Script {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.locked(|state| state.random.fill_bytes(bytes));
        Ok(())
    }
}

impl Model for Script {
    fn ask<'a>(&'a self, _asker: Asker<'a>, question: Question) -> Answering<'a> {
        let next = self.locked(|state| state.answers.pop_front());
        let words = |text: &str| self.count(text);
        let prompt_tokens = question
            .messages
            .iter()
            .flat_map(|message| &message.content)
            .map(|text| words(text))
            .sum();
        let answer = next.map(|text| ModelAnswer {
            completion_tokens: words(&text),
            prompt_tokens,
            finish: FinishReason::Stop,
            text,
        });
        let none = || ModelError::Failed("the case has no more answers in `model`".to_owned());
        Box::pin(std::future::ready(answer.ok_or_else(none)))
    }
}

impl Http for Script {
    /// Each scripted response comes once, to the first request that it is for.
    fn send<'a>(&'a self, _caller: HttpCaller<'a>, request: HttpRequest) -> Sending<'a> {
        let response = self.locked(|state| {
            let name = format!("{} {}", request.method.as_str(), request.url);
            // What no server would be sent is refused here as it is there.
            if let Err(error) = prepare(request.clone()) {
                state.sent.push(format!("{name} (invalid)"));
                return Err(error);
            }
            let place = state.exchanges.iter().position(|of| of.is_for(&request));
            match place {
                Some(place) => {
                    state.sent.push(name);
                    state.exchanges.remove(place).result()
                }
                None => {
                    state.sent.push(format!("{name} (not scripted)"));
                    let none = "the case has no such request in `http`";
                    Err(HttpError::Connect(none.to_owned()))
                }
            }
        });
        Box::pin(std::future::ready(response))
    }
}
