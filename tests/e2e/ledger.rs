//! What plugins cost: in the administration API, in the metrics of a version, and in the answer to
//! whoever asks.

use axum::body::Body;
use axum::http::Request;
use gapura::config::Digest;
use gapura_engine::sim::SimRunner;
use gapura_test_guests as guests;
use gapura_tests::{Answer, Server, post};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const TOKEN: &str = "admin-of-the-tests";

/// `verdicts` does what the model's name says; `brackets` works on every delta.
fn routes(more: &str) -> String {
    format!(
        "{more}[admin]\ntoken_sha256 = '{}'\n[[routes]]\nname = 'chat'\n\
         aliases = ['accept', 'refuse']\nplugins = [{{ plugin = 'verdicts' }}, {{ plugin = 'chatml' }}, {{ plugin = 'brackets' }}]\n",
        Digest::of(TOKEN.as_bytes())
    )
}

fn server(more: &str) -> Server {
    let plugins = [
        ("verdicts", guests::VERDICTS),
        ("brackets", guests::BRACKETS),
    ];
    let runner = SimRunner::default().answering("ya");
    Server::with_plugins(&routes(more), runner, &plugins)
}

fn chat(model: &str, stream: bool) -> Value {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "halo"}]})
}

async fn timed(server: &Server, body: Value, timing: &str) -> Answer {
    let mut request = post(CHAT, body.to_string());
    let value = timing.parse().expect("a header's value");
    request.headers_mut().insert("x-gapura-timing", value);
    server.send(request).await
}

async fn plugin(server: &Server, name: &str) -> Value {
    let request = Request::builder()
        .uri(format!("/admin/v1/plugins/{name}"))
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(Body::empty())
        .expect("a right request");
    server.send(request).await.json()
}

/// The metrics of a `Server-Timing` value: name, description, milliseconds.
fn metrics(value: &str) -> Vec<(String, String, f64)> {
    let metric = |text: &str| {
        let (name, rest) = text.split_once(';').expect("a metric has parameters");
        let (desc, dur) = match rest.strip_prefix("desc=\"") {
            Some(rest) => rest.split_once("\";").expect("the description ends"),
            None => ("", rest),
        };
        let dur = dur.strip_prefix("dur=").expect("a duration");
        let dur = dur.parse().expect("a number of milliseconds");
        (name.to_owned(), desc.to_owned(), dur)
    };
    value.split(", ").map(metric).collect()
}

/// The metrics' names, with the plugin and stage of those of plugins.
fn named(metrics: &[(String, String, f64)]) -> Vec<String> {
    let name = |(name, desc, _): &(String, String, f64)| match desc.split_once('@') {
        Some((plugin, rest)) => {
            let (_, stage) = rest.split_once(' ').expect("label and stage");
            format!("{plugin} {stage}")
        }
        None => name.clone(),
    };
    metrics.iter().map(name).collect()
}

#[tokio::test]
async fn the_administration_says_what_each_version_has_cost() {
    let server = server("");
    for _ in 0..3 {
        assert_eq!(server.post(CHAT, chat("accept", false)).await.status, 200);
    }
    let brackets = plugin(&server, "brackets").await;
    let [account] = &brackets["ledger"].as_array().expect("accounts")[..] else {
        panic!("one version on one route: {brackets}");
    };
    assert_eq!(account["digest"], brackets["digest"]);
    assert_eq!(account["route"], "chat");
    assert_eq!(account["requests"], 3);
    assert_eq!(account["failed"], 0);
    assert_eq!(account["memory_bytes"], 131_072);
    // A processor, `y`, `a` and the end.
    assert_eq!(account["stages"]["respond"]["calls"], 3 * 4);
    assert!(account["stages"]["validate"].is_null());
    let us = |account: &Value, name: &str| account["request"][name].as_f64().expect("a number");
    assert!(us(account, "p50_us") > 0.0);
    assert!(us(account, "p99_us") >= us(account, "p50_us"));
    assert!(us(account, "total_us") >= us(account, "p50_us"));
    // Another version gets an account of its own; the old one's stays.
    let mut padded = guests::BRACKETS.to_vec();
    gapura_plugin_runtime::add_custom_section(&mut padded, "padding", b"1");
    server
        .controller
        .push("brackets", &padded, gapura::controller::Until::Live)
        .expect("a right plugin");
    server.post(CHAT, chat("accept", false)).await;
    let brackets = plugin(&server, "brackets").await;
    let ledger = brackets["ledger"].as_array().expect("accounts").iter();
    let mut requests: Vec<_> = ledger
        .map(|of| (of["digest"] == brackets["digest"], of["requests"].as_u64()))
        .collect();
    requests.sort_unstable();
    assert_eq!(requests, [(false, Some(3)), (true, Some(1))]);
}

#[tokio::test]
async fn nothing_is_measured_where_the_ledger_is_off() {
    let server = server("ledger = false\n");
    assert_eq!(server.post(CHAT, chat("accept", false)).await.status, 200);
    assert_eq!(plugin(&server, "brackets").await["ledger"], json!([]));
    assert!(
        !server
            .get("/metrics")
            .await
            .text()
            .contains("gapura_plugin_calls_total{")
    );
    // Whoever asks for the times of one request gets them all the same.
    let answer = timed(&server, chat("accept", false), "1").await;
    assert!(answer.header("server-timing").contains("brackets@"));
    assert_eq!(plugin(&server, "brackets").await["ledger"], json!([]));
}

#[tokio::test]
async fn a_whole_answer_says_where_all_of_its_time_went() {
    let server = server("");
    let answer = timed(&server, chat("accept", false), "1").await;
    assert_eq!(answer.status, 200);
    let metrics = metrics(answer.header("server-timing"));
    let expected = [
        "queue",
        "tokenize",
        "verdicts validate",
        "chatml render",
        "brackets respond",
        "prefill",
        "decode",
        "detokenize",
        "total",
    ];
    assert_eq!(named(&metrics), expected);
    let (total, parts) = metrics.split_last().expect("there are some");
    assert!(parts.iter().all(|(.., ms)| *ms <= total.2), "{metrics:?}");
    let silent = timed(&server, chat("accept", false), "0").await;
    assert_eq!(silent.header("server-timing"), "");
    let wrong = timed(&server, chat("accept", false), "yes").await;
    assert_eq!(wrong.status, 400);
    assert_eq!(wrong.json()["error"]["param"], "x-gapura-timing");
}

#[tokio::test]
async fn a_stream_says_at_its_head_what_is_known_and_the_rest_in_a_comment_before_its_end() {
    let server = server("");
    let answer = timed(&server, chat("accept", true), "1").await;
    let head = named(&metrics(answer.header("server-timing")));
    assert_eq!(
        head,
        ["tokenize", "verdicts validate", "chatml render", "total"]
    );
    // Clients that know of no comments read the stream as ever.
    assert_eq!(answer.streamed_text(0), "[y][a]|");
    let frames: Vec<&str> = answer.text().trim_end().split("\n\n").collect();
    let [.., comment, done] = frames[..] else {
        panic!("a stream has frames: {}", answer.text());
    };
    assert_eq!(done, "data: [DONE]");
    let timing = comment.strip_prefix(": server-timing: ");
    let metrics = metrics(timing.unwrap_or_else(|| panic!("no comment: {comment}")));
    assert_eq!(named(&metrics).len(), 9);
    let plain = server.post(CHAT, chat("accept", true)).await;
    assert!(!plain.text().contains("server-timing"));
}

#[tokio::test]
async fn a_refusal_says_what_the_refusing_plugin_took() {
    let server = server("");
    let answer = timed(&server, chat("refuse", false), "1").await;
    assert!(answer.status.is_client_error(), "{}", answer.text());
    let metrics = metrics(answer.header("server-timing"));
    assert_eq!(named(&metrics), ["verdicts validate", "total"]);
    let verdicts = plugin(&server, "verdicts").await;
    assert_eq!(verdicts["ledger"][0]["stages"]["validate"]["refusals"], 1);
}
