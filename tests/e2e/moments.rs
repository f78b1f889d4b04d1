//! Bad moments: a model that loads, a server that drains, a full queue, a step that fails, a
//! deadline. Each is an error in OpenAI's shape, and the server answers the next request.

use std::time::Duration;

use gapura_engine::EngineConfig;
use gapura_engine::sim::{SimFault, SimLatency, SimRunner};
use gapura_tests::{PLAIN, Server};
use serde_json::{Value, json};

use crate::expect::{CHAT, assert_alive, assert_answer, error, halo};

#[tokio::test]
async fn while_the_model_loads_lists_answer_and_chats_are_503() {
    let server = Server::loading(PLAIN, SimRunner::default(), EngineConfig::default());
    let answer = server.post(CHAT, halo()).await;
    let message = "the model is still loading";
    let expected = error(message, "server_error", Value::Null, json!("model_loading"));
    assert_answer(&answer, 503, &expected);
    assert_eq!(
        (
            answer.header("retry-after"),
            answer.header("retry-after-ms")
        ),
        ("2", "2000")
    );
    assert_eq!(server.get("/readyz").await.status, 503);
    assert_eq!(server.get("/livez").await.status, 200);
    let health = server.get("/health").await;
    assert_eq!(health.status, 503);
    assert_eq!(
        health.json(),
        json!({"status": "loading", "model_loaded": false, "version": "0.1.0", "device": null})
    );
    let models = server.get("/v1/models").await;
    assert_eq!(
        (models.status.as_u16(), &models.json()["data"][0]["id"]),
        (200, &json!("chat"))
    );
    server.load();
    assert_alive(&server).await;
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(
        server.get("/health").await.json(),
        json!({"status": "ok", "model_loaded": true, "version": "0.1.0", "device": "sim"})
    );
}

#[tokio::test]
async fn while_the_server_drains_it_is_not_ready_but_alive() {
    let server = Server::start(PLAIN, SimRunner::default());
    server.state.drain();
    let answer = server.post(CHAT, halo()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("retry-after")),
        (503, "5")
    );
    assert_eq!(answer.json()["error"]["code"], "shutting_down");
    assert_eq!(server.get("/readyz").await.status, 503);
    assert_eq!(server.get("/livez").await.status, 200);
    assert_eq!(server.get("/health").await.json()["status"], "draining");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_429_at_once() {
    let latency = SimLatency {
        per_decode_step: Duration::from_millis(20),
        ..SimLatency::default()
    };
    let runner = SimRunner::default()
        .answering("selamat pagi semua")
        .with_latency(latency);
    let limits = EngineConfig {
        max_num_seqs: 1,
        max_queued: 1,
        ..EngineConfig::default()
    };
    let server = Server::with_engine(PLAIN, runner, limits);
    let mut body = halo();
    body["n"] = json!(8);
    let answer = server.post(CHAT, body).await;
    let message = "1 requests are waiting already";
    let expected = error(
        message,
        "rate_limit_error",
        Value::Null,
        json!("overloaded"),
    );
    assert_answer(&answer, 429, &expected);
    assert_eq!(
        (
            answer.header("retry-after"),
            answer.header("retry-after-ms")
        ),
        ("1", "1000")
    );
    // Those of the eight that got in are dropped with the request.
    for _ in 0..100 {
        let stats = server.engine.stats();
        if stats.running + stats.waiting == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_alive(&server).await;
}

#[tokio::test]
async fn a_failed_step_is_500_without_details_and_costs_one_request() {
    let runner = SimRunner::default().with_faults(|step, _| {
        (step == 0).then(|| SimFault::Error("device 0x7f lost its mind".into()))
    });
    let server = Server::start(PLAIN, runner);
    let answer = server.post(CHAT, halo()).await;
    let message = "the model failed on this request";
    let expected = error(message, "server_error", Value::Null, json!("engine_error"));
    assert_answer(&answer, 500, &expected);
    assert!(answer.header("x-gapura-chain").starts_with("chatml@"));
    assert_alive(&server).await;
}

#[tokio::test]
async fn the_deadline_of_a_request_is_504_and_not_to_be_retried() {
    let latency = SimLatency {
        per_decode_step: Duration::from_millis(10),
        ..SimLatency::default()
    };
    let runner = SimRunner::default()
        .answering(&"a".repeat(1000))
        .with_latency(latency);
    let toml = format!("[server]\nrequest_timeout_seconds = 0.2\n{PLAIN}");
    let server = Server::start(&toml, runner);
    let answer = server.post(CHAT, halo()).await;
    let message = "the answer took longer than the limit of 0.2 s";
    let expected = error(
        message,
        "timeout_error",
        Value::Null,
        json!("deadline_exceeded"),
    );
    assert_answer(&answer, 504, &expected);
    assert_eq!(answer.header("x-should-retry"), "false");
}
