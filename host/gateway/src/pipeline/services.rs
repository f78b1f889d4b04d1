//! What the gateway lends to guests: tokenizer, numbers, memory, time, chance, the model, the network.

use std::sync::Arc;

use gapura_engine::Tokenizer;
use gapura_plugin_runtime::{
    CallObserver, Chat, GuestCall, HttpError, Import, Model, ModelError, NoHttp, NoModel, Services,
    TokenCounter,
};

use crate::pipeline::call::Deadline;
use crate::pipeline::fetch::Fetcher;
use crate::pipeline::observation::Reporter;
use crate::pipeline::question::Questions;
use crate::pipeline::shadow::Shadow;
use crate::pipeline::trace::Trace;
use crate::recording::{Keep, Recorder};
use crate::routing::Route;
use crate::state::{AppState, Lent, LoadedModel};
use crate::telemetry::RequestRecord;
use crate::telemetry::ledger::Tally;

/// Makes the services of one request, anew for each route that it comes to.
pub(super) struct Lender<'a> {
    pub(super) state: &'a AppState,
    pub(super) model: &'a Arc<LoadedModel>,
    /// Who shares computed prefixes with the request.
    pub(super) salt: Option<Arc<str>>,
    pub(super) deadline: Deadline,
    /// Takes down what happens, for whoever wants it explained.
    pub(super) trace: Option<Arc<Trace>>,
}

impl Lender<'_> {
    /// Counts what the plugins of `route` cost the request; `None` where nobody wants to know.
    pub(super) fn tally(&self, route: &Route, record: &mut RequestRecord) -> Option<Arc<Tally>> {
        let ledger = self.state.metrics.ledger();
        let is_recorded = route.record.is_some() || route.shadow().is_some();
        if !ledger.is_on() && !record.is_timed() && !is_recorded && self.trace.is_none() {
            return None;
        }
        let tally = ledger.tally(route.accounts(ledger));
        record.spends(Arc::clone(&tally));
        Some(tally)
    }

    /// Hears of the request's calls on `route`, and takes it down where the route records.
    pub(super) fn watch(
        &self,
        route: &Route,
        chat: &Chat,
        is_rendered: bool,
        record: &mut RequestRecord,
    ) -> Watch {
        let tally = self.tally(route, record);
        if let Some(trace) = &self.trace {
            trace.comes_to(route);
        }
        let keep = Keep {
            records: route
                .record
                .map(|bounds| (Arc::clone(&self.state.records), bounds)),
            shadow: route.shadow().map(|trial| Shadow {
                shadows: Arc::clone(&self.state.shadows),
                route: Arc::clone(&trial.route),
                watched: Arc::clone(&trial.watched),
                ledger: Arc::clone(self.state.metrics.ledger()),
                _under_way: self.state.under_way(),
            }),
            trace: self.trace.clone(),
        };
        let is_kept = keep.records.is_some() || keep.shadow.is_some() || keep.trace.is_some();
        let tallied = tally.clone().filter(|_| is_kept);
        let recorder =
            tallied.map(|tally| Arc::new(Recorder::new(keep, route, chat, is_rendered, tally)));
        Watch { tally, recorder }
    }

    /// What the observers of `route`, if it has any, will hear of the answers to one request. The
    /// request is over then, and its time too: they ask no questions.
    pub(super) fn reporter(&self, route: &Route, watch: &Watch) -> Option<Reporter> {
        let state = self.state;
        route.chain.is_observed().then(|| Reporter {
            observations: Arc::clone(&state.observations),
            metrics: Arc::clone(&state.metrics),
            chain: Arc::clone(&route.chain),
            services: Services {
                model: Arc::new(NoModel(ModelError::Deadline)),
                http: self.fetcher(route),
                ..self.secluded(watch)
            },
            under_way: state.under_way(),
            failed: Arc::default(),
        })
    }

    /// For the plugins of `route`.
    pub(super) fn services(&self, route: &Route, chat: &Chat, watch: &Watch) -> Services {
        let secluded = self.secluded(watch);
        let services = Services {
            http: self.fetcher(route),
            ..secluded.clone()
        };
        let mut bindings = route.chain.bindings().iter();
        if !bindings.any(|binding| binding.plugin.imports().contains(&Import::Model)) {
            return services;
        }
        let questions: Arc<dyn Model> = Arc::new(Questions {
            model: Arc::clone(self.model),
            tally: watch.tally.clone(),
            chain: Arc::clone(&route.chain),
            services: secluded,
            // By field, since a copy of the whole chat would be made to be thrown away.
            chat: Chat {
                request_id: chat.request_id.clone(),
                route: route.name.clone(),
                model: chat.model.clone(),
                tenant: chat.tenant.clone(),
                stream: false,
                messages: Vec::new(),
                sampling: Default::default(),
                extra: "{}".to_owned(),
                call_id: chat.call_id.clone(),
            },
            salt: self.salt.clone(),
            deadline: self.deadline,
        });
        Services {
            model: questions,
            ..services
        }
    }

    fn fetcher(&self, route: &Route) -> Arc<Fetcher> {
        Arc::new(Fetcher {
            outbound: Arc::clone(&self.state.lent.outbound),
            metrics: Arc::clone(&self.state.metrics),
            route: route.name.as_str().into(),
            allowed: Arc::clone(&route.http),
        })
    }

    /// Services that ask nobody: those with which a question is rendered. It would count neither as
    /// one of the request's questions nor as one of its HTTP requests.
    fn secluded(&self, watch: &Watch) -> Services {
        let Lent {
            kv,
            clock,
            random,
            outbound: _,
        } = self.state.lent.clone();
        let no_http = "no HTTP requests while a question is rendered";
        let metrics = &self.state.metrics;
        Services {
            tokens: Arc::new(Counter {
                tokenizer: self.model.tokenizer.clone(),
                most: self.model.engine.model().context_length,
            }),
            observer: watch.observer(),
            values: Arc::clone(metrics) as _,
            kv,
            clock,
            random,
            model: Arc::new(NoModel(ModelError::Depth)),
            http: Arc::new(NoHttp(HttpError::Budget(no_http.to_owned()))),
        }
    }
}

/// The services of a chain that is run for its own sake: nobody's request, so that no metric
/// counts it and nothing is remembered of it.
pub(super) fn quiet(tokenizer: Tokenizer) -> Services {
    Services::detached(Arc::new(Counter {
        tokenizer,
        most: usize::MAX,
    }))
}

struct Counter {
    tokenizer: Tokenizer,
    /// The model's context.
    most: usize,
}

impl TokenCounter for Counter {
    /// Of a text that cannot fit the context, what is known without working through it.
    fn count(&self, text: &str) -> u32 {
        match self.tokenizer.least_count(text.len()) {
            least if least > self.most => u32::try_from(least).unwrap_or(u32::MAX),
            _ => self.tokenizer.count(text),
        }
    }
}

/// Who hears of a request's calls on one route.
#[derive(Default)]
pub(super) struct Watch {
    /// Counts what its plugins cost, where anybody wants to know.
    pub(super) tally: Option<Arc<Tally>>,
    /// Takes it down, where the route records.
    pub(super) recorder: Option<Arc<Recorder>>,
}

impl Watch {
    /// Counts, and takes nothing down.
    pub(super) fn counting(tally: Option<Arc<Tally>>) -> Self {
        Self {
            tally,
            recorder: None,
        }
    }

    fn observer(&self) -> Arc<dyn CallObserver> {
        match (&self.recorder, &self.tally) {
            (Some(recorder), _) => Arc::clone(recorder) as _,
            (None, Some(tally)) => Arc::clone(tally) as _,
            (None, None) => Arc::new(Unheard),
        }
    }
}

/// Where nobody wants to know what plugins cost.
struct Unheard;

impl CallObserver for Unheard {
    fn observe(&self, _call: &GuestCall<'_>) {}
}
