//! What a version on trial and the live one have done since the trial began, and how what they
//! make of the same requests differs.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use gapura_plugin_runtime::PluginId;
use serde::Serialize;

use crate::telemetry::ledger::{Ledger, Totals};

/// Differences that are remembered.
const MAX_SAMPLES: usize = 20;

/// Two versions of a plugin, measured from the same moment on.
#[derive(Debug)]
pub struct Watched {
    live: PluginId,
    candidate: PluginId,
    since: Instant,
    /// What they had done before.
    before: [Totals; 2],
    comparison: Mutex<Comparison>,
}

/// What a shadow made of requests, beside what the live version did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Requests that were compared.
    pub compared: u64,
    /// Those of which both made the same.
    pub same: u64,
    /// The others, each in the first way that it differs.
    pub differ: Differ,
    /// Requests that could not be compared: too large, or more than could be worked on.
    pub skipped: u64,
    /// The newest differences.
    pub samples: VecDeque<Sample>,
}

/// Requests by the first way in which they differ.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Differ {
    /// The candidate failed.
    pub failed: u64,
    /// Another verdict.
    pub verdict: u64,
    /// Another prompt.
    pub prompt: u64,
    /// Another answer from the same words of the model.
    pub answer: u64,
}

/// One difference. It holds nothing of what was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// The request.
    pub request_id: String,
    /// `failed`, `verdict`, `prompt` or `answer`.
    pub kind: &'static str,
    /// Verdicts and failures: those of the live version and the candidate.
    pub detail: Option<[String; 2]>,
    /// Prompts and answers: the first byte that differs.
    pub at_byte: Option<usize>,
    /// Prompts and answers: bytes of both.
    pub bytes: Option<[usize; 2]>,
}

/// How the candidate did with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Compared {
    Same,
    Different(Sample),
    Skipped,
}

/// What one version has done since the trial began.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tally {
    /// Requests in which it was called.
    pub requests: u64,
    /// Those in which it failed.
    pub failures: u64,
    /// The share of them; 0 without requests.
    pub failure_rate: f64,
    /// Those in which it ran out of time.
    pub deadlines: u64,
    /// Microseconds of all its calls for one request: half take longer.
    pub p50_us: f64,
    /// One in twenty takes longer.
    pub p95_us: f64,
    /// One in a hundred takes longer.
    pub p99_us: f64,
}

impl Watched {
    /// From now on.
    pub(crate) fn new(ledger: &Ledger, live: &PluginId, candidate: &PluginId) -> Self {
        let before = [live, candidate].map(|id| ledger.version(&id.name, &id.digest));
        Self {
            live: live.clone(),
            candidate: candidate.clone(),
            since: Instant::now(),
            before,
            comparison: Mutex::default(),
        }
    }

    /// Whether it watches these two.
    pub(crate) fn is_of(&self, live: &PluginId, candidate: &PluginId) -> bool {
        (&self.live, &self.candidate) == (live, candidate)
    }

    /// The version whose conduct decides.
    pub(crate) fn candidate(&self) -> &PluginId {
        &self.candidate
    }

    /// How long it has been watched.
    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// What the live version and the candidate have done since.
    pub(crate) fn totals(&self, ledger: &Ledger) -> [Totals; 2] {
        let [live, candidate] = self.before.clone();
        [
            ledger.version(&self.live.name, &self.live.digest) - live,
            ledger.version(&self.candidate.name, &self.candidate.digest) - candidate,
        ]
    }

    /// What the live version had done before: all that there is to hold its successor against.
    pub(crate) fn before_live(&self) -> &Totals {
        &self.before[0]
    }

    pub(crate) fn compared(&self, compared: Compared) {
        let mut comparison = self.comparison();
        match compared {
            Compared::Skipped => comparison.skipped += 1,
            Compared::Same => {
                comparison.compared += 1;
                comparison.same += 1;
            }
            Compared::Different(sample) => {
                comparison.compared += 1;
                let differ = &mut comparison.differ;
                match sample.kind {
                    "failed" => differ.failed += 1,
                    "verdict" => differ.verdict += 1,
                    "prompt" => differ.prompt += 1,
                    _ => differ.answer += 1,
                }
                if comparison.samples.len() == MAX_SAMPLES {
                    comparison.samples.pop_front();
                }
                comparison.samples.push_back(sample);
            }
        }
    }

    /// How far they differ so far.
    pub(crate) fn comparison(&self) -> MutexGuard<'_, Comparison> {
        self.comparison
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sample {
    /// Texts that are not the same.
    pub(crate) fn of_texts(request_id: &str, kind: &'static str, live: &str, other: &str) -> Self {
        let pairs = live.bytes().zip(other.bytes());
        let common = pairs.take_while(|(one, other)| one == other).count();
        Self {
            request_id: request_id.to_owned(),
            kind,
            detail: None,
            at_byte: Some(common),
            bytes: Some([live.len(), other.len()]),
        }
    }

    /// Decisions that are not the same.
    pub(crate) fn of_words(request_id: &str, kind: &'static str, live: &str, other: &str) -> Self {
        Self {
            request_id: request_id.to_owned(),
            kind,
            detail: Some([live, other].map(str::to_owned)),
            at_byte: None,
            bytes: None,
        }
    }
}

impl From<&Totals> for Tally {
    fn from(totals: &Totals) -> Self {
        let us = |q| {
            let time = totals.latency.quantile(q).unwrap_or_default();
            // With one digit after the point.
            (time.as_secs_f64() * 1e7).round() / 10.0
        };
        Self {
            requests: totals.requests,
            failures: totals.failed,
            failure_rate: rate(totals.failed, totals.requests),
            deadlines: totals.deadlines,
            p50_us: us(0.5),
            p95_us: us(0.95),
            p99_us: us(0.99),
        }
    }
}

/// The share of `some` in `all`; 0 of nothing.
pub(crate) fn rate(some: u64, all: u64) -> f64 {
    if all == 0 {
        0.0
    } else {
        some as f64 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digest: &str) -> PluginId {
        PluginId {
            name: "p".to_owned(),
            version: "1.0.0".to_owned(),
            digest: digest.to_owned(),
        }
    }

    #[test]
    fn differences_are_counted_by_kind_and_the_newest_remembered() {
        let watched = Watched::new(&Ledger::default(), &id("a"), &id("b"));
        watched.compared(Compared::Same);
        watched.compared(Compared::Skipped);
        for number in 0..25 {
            let id = format!("request-{number}");
            let sample = Sample::of_texts(&id, "prompt", "one two", "one three");
            watched.compared(Compared::Different(sample));
        }
        let sample = Sample::of_words("last", "verdict", "accept", "refuse");
        watched.compared(Compared::Different(sample));
        let found = watched.comparison().clone();
        assert_eq!((found.compared, found.same, found.skipped), (27, 1, 1));
        assert_eq!((found.differ.prompt, found.differ.verdict), (25, 1));
        assert_eq!(found.samples.len(), MAX_SAMPLES);
        assert_eq!(found.samples[0].request_id, "request-6");
        let prompt = &found.samples[0];
        assert_eq!((prompt.at_byte, prompt.bytes), (Some(5), Some([7, 9])));
    }
}
