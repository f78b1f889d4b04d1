//! Scrapes a registry in which everything has happened once, and reads it back.

use std::{collections::HashMap, sync::Arc, time::Duration};

use gapura_engine::Usage;

use tokio_util::task::TaskTracker;

use gapura_plugin_runtime::{
    CallObserver as _, FailureKind, FailurePolicy, GuestCall, Outcome, PluginId, PluginValues as _,
    Refusal, Stage,
};

use super::*;
use crate::error::ApiError;
use crate::telemetry::RequestRecord;
use crate::telemetry::ledger::Asked;

/// The samples of an exposition by name and labels.
fn parse(text: &str) -> HashMap<&str, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            (series, value.parse().expect("a value is a number"))
        })
        .collect()
}

fn record(metrics: &Arc<Metrics>, request_id: &str) -> RequestRecord {
    let under_way = TaskTracker::new().token();
    RequestRecord::new(Arc::clone(metrics), under_way, "chat", request_id)
}

fn busy() -> Arc<Metrics> {
    let metrics = Arc::new(Metrics::new());
    let mut record = record(&metrics, "req-1");
    record.routed("support", "guard@1.0.0+ab12cd,chatml@0.1.0+ef0123");
    record.tokenized(Duration::from_micros(50));
    record.detokenized(Duration::from_micros(20));
    record.prompted(12);
    record.generated(11);
    record.answered(
        Usage {
            prompt_tokens: 12,
            completion_tokens: 11,
            decode_time: Duration::from_secs(1),
            ..Usage::default()
        },
        "stop",
    );
    record.ended(Ok(()));
    drop(record);
    metrics.plugins_serving([["support", "guard", "1.0.0", "sha256:ab"]].into_iter());
    let guard = PluginId {
        name: "guard".to_owned(),
        version: "1.0.0".to_owned(),
        digest: "ab".repeat(32),
    };
    metrics.add(&guard, "support", "seen", 1);
    metrics.observe(&guard, "support", "share", 0.5);
    metrics.add(&guard, "support", "No Name", 1);
    let ledger = metrics.ledger();
    let tally = ledger.tally(&[ledger.account("support", &guard)].into());
    for (outcome, micros) in [
        (Outcome::Refused, 1),
        (Outcome::Failed(FailureKind::Trap), 9),
    ] {
        tally.observe(&GuestCall {
            plugin: &guard,
            route: "support",
            stage: Stage::Validate,
            function: "validate",
            outcome,
            duration: Duration::from_micros(micros),
            memory_bytes: 65_536,
            fuel: None,
        });
    }
    tally.observe(&GuestCall {
        plugin: &guard,
        route: "support",
        stage: Stage::Validate,
        function: "instantiate",
        outcome: Outcome::Answered,
        duration: Duration::from_micros(5),
        memory_bytes: 65_536,
        fuel: None,
    });
    tally.reused(&guard);
    tally.reused(&guard);
    tally.recycled(&guard);
    tally.fell_back(&guard, Stage::Validate, &FailurePolicy::Previous);
    tally.breaker_opened(&guard, Stage::Validate);
    metrics.breakers([(["support", "guard", "1.0.0", "sha256:ab"], true)].into_iter());
    tally.question(&guard, Asked::Answered, [12, 3]);
    drop(tally);
    metrics.plugin_http(("guard", "1.0.0"), "answered");
    metrics.swap("guard", "live");
    metrics.transition("guard", "live", "admin");
    metrics.pull("guard", "pulled");
    metrics.sources(&[["guard", "live", "current"].map(str::to_owned)]);
    metrics.reload("refused");
    metrics
}

#[test]
fn every_named_series_is_scraped() {
    let text = busy().scrape(&EngineGauges::default());
    for name in names::ALL {
        assert!(
            text.contains(&format!("# TYPE {} ", name.name)),
            "{} is missing",
            name.name
        );
    }
    assert!(text.contains("process_resident_memory_bytes"));
}

#[test]
fn a_request_is_counted_once_with_its_tokens_and_times() {
    let text = busy().scrape(&EngineGauges::default());
    let samples = parse(&text);
    let labels = "gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"gapura\"";
    assert_eq!(
        samples["http_requests_total{endpoint=\"chat\",route=\"support\",status=\"200\"}"],
        1.0
    );
    assert_eq!(samples["inference_duration_seconds_count"], 1.0);
    assert_eq!(samples["tokens_per_second_sum"], 10.0);
    let usage = format!("gen_ai_client_token_usage_sum{{{labels},gen_ai_token_type=\"input\"}}");
    assert_eq!(samples[usage.as_str()], 12.0);
    let first = format!("gen_ai_server_time_to_first_token_seconds_count{{{labels}}}");
    assert_eq!(samples[first.as_str()], 1.0);
}

#[test]
fn the_ledger_is_scraped_by_version_route_and_stage() {
    let text = busy().scrape(&EngineGauges::default());
    let samples = parse(&text);
    let sample = |name: &str, before: &str, after: &str| {
        let plugin = "plugin=\"guard\",route=\"support\"";
        samples[&*format!("{name}{{digest=\"ababab\",{before}{plugin}{after}}}")]
    };
    let staged = ",stage=\"validate\",version=\"1.0.0\"";
    let version = ",version=\"1.0.0\"";
    for (name, before, after, value) in [
        ("gapura_plugin_calls_total", "", staged, 2.0),
        ("gapura_plugin_refusals_total", "", staged, 1.0),
        (
            "gapura_plugin_failures_total",
            "kind=\"trap\",",
            staged,
            1.0,
        ),
        ("gapura_plugin_breaker_openings_total", "", staged, 1.0),
        ("gapura_plugin_duration_seconds_count", "", staged, 2.0),
        ("gapura_plugin_requests_total", "", version, 1.0),
        (
            "gapura_plugin_request_duration_seconds_sum",
            "",
            version,
            1.5e-5,
        ),
        ("gapura_plugin_memory_bytes", "", version, 65_536.0),
        ("gapura_plugin_held_bytes", "", version, 0.0),
        ("gapura_plugin_instances_recycled_total", "", version, 1.0),
    ] {
        assert_eq!(sample(name, before, after), value, "{name}");
    }
    for (source, count) in [("fresh", 1.0), ("reused", 2.0)] {
        let after = format!(",source=\"{source}\",version=\"1.0.0\"");
        assert_eq!(sample("gapura_plugin_instances_total", "", &after), count);
    }
    let bucket = |le: &str| {
        let after = format!("{staged},le=\"{le}\"");
        sample("gapura_plugin_duration_seconds_bucket", "", &after)
    };
    // One call took 1 µs, the other 9.
    let counts = ["0.000001024", "0.000004096", "0.000016384", "+Inf"].map(bucket);
    assert_eq!(counts, [1.0, 1.0, 2.0, 2.0]);
    let tokens = "type=\"input\",version=\"1.0.0\"";
    let tokens = format!(",{tokens}");
    assert_eq!(
        sample("gapura_plugin_model_tokens_total", "", &tokens),
        12.0
    );
}

#[test]
fn an_abandoned_request_counts_as_such_with_its_tokens_and_not_as_a_success() {
    let metrics = Arc::new(Metrics::new());
    let mut record = record(&metrics, "req-2");
    record.prompted(12);
    record.generated(3);
    drop(record);
    let text = metrics.scrape(&EngineGauges::default());
    let samples = parse(&text);
    assert_eq!(
        samples["http_requests_total{endpoint=\"chat\",route=\"\",status=\"499\"}"],
        1.0
    );
    assert_eq!(samples["inference_duration_seconds_count"], 0.0);
    let labels = "gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"gapura\"";
    let usage = format!("gen_ai_client_token_usage_sum{{{labels},gen_ai_token_type=\"output\"}}");
    assert_eq!(samples[usage.as_str()], 3.0);
}

#[test]
fn codes_that_plugins_choose_make_no_series() {
    let metrics = Arc::new(Metrics::new());
    let refused = |code: String| {
        let mut record = record(&metrics, "req-3");
        let refusal = Refusal {
            status: 422,
            code,
            message: "no".to_owned(),
            param: None,
        };
        record.ended(Err(&refusal.into()));
    };
    for number in 0..10_000 {
        refused(format!("req-{number}"));
    }
    let mut record = record(&metrics, "req-4");
    record.ended(Err(&ApiError::loading()));
    drop(record);
    let text = metrics.scrape(&EngineGauges::default());
    let samples = parse(&text);
    let series = "gen_ai_server_request_duration_seconds_count{";
    let mut counts: Vec<_> = samples
        .iter()
        .filter_map(|(name, count)| Some((name.strip_prefix(series)?, *count)))
        .collect();
    counts.sort_by(|one, other| one.0.cmp(other.0));
    let labels = |error: &str| {
        format!(
            "error_type=\"{error}\",gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"gapura\"}}"
        )
    };
    let [loading, plugins] = [labels("model_loading"), labels("plugin_refused")];
    assert_eq!(counts, [(&*loading, 1.0), (&*plugins, 10_000.0)]);
}

#[test]
fn the_engine_is_shown_as_it_is_at_the_scrape() {
    let metrics = Metrics::new();
    let gauges = EngineGauges {
        model_loaded: true,
        running: 3,
        waiting: 2,
        kv_blocks_used: [25, 10],
        kv_blocks_pinned: [3, 2],
        kv_blocks_cached: [7, 0],
        kv_blocks_total: [100, 20],
        prefix_query_tokens: 900,
        prefix_hit_tokens: 640,
        preemptions: 4,
        restarts: 1,
    };
    metrics.scrape(&gauges);
    let text = metrics.scrape(&gauges);
    let samples = parse(&text);
    assert_eq!(samples["gapura_model_loaded"], 1.0);
    assert_eq!(samples["gapura_requests_running"], 3.0);
    assert_eq!(samples["gapura_requests_waiting"], 2.0);
    assert_eq!(samples["gapura_kv_blocks_used{group=\"full\"}"], 25.0);
    assert_eq!(samples["gapura_kv_cache_usage_ratio"], 0.5);
    assert_eq!(samples["gapura_kv_blocks_pinned{group=\"windowed\"}"], 2.0);
    assert_eq!(samples["gapura_kv_blocks_cached{group=\"full\"}"], 7.0);
    assert_eq!(samples["gapura_prefix_cache_query_tokens_total"], 900.0);
    assert_eq!(samples["gapura_prefix_cache_hit_tokens_total"], 640.0);
    assert_eq!(samples["gapura_preemptions_total"], 4.0);
    assert_eq!(samples["gapura_engine_restarts_total"], 1.0);
}
