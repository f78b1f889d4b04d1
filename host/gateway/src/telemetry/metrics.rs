//! The registry and its series. One instance per process, shared by reference.

use std::sync::Arc;

use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

use super::ledger::{Ledger, Series};
use super::names::{self, Name};
use super::plugin_values::Values;

/// All series of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub(super) inference_duration: Histogram,
    pub(super) tokens_per_second: Histogram,
    pub(super) time_to_first_token: HistogramVec,
    pub(super) time_per_output_token: HistogramVec,
    pub(super) request_duration: HistogramVec,
    pub(super) token_usage: HistogramVec,
    pub(super) tokenization: Histogram,
    pub(super) queue: Histogram,
    pub(super) prefill: Histogram,
    pub(super) decode: Histogram,
    pub(super) detokenization: Histogram,
    requests_running: IntGauge,
    requests_waiting: IntGauge,
    kv_blocks_used: IntGaugeVec,
    kv_blocks_total: IntGaugeVec,
    kv_blocks_pinned: IntGaugeVec,
    kv_blocks_cached: IntGaugeVec,
    kv_usage: Gauge,
    prefix_query_tokens: IntCounter,
    prefix_hit_tokens: IntCounter,
    preemptions: IntCounter,
    restarts: IntCounter,
    model_loaded: IntGauge,
    plugin_info: IntGaugeVec,
    plugin_breaker_open: IntGaugeVec,
    ledger: Arc<Ledger>,
    plugin_http: IntCounterVec,
    pub(super) values: Values,
    observations_dropped: IntCounter,
    swaps: IntCounterVec,
    transitions: IntCounterVec,
    pulls: IntCounterVec,
    sources: IntGaugeVec,
    reloads: IntCounterVec,
    http_requests: IntCounterVec,
}

/// The engine's state at the moment of a scrape.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EngineGauges {
    /// The model answers.
    pub model_loaded: bool,
    /// Sequences being computed.
    pub running: usize,
    /// Sequences waiting.
    pub waiting: usize,
    /// Blocks in use: full group, windowed group.
    pub kv_blocks_used: [usize; 2],
    /// Blocks kept for templates alone: full group, windowed group.
    pub kv_blocks_pinned: [usize; 2],
    /// Blocks kept in case: full group, windowed group.
    pub kv_blocks_cached: [usize; 2],
    /// Blocks that there are: full group, windowed group.
    pub kv_blocks_total: [usize; 2],
    /// Prompt tokens of admitted requests since the start.
    pub prefix_query_tokens: u64,
    /// Those of them that were there already.
    pub prefix_hit_tokens: u64,
    /// Since the start.
    pub preemptions: u64,
    /// Since the start.
    pub restarts: u64,
}

/// The labels that OpenTelemetry requires on every `gen_ai` series.
const GEN_AI: [&str; 2] = ["gen_ai_operation_name", "gen_ai_provider_name"];
/// `gen_ai.provider.name` has no value for models that a server runs itself.
pub(super) const PROVIDER: &str = "gapura";

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with every series and those of the process.
    pub fn new() -> Self {
        let registry = Registry::new();
        let ledger = Arc::<Ledger>::default();
        let series = Series::new(Arc::clone(&ledger));
        registry.register(Box::new(series)).expect(VALID);
        let seconds = names::SHORT_BUCKETS;
        let metrics = Self {
            inference_duration: histogram(
                &registry,
                names::INFERENCE_DURATION,
                names::DURATION_BUCKETS,
            ),
            tokens_per_second: histogram(&registry, names::TOKENS_PER_SECOND, names::RATE_BUCKETS),
            time_to_first_token: histograms(
                &registry,
                names::TIME_TO_FIRST_TOKEN,
                names::FIRST_TOKEN_BUCKETS,
                &GEN_AI,
            ),
            time_per_output_token: histograms(
                &registry,
                names::TIME_PER_OUTPUT_TOKEN,
                names::PER_TOKEN_BUCKETS,
                &GEN_AI,
            ),
            request_duration: histograms(
                &registry,
                names::REQUEST_DURATION,
                names::DURATION_BUCKETS,
                &[GEN_AI[0], GEN_AI[1], "error_type"],
            ),
            token_usage: histograms(
                &registry,
                names::TOKEN_USAGE,
                names::TOKEN_BUCKETS,
                &[GEN_AI[0], GEN_AI[1], "gen_ai_token_type"],
            ),
            tokenization: histogram(&registry, names::TOKENIZATION, seconds),
            queue: histogram(&registry, names::QUEUE, names::FIRST_TOKEN_BUCKETS),
            prefill: histogram(&registry, names::PREFILL, names::FIRST_TOKEN_BUCKETS),
            decode: histogram(&registry, names::DECODE, names::DURATION_BUCKETS),
            detokenization: histogram(&registry, names::DETOKENIZATION, seconds),
            requests_running: registered(&registry, int_gauge(names::REQUESTS_RUNNING)),
            requests_waiting: registered(&registry, int_gauge(names::REQUESTS_WAITING)),
            kv_blocks_used: int_gauges(&registry, names::KV_BLOCKS_USED, &["group"]),
            kv_blocks_total: int_gauges(&registry, names::KV_BLOCKS_TOTAL, &["group"]),
            kv_blocks_pinned: int_gauges(&registry, names::KV_BLOCKS_PINNED, &["group"]),
            kv_blocks_cached: int_gauges(&registry, names::KV_BLOCKS_CACHED, &["group"]),
            prefix_query_tokens: counter(&registry, names::PREFIX_QUERY_TOKENS),
            prefix_hit_tokens: counter(&registry, names::PREFIX_HIT_TOKENS),
            kv_usage: registered(
                &registry,
                Gauge::with_opts(opts(names::KV_USAGE)).expect(VALID),
            ),
            preemptions: counter(&registry, names::PREEMPTIONS),
            restarts: counter(&registry, names::RESTARTS),
            model_loaded: registered(&registry, int_gauge(names::MODEL_LOADED)),
            plugin_info: int_gauges(
                &registry,
                names::PLUGIN_INFO,
                &["route", "plugin", "version", "digest"],
            ),
            plugin_breaker_open: int_gauges(
                &registry,
                names::PLUGIN_BREAKER_OPEN,
                &["route", "plugin", "version", "digest"],
            ),
            ledger: Arc::clone(&ledger),
            plugin_http: counters(
                &registry,
                names::PLUGIN_HTTP,
                &["plugin", "version", "outcome"],
            ),
            values: Values::new(&registry),
            observations_dropped: counter(&registry, names::OBSERVATIONS_DROPPED),
            swaps: counters(&registry, names::SWAPS, &["plugin", "outcome"]),
            transitions: counters(
                &registry,
                names::TRANSITIONS,
                &["plugin", "state", "origin"],
            ),
            pulls: counters(&registry, names::PULLS, &["plugin", "outcome"]),
            sources: int_gauges(&registry, names::SOURCES, &["plugin", "role", "state"]),
            reloads: counters(&registry, names::RELOADS, &["outcome"]),
            http_requests: counters(
                &registry,
                names::HTTP_REQUESTS,
                &["endpoint", "route", "status"],
            ),
            registry,
        };
        metrics
            .registry
            .register(Box::new(
                prometheus::process_collector::ProcessCollector::for_self(),
            ))
            .expect("process series are registered once");
        metrics
    }

    /// The text format 0.0.4 of all series, with the engine's state as it is now.
    pub fn scrape(&self, engine: &EngineGauges) -> String {
        self.model_loaded.set(engine.model_loaded.into());
        self.requests_running.set(engine.running as i64);
        self.requests_waiting.set(engine.waiting as i64);
        for (index, group) in ["full", "windowed"].into_iter().enumerate() {
            for (gauge, blocks) in [
                (&self.kv_blocks_used, engine.kv_blocks_used),
                (&self.kv_blocks_pinned, engine.kv_blocks_pinned),
                (&self.kv_blocks_cached, engine.kv_blocks_cached),
                (&self.kv_blocks_total, engine.kv_blocks_total),
            ] {
                let blocks = blocks[index] as i64;
                gauge.with_label_values(&[group]).set(blocks);
            }
        }
        let fullest = std::iter::zip(engine.kv_blocks_used, engine.kv_blocks_total)
            .filter(|(_, total)| *total > 0)
            .map(|(used, total)| used as f64 / total as f64)
            .fold(0.0, f64::max);
        self.kv_usage.set(fullest);
        for (counter, total) in [
            (&self.preemptions, engine.preemptions),
            (&self.restarts, engine.restarts),
            (&self.prefix_query_tokens, engine.prefix_query_tokens),
            (&self.prefix_hit_tokens, engine.prefix_hit_tokens),
        ] {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("a vector takes all that is written");
        String::from_utf8(text).expect("the encoder writes UTF-8")
    }

    /// What plugins cost.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// One HTTP request of a plugin.
    pub fn plugin_http(&self, (plugin, version): (&str, &str), outcome: &str) {
        self.plugin_http
            .with_label_values(&[plugin, version, outcome])
            .inc();
    }

    /// Observers will not hear of an answer.
    pub fn observation_dropped(&self) {
        self.observations_dropped.inc();
    }

    /// The plugin versions that serve now: route, plugin, version, digest.
    pub fn plugins_serving<'a>(&self, serving: impl Iterator<Item = [&'a str; 4]>) {
        self.plugin_info.reset();
        for labels in serving {
            self.plugin_info.with_label_values(&labels).set(1);
        }
    }

    /// The circuit breakers of the plugins that serve now: route, plugin, version, digest, and
    /// whether it is open or half-open.
    pub fn breakers<'a>(&self, breakers: impl Iterator<Item = ([&'a str; 4], bool)>) {
        self.plugin_breaker_open.reset();
        for (labels, is_open) in breakers {
            let gauge = self.plugin_breaker_open.with_label_values(&labels);
            gauge.set(is_open.into());
        }
    }

    /// A plugin changed, or was refused.
    pub fn swap(&self, plugin: &str, outcome: &str) {
        self.swaps.with_label_values(&[plugin, outcome]).inc();
    }

    /// A version of a plugin has come to `state`, by the doing of `origin`.
    pub fn transition(&self, plugin: &str, state: &str, origin: &str) {
        self.transitions
            .with_label_values(&[plugin, state, origin])
            .inc();
    }

    /// A registry was asked for a plugin.
    pub fn pull(&self, plugin: &str, outcome: &str) {
        self.pulls.with_label_values(&[plugin, outcome]).inc();
    }

    /// How the versions stand that the configuration names by reference: plugin, role, state.
    pub fn sources(&self, sources: &[[String; 3]]) {
        self.sources.reset();
        for labels in sources {
            self.sources.with_label_values(labels).set(1);
        }
    }

    /// The configuration was read again.
    pub fn reload(&self, outcome: &str) {
        self.reloads.with_label_values(&[outcome]).inc();
    }

    /// One HTTP answer. `route` is empty where none was chosen.
    pub fn http_request(&self, endpoint: &str, route: &str, status: u16) {
        self.http_requests
            .with_label_values(&[endpoint, route, &status.to_string()])
            .inc();
    }
}

const VALID: &str = "names, help texts and buckets are constants that the tests register";

fn opts(name: Name) -> Opts {
    Opts::new(name.name, name.help)
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect(VALID);
    collector
}

fn int_gauge(name: Name) -> IntGauge {
    IntGauge::with_opts(opts(name)).expect(VALID)
}

fn int_gauges(registry: &Registry, name: Name, labels: &[&str]) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(opts(name), labels).expect(VALID))
}

fn counter(registry: &Registry, name: Name) -> IntCounter {
    registered(registry, IntCounter::with_opts(opts(name)).expect(VALID))
}

pub(super) fn counters(registry: &Registry, name: Name, labels: &[&str]) -> IntCounterVec {
    registered(
        registry,
        IntCounterVec::new(opts(name), labels).expect(VALID),
    )
}

fn histogram(registry: &Registry, name: Name, buckets: &[f64]) -> Histogram {
    let opts = HistogramOpts::new(name.name, name.help).buckets(buckets.to_vec());
    registered(registry, Histogram::with_opts(opts).expect(VALID))
}

pub(super) fn histograms(
    registry: &Registry,
    name: Name,
    buckets: &[f64],
    labels: &[&str],
) -> HistogramVec {
    let opts = HistogramOpts::new(name.name, name.help).buckets(buckets.to_vec());
    registered(registry, HistogramVec::new(opts, labels).expect(VALID))
}

#[cfg(test)]
mod tests;
