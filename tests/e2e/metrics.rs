//! `/metrics` after real requests: every figure counted once, and nothing left of those that
//! were dropped.

use std::collections::HashMap;
use std::time::Duration;

use gapura_engine::sim::{SimLatency, SimRunner};
use gapura_tests::{PLAIN, Server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
/// Of `halo` as ChatML renders it for the simulated model.
const PROMPT_TOKENS: f64 = 23.0;

fn halo(more: Value) -> Value {
    let mut body = json!({"model": "chat", "messages": [{"role": "user", "content": "halo"}]});
    for (name, value) in more.as_object().expect("an object of fields") {
        body[name] = value.clone();
    }
    body
}

/// The samples by name and labels.
async fn scrape(server: &Server) -> HashMap<String, f64> {
    let answer = server.get("/metrics").await;
    let samples = answer.text().lines().filter(|line| !line.starts_with('#'));
    let parsed = samples.map(|line| {
        let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
        (
            series.to_owned(),
            value.parse().expect("a value is a number"),
        )
    });
    parsed.collect()
}

#[track_caller]
fn assert_samples(samples: &HashMap<String, f64>, expected: &[(&str, f64)]) {
    for (series, value) in expected {
        assert_eq!(samples.get(*series), Some(value), "{series}");
    }
}

#[tokio::test]
async fn three_requests_are_counted_with_their_tokens_and_times() {
    let latency = SimLatency {
        per_decode_step: Duration::from_millis(1),
        ..SimLatency::default()
    };
    let runner = SimRunner::default().answering("ya").with_latency(latency);
    let server = Server::start(PLAIN, runner);
    assert_eq!(server.post(CHAT, halo(json!({}))).await.status, 200);
    let stream = server.post(CHAT, halo(json!({"stream": true}))).await;
    assert_eq!(stream.streamed_text(0), "ya");
    let bad = server.post(CHAT, halo(json!({"temperature": 3}))).await;
    assert_eq!(bad.status, 400);

    let samples = scrape(&server).await;
    let gen_ai = "gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"gapura\"";
    let tokens = |what: &str, kind: &str| {
        format!("gen_ai_client_token_usage_{what}{{{gen_ai},gen_ai_token_type=\"{kind}\"}}")
    };
    assert_samples(
        &samples,
        &[
            (
                "http_requests_total{endpoint=\"chat\",route=\"chat\",status=\"200\"}",
                2.0,
            ),
            (
                "http_requests_total{endpoint=\"chat\",route=\"\",status=\"400\"}",
                1.0,
            ),
            ("inference_duration_seconds_count", 2.0),
            ("tokens_per_second_count", 2.0),
            ("tokenization_duration_seconds_count", 2.0),
            ("detokenization_duration_seconds_count", 2.0),
            ("queue_duration_seconds_count", 2.0),
            ("prefill_duration_seconds_count", 2.0),
            ("decode_duration_seconds_count", 2.0),
            (
                &format!("gen_ai_server_time_to_first_token_seconds_count{{{gen_ai}}}"),
                2.0,
            ),
            (
                &format!("gen_ai_server_time_per_output_token_seconds_count{{{gen_ai}}}"),
                2.0,
            ),
            // `y`, `a` and the end-of-sequence token.
            (&tokens("sum", "output"), 2.0 * 3.0),
            (&tokens("count", "output"), 2.0),
            (&tokens("sum", "input"), 2.0 * PROMPT_TOKENS),
            ("gapura_model_loaded", 1.0),
        ],
    );
    // Two steps of at least 1 ms decode an answer, so at most 1,000 tokens come in a second.
    assert!(samples["decode_duration_seconds_sum"] >= 2.0 * 0.002);
    assert!(samples["tokens_per_second_sum"] <= 2.0 * 1000.0);
    assert!(samples["inference_duration_seconds_sum"] >= samples["decode_duration_seconds_sum"]);
    assert!(samples["detokenization_duration_seconds_sum"] > 0.0);
    let plugin = |series: &&String| {
        series.starts_with("gapura_plugin_calls_total{")
            && series.contains("plugin=\"chatml\",route=\"chat\"")
            && series.contains("stage=\"render\"")
    };
    let calls = samples
        .keys()
        .find(plugin)
        .expect("the template was called");
    assert_eq!(samples[calls], 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_rise_with_requests_and_return_to_zero_after_aborts() {
    const GAUGES: [&str; 5] = [
        "gapura_requests_running",
        "gapura_requests_waiting",
        "gapura_kv_blocks_used{group=\"full\"}",
        "gapura_kv_blocks_used{group=\"windowed\"}",
        "gapura_kv_cache_usage_ratio",
    ];
    let latency = SimLatency {
        per_decode_step: Duration::from_millis(5),
        ..SimLatency::default()
    };
    let runner = SimRunner::default()
        .answering(&"a".repeat(4000))
        .with_latency(latency);
    let server = Server::start(PLAIN, runner);
    let body = halo(json!({"stream": true}));
    let clients = futures_util::future::join_all((0..8).map(|_| server.post(CHAT, body.clone())));
    let watch = async {
        loop {
            let samples = scrape(&server).await;
            if samples[GAUGES[0]] == 8.0 {
                return samples;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let watch = tokio::time::timeout(Duration::from_secs(20), watch);
    // Dropping the losing side hangs up on all eight.
    let busy = tokio::select! {
        busy = watch => busy.expect("eight sequences run at once"),
        answers = clients => panic!("4,000 steps of 5 ms are over: {}", answers.len()),
    };
    assert!(busy[GAUGES[2]] >= 8.0, "each sequence holds a block");
    assert!(busy[GAUGES[4]] > 0.0);
    let abandoned = "http_requests_total{endpoint=\"chat\",route=\"chat\",status=\"499\"}";
    let idle = async {
        loop {
            let samples = scrape(&server).await;
            let is_idle = GAUGES.iter().all(|gauge| samples[*gauge] == 0.0);
            if is_idle && samples.get(abandoned) == Some(&8.0) {
                return samples;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let idle = tokio::time::timeout(Duration::from_secs(20), idle).await;
    let samples = idle.expect("nothing is left of requests that nobody waits for");
    assert_eq!(samples["inference_duration_seconds_count"], 0.0);
    // They were computed, so they are counted.
    let input = "gen_ai_client_token_usage_sum{gen_ai_operation_name=\"chat\",\
        gen_ai_provider_name=\"gapura\",gen_ai_token_type=\"input\"}";
    assert_eq!(samples[input], 8.0 * PROMPT_TOKENS);
}
