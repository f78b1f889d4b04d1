//! What observers hear: one summary for each answer of the engine, told beside the requests. They
//! wait in a bounded queue, one after the other; what finds it full is dropped and counted.

use std::sync::{Arc, OnceLock};

use gapura_engine::Usage;
use gapura_plugin_runtime::{AnswerContext, Chain, Completion, FinishReason, Services, Summary};
use tokio::sync::mpsc;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::error::ApiError;
use crate::telemetry::Metrics;

/// Summaries that may wait.
const QUEUE: usize = 1024;

/// The queue of all routes. Its task begins with the first summary.
#[derive(Default)]
pub struct Observations(OnceLock<mpsc::Sender<Observation>>);

struct Observation {
    chain: Arc<Chain>,
    services: Services,
    summary: Summary,
    /// Keeps a server that drains from closing before it was heard.
    _under_way: TaskTrackerToken,
}

impl Observations {
    fn tell(&self, observation: Observation, metrics: &Metrics) {
        let queue = self.0.get_or_init(|| {
            let (queue, mut waiting) = mpsc::channel::<Observation>(QUEUE);
            tokio::spawn(async move {
                while let Some(next) = waiting.recv().await {
                    next.chain.completed(next.services, &next.summary).await;
                }
            });
            queue
        });
        if queue.try_send(observation).is_err() {
            metrics.observation_dropped();
        }
    }
}

/// What the reports of a request's answers have in common.
#[derive(Clone)]
pub(super) struct Reporter {
    pub(super) observations: Arc<Observations>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) chain: Arc<Chain>,
    pub(super) services: Services,
    pub(super) under_way: TaskTrackerToken,
    /// Why an answer of the request failed: the others end with it.
    pub(super) failed: Arc<OnceLock<String>>,
}

/// Tells once how an answer ended: as it was said, or else that it was given up.
pub(super) struct Report {
    reporter: Reporter,
    answer: AnswerContext,
    usage: Usage,
    completion: Completion,
}

impl Reporter {
    /// An answer of the request failed; those that have not ended end with it. The code of the
    /// first that did.
    pub(super) fn failed(&self, error: &ApiError) -> &str {
        let code = || error.code().unwrap_or("server_error").to_owned();
        self.failed.get_or_init(code)
    }

    pub(super) fn report(&self, answer: AnswerContext) -> Report {
        Report {
            reporter: self.clone(),
            answer,
            usage: Usage::default(),
            completion: Completion::Cancelled,
        }
    }
}

impl Report {
    /// What the answer has taken so far.
    pub(super) fn used(&mut self, usage: Usage) {
        self.usage = usage;
    }

    pub(super) fn finished(&mut self, reason: FinishReason) {
        self.completion = Completion::Finished(reason);
    }

    pub(super) fn failed(&mut self, error: &ApiError) {
        let code = self.reporter.failed(error).to_owned();
        self.completion = Completion::Failed(code);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let (reporter, usage) = (&self.reporter, self.usage);
        let completion = match (&self.completion, reporter.failed.get()) {
            (Completion::Cancelled, Some(code)) => Completion::Failed(code.clone()),
            (completion, _) => completion.clone(),
        };
        let observation = Observation {
            chain: Arc::clone(&reporter.chain),
            services: reporter.services.clone(),
            summary: Summary {
                answer: self.answer.clone(),
                completion,
                prompt_tokens: usage.prompt_tokens,
                cached_tokens: usage.cached_tokens,
                completion_tokens: usage.completion_tokens,
                queue: usage.queue_time,
                prefill: usage.prefill_time,
                decode: usage.decode_time,
            },
            _under_way: reporter.under_way.clone(),
        };
        reporter.observations.tell(observation, &reporter.metrics);
    }
}

#[cfg(test)]
mod tests {
    use gapura_plugin_runtime::{Binding, Grants, PluginRuntime, RuntimeConfig, TokenCounter};
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::builtin::BUILTINS;
    use crate::telemetry::EngineGauges;

    struct Nothing;

    impl TokenCounter for Nothing {
        fn count(&self, _text: &str) -> u32 {
            0
        }
    }

    fn chain() -> Chain {
        let config = RuntimeConfig {
            small_reservations: true,
            max_instances: 4,
            ..RuntimeConfig::default()
        };
        let runtime = PluginRuntime::new(config).expect("a runtime");
        let template = &BUILTINS[0];
        let plugin = runtime.load(template.name, template.bytes);
        let binding = Binding {
            grants: Grants::ALL,
            ..Binding::new(plugin.expect("loads"))
        };
        Chain::new("chat", vec![binding]).expect("a chain")
    }

    /// On one thread nothing is taken out of the queue before the test waits.
    #[tokio::test]
    async fn what_finds_the_queue_full_is_dropped_and_counted() {
        let (metrics, under_way) = (Arc::new(Metrics::new()), TaskTracker::new());
        let reporter = Reporter {
            observations: Arc::default(),
            metrics: Arc::clone(&metrics),
            chain: Arc::new(chain()),
            services: Services::detached(Arc::new(Nothing)),
            under_way: under_way.token(),
            failed: Arc::default(),
        };
        for _ in 0..QUEUE + 5 {
            drop(reporter.report(AnswerContext {
                request_id: "request-1".to_owned(),
                route: "chat".to_owned(),
                model: "chat".to_owned(),
                tenant: None,
                stream: false,
                choice: 0,
                extra: "{}".to_owned(),
                call_id: "call-1".to_owned(),
            }));
        }
        let scraped = metrics.scrape(&EngineGauges::default());
        let dropped = "\ngapura_plugin_observations_dropped_total 5\n";
        assert!(scraped.contains(dropped), "{scraped}");
        // Whoever drains waits for those that are in the queue, and for no other.
        let observations = Arc::clone(&reporter.observations);
        drop(reporter);
        under_way.close();
        assert!(!under_way.is_empty());
        let heard = tokio::time::timeout(std::time::Duration::from_secs(10), under_way.wait());
        heard.await.expect("all are heard");
        drop(observations);
    }
}
