//! What the gateway lends to guests: the tokenizer, and an ear for the metrics.

use std::sync::Arc;

use gapura_engine::Tokenizer;
use gapura_plugin_runtime::{CallObserver, GuestCall, Outcome, Services, TokenCounter};

use crate::state::{AppState, LoadedModel};
use crate::telemetry::Metrics;

/// The services of one request.
pub(super) fn services(state: &AppState, model: &LoadedModel) -> Services {
    Services {
        tokens: Arc::new(Counter {
            tokenizer: model.tokenizer.clone(),
            most: model.engine.model().context_length,
        }),
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
        tokens: Arc::new(Counter {
            tokenizer,
            most: usize::MAX,
        }),
        observer: Arc::new(Nobody),
    }
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
