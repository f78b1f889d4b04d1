//! What one version of a plugin has cost on one route.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gapura_plugin_runtime::{FailureKind, FailurePolicy, GuestCall, Outcome, PluginId, Stage};
use serde::Serialize;

use super::Totals;
use super::histogram::{Histogram, Snapshot};

/// How a plugin's question to the model ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Answered,
    Budget,
    Depth,
    Deadline,
    Overloaded,
    Invalid,
    Failed,
    GivenUp,
}

impl Asked {
    pub(super) const ALL: [Self; 8] = [
        Self::Answered,
        Self::Budget,
        Self::Depth,
        Self::Deadline,
        Self::Overloaded,
        Self::Invalid,
        Self::Failed,
        Self::GivenUp,
    ];

    /// The end as a metric label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Budget => "budget",
            Self::Depth => "depth",
            Self::Deadline => "deadline",
            Self::Overloaded => "overloaded",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
        }
    }
}

/// The failure policies by which a request goes on, as [`FailurePolicy::as_str`] says them.
pub(super) const FALLBACKS: [&str; 3] = ["open", "previous", "static"];

/// Where an instance comes from that serves a request.
pub(super) const SOURCES: [&str; 2] = ["fresh", "reused"];

/// The counts of one version on one route.
#[derive(Debug)]
pub(crate) struct Account {
    pub(super) route: String,
    pub(super) id: PluginId,
    pub(super) stages: [StageAccount; Stage::ALL.len()],
    requests: Counter,
    failed: Counter,
    deadlines: Counter,
    request: Histogram,
    memory_bytes: Counter,
    held_bytes: Counter,
    /// Instances that served a request: made for it, and used again. In the order of [`SOURCES`].
    pub(super) instances: [Counter; SOURCES.len()],
    /// Instances that were to serve again and went.
    pub(super) recycled: Counter,
    pub(super) questions: [Counter; Asked::ALL.len()],
    pub(super) question_tokens: [Counter; 2],
}

/// The calls of one stage.
#[derive(Debug, Default)]
pub(super) struct StageAccount {
    pub(super) calls: Counter,
    pub(super) refusals: Counter,
    pub(super) failures: [Counter; FailureKind::ALL.len()],
    /// Requests that went on in spite of a failure, in the order of [`FALLBACKS`].
    pub(super) fallbacks: [Counter; FALLBACKS.len()],
    pub(super) breaker_openings: Counter,
    pub(super) duration: Histogram,
}

/// Counts need no order among them.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    fn raise(&self, to: u64) {
        // Most often nothing is raised, and reading needs no cache line for itself.
        if self.get() < to {
            self.0.fetch_max(to, Ordering::Relaxed);
        }
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Account {
    pub(super) fn new(route: &str, id: &PluginId) -> Self {
        Self {
            route: route.to_owned(),
            id: id.clone(),
            stages: Default::default(),
            requests: Counter::default(),
            failed: Counter::default(),
            deadlines: Counter::default(),
            request: Histogram::default(),
            memory_bytes: Counter::default(),
            held_bytes: Counter::default(),
            instances: Default::default(),
            recycled: Counter::default(),
            questions: Default::default(),
            question_tokens: Default::default(),
        }
    }

    /// One call. Making an instance is no call of a stage, unless none comes of it: its time is
    /// part of the request's.
    pub(super) fn call(&self, call: &GuestCall<'_>) {
        self.memory_bytes.raise(call.memory_bytes);
        let is_answered = matches!(call.outcome, Outcome::Answered);
        if call.function == "instantiate" && is_answered {
            self.instances[0].add(1);
            return;
        }
        let stage = self.stage(call.stage);
        stage.calls.add(1);
        stage.duration.record(nanos(call.duration));
        match call.outcome {
            Outcome::Answered => {}
            Outcome::Refused => stage.refusals.add(1),
            Outcome::Failed(kind) => stage.failures[kind as usize].add(1),
        }
    }

    /// A failure that no call of the guest was.
    pub(super) fn failure(&self, stage: Stage, kind: FailureKind) {
        self.stage(stage).failures[kind as usize].add(1);
    }

    /// A request went on in spite of a failure.
    pub(super) fn fell_back(&self, stage: Stage, policy: &FailurePolicy) {
        let place = FALLBACKS.iter().position(|name| *name == policy.as_str());
        if let Some(place) = place {
            self.stage(stage).fallbacks[place].add(1);
        }
    }

    pub(super) fn breaker_opened(&self, stage: Stage) {
        self.stage(stage).breaker_openings.add(1);
    }

    pub(super) fn reused(&self) {
        self.instances[1].add(1);
    }

    pub(super) fn recycled(&self) {
        self.recycled.add(1);
    }

    /// One request has ended in which it was called, for `took_ns` in all.
    pub(super) fn request(&self, took_ns: u64, has_failed: bool, has_timed_out: bool) {
        self.requests.add(1);
        self.failed.add(has_failed.into());
        self.deadlines.add(has_timed_out.into());
        self.request.record(took_ns);
    }

    pub(super) fn held(&self, bytes: u64) {
        self.held_bytes.raise(bytes);
    }

    pub(super) fn question(&self, asked: Asked, tokens: [u32; 2]) {
        self.questions[asked as usize].add(1);
        for (counter, tokens) in self.question_tokens.iter().zip(tokens) {
            counter.add(tokens.into());
        }
    }

    fn stage(&self, stage: Stage) -> &StageAccount {
        &self.stages[stage as usize]
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Most bytes of linear memory of an instance, and of text that a processor held back.
    pub(super) fn most_bytes(&self) -> [u64; 2] {
        [self.memory_bytes.get(), self.held_bytes.get()]
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            requests: self.requests.get(),
            failed: self.failed.get(),
            deadlines: self.deadlines.get(),
            latency: self.request.snapshot(),
        }
    }

    pub(super) fn status(&self) -> AccountStatus {
        let totals = self.totals();
        let [memory_bytes, held_bytes] = self.most_bytes();
        let [prompt_tokens, completion_tokens] =
            [0, 1].map(|place| self.question_tokens[place].get());
        let stages = Stage::ALL.into_iter().filter_map(|stage| {
            let status = self.stage(stage).status()?;
            Some((stage.as_str(), status))
        });
        AccountStatus {
            version: self.id.version.clone(),
            digest: self.id.digest.clone(),
            route: self.route.clone(),
            requests: totals.requests,
            failed: totals.failed,
            deadlines: totals.deadlines,
            request: Times::of(&totals.latency),
            memory_bytes,
            held_bytes,
            questions: self.questions.iter().map(Counter::get).sum(),
            prompt_tokens,
            completion_tokens,
            stages: stages.collect(),
        }
    }
}

impl StageAccount {
    /// `None` where nothing has happened.
    fn status(&self) -> Option<StageStatus> {
        let failures = FailureKind::ALL
            .into_iter()
            .map(|kind| (kind.as_str(), self.failures[kind as usize].get()));
        let failures: BTreeMap<_, _> = failures.filter(|(_, count)| *count > 0).collect();
        let calls = self.calls.get();
        (calls > 0 || !failures.is_empty()).then(|| StageStatus {
            calls,
            refusals: self.refusals.get(),
            failures,
            call: Times::of(&self.duration.snapshot()),
        })
    }
}

/// What one version of a plugin has cost on one route, since it first served there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct AccountStatus {
    /// The version that its author wrote into it.
    pub(crate) version: String,
    /// SHA-256 of the component.
    pub(crate) digest: String,
    /// The route.
    pub(crate) route: String,
    /// Requests in which it was called.
    pub(crate) requests: u64,
    /// Those in which a call failed.
    pub(crate) failed: u64,
    /// Those in which a call ran out of time.
    pub(crate) deadlines: u64,
    /// All its calls for one request together, the making of instances included.
    pub(crate) request: Times,
    /// The most linear memory of an instance.
    pub(crate) memory_bytes: u64,
    /// The most text of an answer that it held back.
    pub(crate) held_bytes: u64,
    /// What it asked the model.
    pub(crate) questions: u64,
    /// Tokens of the prompts of those questions.
    pub(crate) prompt_tokens: u64,
    /// Tokens of the answers.
    pub(crate) completion_tokens: u64,
    /// Its calls, by stage; stages that were never called are missing.
    pub(crate) stages: BTreeMap<&'static str, StageStatus>,
}

/// The calls of one stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StageStatus {
    /// All of them.
    pub(crate) calls: u64,
    /// Those that refused the request or cut the answer.
    pub(crate) refusals: u64,
    /// Failures, by kind.
    pub(crate) failures: BTreeMap<&'static str, u64>,
    /// One call.
    pub(crate) call: Times,
}

/// Microseconds; 0 where nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Times {
    /// Half of them take longer.
    pub(crate) p50_us: f64,
    /// One in a hundred takes longer.
    pub(crate) p99_us: f64,
    /// All of them together.
    pub(crate) total_us: f64,
}

impl Times {
    fn of(snapshot: &Snapshot) -> Self {
        // With one digit after the point.
        let us = |time: Duration| (time.as_secs_f64() * 1e7).round() / 10.0;
        let quantile = |q| us(snapshot.quantile(q).unwrap_or_default());
        Self {
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            total_us: us(snapshot.sum()),
        }
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
