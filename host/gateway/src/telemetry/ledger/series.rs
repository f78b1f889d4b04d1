//! The ledger as Prometheus reads it, made of the accounts when it is scraped.

use std::collections::HashMap;
use std::sync::Arc;

use gapura_plugin_runtime::{FailureKind, Stage};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::Ledger;
use super::account::{Account, Asked, FALLBACKS, SOURCES};
use super::histogram::Snapshot;
use crate::telemetry::names::{self, Name};

/// The bounds of the buckets are 2^10 to 2^30 nanoseconds, each four times the one before: 1.024 µs
/// to 1.07 s. The ledger counts exactly at powers of two.
const OCTAVES: std::ops::RangeInclusive<u32> = 10..=30;

/// Labels of every series, in the order of the alphabet as the others are.
const LABELS: [&str; 4] = ["digest", "plugin", "route", "version"];

/// Makes the series of a ledger.
pub(in crate::telemetry) struct Series {
    ledger: Arc<Ledger>,
    descs: Vec<Desc>,
}

impl Series {
    pub(in crate::telemetry) fn new(ledger: Arc<Ledger>) -> Self {
        let desc = |(name, _, more): (Name, MetricType, &[&str])| {
            let labels = LABELS.iter().chain(more).map(|label| (*label).to_owned());
            let desc = Desc::new(
                name.name.to_owned(),
                name.help.to_owned(),
                labels.collect(),
                HashMap::new(),
            );
            desc.expect("names and labels are constants that a test scrapes")
        };
        Self {
            ledger,
            descs: FAMILIES.into_iter().map(desc).collect(),
        }
    }
}

const FAMILIES: [(Name, MetricType, &[&str]); 14] = [
    (names::PLUGIN_CALLS, MetricType::COUNTER, &["stage"]),
    (
        names::PLUGIN_FAILURES,
        MetricType::COUNTER,
        &["stage", "kind"],
    ),
    (
        names::PLUGIN_FALLBACKS,
        MetricType::COUNTER,
        &["stage", "policy"],
    ),
    (
        names::PLUGIN_BREAKER_OPENINGS,
        MetricType::COUNTER,
        &["stage"],
    ),
    (names::PLUGIN_REFUSALS, MetricType::COUNTER, &["stage"]),
    (names::PLUGIN_SECONDS, MetricType::HISTOGRAM, &["stage"]),
    (names::PLUGIN_REQUESTS, MetricType::COUNTER, &[]),
    (names::PLUGIN_REQUEST_SECONDS, MetricType::HISTOGRAM, &[]),
    (names::PLUGIN_MEMORY, MetricType::GAUGE, &[]),
    (names::PLUGIN_HELD, MetricType::GAUGE, &[]),
    (names::PLUGIN_INSTANCES, MetricType::COUNTER, &["source"]),
    (names::PLUGIN_RECYCLED, MetricType::COUNTER, &[]),
    (names::PLUGIN_QUESTIONS, MetricType::COUNTER, &["outcome"]),
    (
        names::PLUGIN_QUESTION_TOKENS,
        MetricType::COUNTER,
        &["type"],
    ),
];

impl Collector for Series {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut metrics: [Vec<Metric>; FAMILIES.len()] = Default::default();
        for account in self.ledger.all() {
            add(&account, &mut metrics);
        }
        let families = FAMILIES.into_iter().zip(metrics);
        let families = families.map(|((name, kind, _), metrics)| {
            let mut family = MetricFamily::default();
            family.set_name(name.name.to_owned());
            family.set_help(name.help.to_owned());
            family.set_field_type(kind);
            family.set_metric(metrics);
            family
        });
        families
            .filter(|family| !family.get_metric().is_empty())
            .collect()
    }
}

/// Series of what has not happened are left out.
fn add(account: &Account, metrics: &mut [Vec<Metric>; FAMILIES.len()]) {
    let [
        calls,
        failures,
        fallbacks,
        openings,
        refusals,
        seconds,
        requests,
        request_seconds,
        memory,
        held,
        instances,
        recycled,
        asked,
        tokens,
    ] = metrics;
    for stage in Stage::ALL {
        let of_stage = &account.stages[stage as usize];
        let of = |more: &[(&'static str, &str)]| {
            labels(account, &[&[("stage", stage.as_str())], more].concat())
        };
        for kind in FailureKind::ALL {
            let count = of_stage.failures[kind as usize].get();
            if count > 0 {
                failures.push(counter(of(&[("kind", kind.as_str())]), count));
            }
        }
        for (policy, fell_back) in FALLBACKS.iter().zip(&of_stage.fallbacks) {
            if fell_back.get() > 0 {
                fallbacks.push(counter(of(&[("policy", policy)]), fell_back.get()));
            }
        }
        let count = of_stage.breaker_openings.get();
        if count > 0 {
            openings.push(counter(of(&[]), count));
        }
        let count = of_stage.calls.get();
        if count > 0 {
            calls.push(counter(of(&[]), count));
            refusals.push(counter(of(&[]), of_stage.refusals.get()));
            seconds.push(histogram(of(&[]), &of_stage.duration.snapshot()));
        }
    }
    let of = || labels(account, &[]);
    if account.requests() > 0 {
        requests.push(counter(of(), account.requests()));
        request_seconds.push(histogram(of(), &account.totals().latency));
        let [most_memory, most_held] = account.most_bytes();
        memory.push(gauge(of(), most_memory));
        held.push(gauge(of(), most_held));
    }
    for (source, served) in SOURCES.iter().zip(&account.instances) {
        if served.get() > 0 {
            let labels = labels(account, &[("source", source)]);
            instances.push(counter(labels, served.get()));
        }
    }
    if account.recycled.get() > 0 {
        recycled.push(counter(of(), account.recycled.get()));
    }
    for outcome in Asked::ALL {
        let count = account.questions[outcome as usize].get();
        if count > 0 {
            let labels = labels(account, &[("outcome", outcome.as_str())]);
            asked.push(counter(labels, count));
        }
    }
    let has_asked = account.questions.iter().any(|count| count.get() > 0);
    if has_asked {
        for (kind, count) in ["input", "output"].iter().zip(&account.question_tokens) {
            tokens.push(counter(labels(account, &[("type", kind)]), count.get()));
        }
    }
}

fn labels(account: &Account, more: &[(&'static str, &str)]) -> Vec<LabelPair> {
    let id = &account.id;
    // As the label of the version has it.
    let digest = id.digest.get(..6).unwrap_or_default();
    let values = [digest, &id.name, &account.route, &id.version];
    let mut all: Vec<_> = LABELS
        .into_iter()
        .zip(values)
        .chain(more.iter().copied())
        .collect();
    all.sort_unstable();
    let pair = |(name, value): (&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    all.into_iter().map(pair).collect()
}

fn counter(labels: Vec<LabelPair>, count: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(count as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

fn gauge(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

fn histogram(labels: Vec<LabelPair>, snapshot: &Snapshot) -> Metric {
    let buckets = OCTAVES.step_by(2).map(|octave| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound((1_u64 << octave) as f64 / 1e9);
        bucket.set_cumulative_count(snapshot.below_octave(octave));
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(snapshot.count());
    histogram.set_sample_sum(snapshot.sum().as_secs_f64());
    let mut metric = Metric::from_label(labels);
    metric.set_histogram(histogram);
    metric
}
