//! What happens to one request, step by step, for an operator who wants it explained.

use std::sync::{Mutex, MutexGuard, PoisonError};

use gapura_plugin_runtime::{FinishReason, Prompt, Verdict};
use serde::Serialize;
use serde_json::Value;

use crate::openai::usage::UsageJson;
use crate::routing::Route;

/// One thing that happened. Plugins are named by their labels, as in `x-gapura-chain`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(crate) enum Step {
    /// The request has come to a route: the first, or the one that a validator sent it to.
    Route {
        /// Its name.
        route: String,
        /// As `x-gapura-chain` shows it.
        chain: String,
    },
    /// A guest call has ended.
    Call {
        /// Whose.
        plugin: String,
        /// The stage.
        stage: &'static str,
        /// The function; `instantiate` makes the instance.
        function: &'static str,
        /// `answered`, `refused`, or the failure's kind.
        outcome: &'static str,
        /// Microseconds, waiting for other guests included.
        us: f64,
    },
    /// A validator has decided, or its failure policy in its place.
    Verdict {
        /// Which.
        plugin: String,
        /// What.
        verdict: Verdict,
    },
    /// A failure that was no call.
    Failure {
        /// Whose.
        plugin: String,
        /// The stage.
        stage: &'static str,
        /// Its kind.
        failure: &'static str,
    },
    /// The request goes on in spite of a failure.
    Fallback {
        /// Who failed.
        plugin: String,
        /// The stage.
        stage: &'static str,
        /// The failure policy that says how: `open`, `previous` or `static`.
        policy: &'static str,
    },
    /// What the template made.
    Prompt(Prompt),
    /// What the model said next.
    Delta {
        /// Whole characters.
        text: String,
        /// The tokens that made them.
        tokens: Vec<u32>,
    },
    /// What the client would get next.
    Text {
        /// As the processors left it.
        text: String,
    },
    /// The answer is complete.
    End {
        /// The reason that the client would see.
        finish_reason: FinishReason,
        /// What it took.
        usage: UsageJson,
    },
    /// The request has ended with an error.
    Error {
        /// The HTTP status that the client would see.
        status: u16,
        /// The error, in the API's shape.
        error: Value,
    },
}

/// The steps that nobody has taken yet, in their order.
#[derive(Debug, Default)]
pub(crate) struct Trace(Mutex<Vec<Step>>);

impl Trace {
    /// Adds the newest.
    pub(crate) fn add(&self, step: Step) {
        self.steps().push(step);
    }

    /// The request has come to `route`.
    pub(crate) fn comes_to(&self, route: &Route) {
        self.add(Step::Route {
            route: route.name.clone(),
            chain: route.chain.label().to_owned(),
        });
    }

    /// Takes what has happened since the last time.
    pub(crate) fn take(&self) -> Vec<Step> {
        std::mem::take(&mut self.steps())
    }

    fn steps(&self) -> MutexGuard<'_, Vec<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
