//! Shadows: a version on trial sees what the live one saw, once the request is over. It is told
//! what the live one was told, by the clock, the model and its memory, so that it changes nothing
//! and asks nobody; what it makes of the request is compared and thrown away.

use std::sync::{Arc, OnceLock};

use gapura_plugin_runtime::{CallObserver, ChainFailure, FailureKind, GuestCall, PluginId, Stage};
use tokio::sync::mpsc;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::cases::{Expect, rehearse};
use crate::recording::Record;
use crate::routing::Route;
use crate::telemetry::{Ledger, ledger::Tally};
use crate::trial::{Compared, Sample, Watched};

/// Requests that may wait; the next is not compared.
const QUEUE: usize = 64;

/// The requests of all routes that wait to be compared. The task begins with the first.
#[derive(Default)]
pub struct Shadows(OnceLock<mpsc::Sender<Job>>);

struct Job {
    record: Record,
    shadow: Shadow,
}

/// The version that is to see a request, and who hears how it did.
pub(crate) struct Shadow {
    pub(crate) shadows: Arc<Shadows>,
    /// The route with that version in its chain.
    pub(crate) route: Arc<Route>,
    pub(crate) watched: Arc<Watched>,
    pub(crate) ledger: Arc<Ledger>,
    /// Keeps a server that drains from closing before it was seen.
    pub(crate) _under_way: TaskTrackerToken,
}

impl Shadow {
    /// The request is over: `record` is what came of it.
    pub(crate) fn see(self, record: Record) {
        let (shadows, watched) = (Arc::clone(&self.shadows), Arc::clone(&self.watched));
        let queue = shadows.0.get_or_init(|| {
            let (queue, mut waiting) = mpsc::channel::<Job>(QUEUE);
            // A record may be dropped on any thread of the server, all of which are its runtime's.
            tokio::spawn(async move {
                while let Some(job) = waiting.recv().await {
                    let job = Arc::new(job);
                    let own = Arc::clone(&job);
                    let compared =
                        outlive(async move { compare(&own.record, &own.shadow).await }).await;
                    job.shadow.watched.compared(compared);
                }
            });
            queue
        });
        let job = Job {
            record,
            shadow: self,
        };
        if queue.try_send(job).is_err() {
            watched.compared(Compared::Skipped);
        }
    }
}

/// What `comparison` finds. A panic in it ends no other comparison.
async fn outlive(comparison: impl Future<Output = Compared> + Send + 'static) -> Compared {
    tokio::spawn(comparison).await.unwrap_or_else(|error| {
        tracing::error!(%error, "the comparison of a shadow panicked");
        Compared::Skipped
    })
}

/// Books the calls of the version on trial, and no others: those of its chain have been booked.
struct Candidate {
    digest: String,
    tally: Arc<Tally>,
}

impl CallObserver for Candidate {
    fn observe(&self, call: &GuestCall<'_>) {
        if call.plugin.digest == self.digest {
            self.tally.observe(call);
        }
    }

    fn failed(&self, plugin: &PluginId, stage: Stage, kind: FailureKind) {
        if plugin.digest == self.digest {
            self.tally.failed(plugin, stage, kind);
        }
    }

    fn held(&self, plugin: &PluginId, bytes: u64) {
        if plugin.digest == self.digest {
            self.tally.held(plugin, bytes);
        }
    }
}

async fn compare(record: &Record, shadow: &Shadow) -> Compared {
    let decided = record.outcome.verdict.as_str();
    // Of a request that its client left, or in which a plugin failed, nothing is known.
    if !record.is_whole || matches!(decided, "" | "fail" | "continue") {
        return Compared::Skipped;
    }
    let (route, candidate) = (&shadow.route, shadow.watched.candidate());
    let observer = Candidate {
        digest: candidate.digest.clone(),
        tally: shadow.ledger.tally(route.accounts(&shadow.ledger)),
    };
    let (found, failure) =
        rehearse(record, &route.chain, &candidate.name, Arc::new(observer)).await;
    match difference(record, &found, failure.as_ref()) {
        Some(sample) => Compared::Different(sample),
        None => Compared::Same,
    }
}

/// The first way in which `found` is not what came of the request.
fn difference(record: &Record, found: &Expect, failure: Option<&ChainFailure>) -> Option<Sample> {
    let (id, outcome) = (&record.request_id, &record.outcome);
    if let Some(failure) = failure {
        let said = format!("{}: {}", failure.stage, failure.kind.as_str());
        return Some(Sample::of_words(id, "failed", &outcome.verdict, &said));
    }
    let decided = |verdict: &str, detail: &str| match detail {
        "" => verdict.to_owned(),
        detail => format!("{verdict} {detail}"),
    };
    let live = decided(&outcome.verdict, &outcome.detail);
    let other = match found.text("verdict") {
        // A chain without validators decides nothing.
        None => decided("accept", ""),
        Some(verdict) => {
            let detail = found.refusal_code().or_else(|| found.text("route"));
            decided(&verdict, &detail.unwrap_or_default())
        }
    };
    if live != other {
        return Some(Sample::of_words(id, "verdict", &live, &other));
    }
    if let Some(prompt) = &outcome.prompt {
        let wanted = Expect::of_prompt(prompt);
        for key in ["prompt", "stop", "grammar"] {
            let [live, other] = [&wanted, found].map(|of| of.text(key).unwrap_or_default());
            if live != other {
                return Some(Sample::of_texts(id, "prompt", &live, &other));
            }
        }
    }
    // An answer that its client did not wait for is part of one.
    outcome.finish?;
    let other = found.text("text")?;
    (outcome.text != other).then(|| Sample::of_texts(id, "answer", &outcome.text, &other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_comparison_that_panics_is_one_that_was_not_made() {
        let panics = async { panic!("a comparison of the tests") };
        assert_eq!(outlive(panics).await, Compared::Skipped);
        assert_eq!(outlive(async { Compared::Same }).await, Compared::Same);
    }
}
