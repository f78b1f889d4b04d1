//! What the gateway lends to guests: the tokenizer, and an ear for the metrics.

use std::sync::Arc;

use gapura_engine::Tokenizer;
use gapura_plugin_runtime::{CallObserver, GuestCall, Outcome, Services, TokenCounter};

use crate::state::{AppState, LoadedModel};
use crate::telemetry::Metrics;

/// The services of one request.
pub(super) fn services(state: &AppState, model: &LoadedModel) -> Services {
    Services {
        tokens: Arc::new(Counter(model.tokenizer.clone())),
        observer: Arc::new(Observer(Arc::clone(&state.metrics))),
    }
}

/// The services of a chain that is run for its own sake: nobody's request, so that no metric
/// counts it.
pub(super) fn quiet(tokenizer: Tokenizer) -> Services {
    struct Nobody;
    impl CallObserver for Nobody {
        fn observe(&self, _: &GuestCall<'_>) {}
    }
    Services {
        tokens: Arc::new(Counter(tokenizer)),
        observer: Arc::new(Nobody),
    }
}

struct Counter(Tokenizer);

impl TokenCounter for Counter {
    fn count(&self, text: &str) -> u32 {
        self.0.count(text)
    }
}

struct Observer(Arc<Metrics>);

impl CallObserver for Observer {
    fn observe(&self, call: &GuestCall<'_>) {
        // Making an instance is no call of a stage, unless none comes of it.
        if call.function == "instantiate" && matches!(call.outcome, Outcome::Answered) {
            return;
        }
        let failure = match call.outcome {
            Outcome::Answered | Outcome::Refused => None,
            Outcome::Failed(kind) => Some(kind.as_str()),
        };
        let labels = (
            call.plugin.name.as_str(),
            call.plugin.version.as_str(),
            call.stage.as_str(),
        );
        self.0.plugin_call(labels, call.duration, failure);
    }
}
