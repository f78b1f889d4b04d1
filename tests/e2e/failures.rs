//! What clients and operators see of plugins that fail: failure policies and circuit breakers.

use gapura::controller::Until;
use gapura_engine::sim::SimRunner;
use gapura_test_guests as guests;
use gapura_tests::{Answer, Server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

async fn ask(server: &Server, model: &str) -> Answer {
    let messages = json!([{"role": "user", "content": "halo"}]);
    let body = json!({"model": model, "messages": messages});
    server.post(CHAT, body).await
}

/// The content and the reason of the only answer.
fn told(answer: &Answer) -> (Value, Value) {
    let choice = &answer.json()["choices"][0];
    (
        choice["message"]["content"].clone(),
        choice["finish_reason"].clone(),
    )
}

/// The first binding of the first route, as the administration API has it.
fn binding(server: &Server) -> Value {
    let routes = serde_json::to_value(server.controller.route_statuses()).expect("it is JSON");
    routes[0]["plugins"][0].clone()
}

/// The value of the first series of the metrics that begins with `series`.
async fn metric(server: &Server, series: &str) -> Option<String> {
    let text = server.get("/metrics").await.text().to_owned();
    let line = text.lines().find(|line| line.starts_with(series))?;
    line.rsplit_once(' ').map(|(_, value)| value.to_owned())
}

#[tokio::test]
async fn a_static_answer_reads_like_any_other() {
    let toml = "[[routes]]\nname = 'fail'\nplugins = [{ plugin = 'guard', on_failure = 'static', \
                static_answer = 'Maaf.' }, { plugin = 'chatml' }, { plugin = 'brackets' }]\n\
                [[routes]]\nname = 'Template'\nplugins = [{ plugin = 'render', \
                on_failure = 'static', static_answer = 'Maaf.' }]\n\
                [[routes]]\nname = 'filter'\nplugins = [{ plugin = 'chatml' }, \
                { plugin = 'moody', on_failure = 'static', static_answer = ' maaf.' }]\n";
    let plugins = [
        ("guard", guests::VERDICTS),
        ("render", guests::RENDER),
        ("brackets", guests::BRACKETS),
        ("moody", guests::MOODY),
    ];
    let runner = SimRunner::default().answering("aku Tahu");
    let server = Server::with_plugins(toml, runner, &plugins);
    // In place of the model's answer, through the processors as a validator's would.
    let answer = ask(&server, "fail").await;
    assert_eq!(told(&answer), (json!("{Maaf.}|"), json!("stop")));
    let answer = ask(&server, "Template").await;
    assert_eq!(told(&answer), (json!("Maaf."), json!("stop")));
    assert_eq!(answer.json()["usage"]["completion_tokens"], 0);
    let body = json!({"model": "Template", "messages": [{"role": "user", "content": "halo"}]});
    let counted = server.post("/tokenize", body).await;
    assert_eq!(
        (counted.status.as_u16(), &counted.json()["error"]["code"]),
        (500, &json!("plugin_static_answer"))
    );
    // After what the model has said.
    let answer = ask(&server, "filter").await;
    assert_eq!(
        told(&answer),
        (json!("aku  maaf."), json!("content_filter"))
    );
    let streamed = json!({"model": "filter", "stream": true,
        "messages": [{"role": "user", "content": "halo"}]});
    let streamed = server.post(CHAT, streamed).await;
    assert_eq!(streamed.streamed_text(0), "aku  maaf.");
    let series = "gapura_plugin_fallbacks_total{digest=";
    let text = server.get("/metrics").await.text().to_owned();
    let count = |rest: &str| {
        text.lines()
            .filter(|line| line.starts_with(series) && line.contains(rest))
            .count()
    };
    assert_eq!(count("policy=\"static\""), 3);
}

#[tokio::test]
async fn the_version_before_stands_in_and_the_live_one_is_left_alone() {
    let toml = "[[routes]]\nname = 'chat'\nplugins = [{ plugin = 'guard', \
                on_failure = 'previous', breaker = { failures = 3, backoff_ms = 60000 } }, \
                { plugin = 'chatml' }]\n";
    let runner = SimRunner::default().answering("ya");
    let server = Server::with_plugins(toml, runner, &[("guard", guests::ACCEPT)]);
    let before = binding(&server);
    assert_eq!(
        (&before["on_failure"], &before["previous"]),
        (&json!("previous"), &Value::Null)
    );
    assert_eq!(
        (&before["breaker"], &before["retry_in_ms"]),
        (&json!("closed"), &Value::Null)
    );
    let controller = std::sync::Arc::clone(&server.controller);
    let pushed = move || controller.push("guard", guests::TRAP, Until::Live);
    let pushed = tokio::task::spawn_blocking(pushed).await.expect("no panic");
    pushed.expect("it loads, and has no case that would show what it does");
    for _ in 0..5 {
        let answer = ask(&server, "chat").await;
        assert_eq!(told(&answer), (json!("ya"), json!("stop")));
    }
    let after = binding(&server);
    let previous = after["previous"].as_str().expect("a label");
    assert!(previous.starts_with("guard@1.2.3+"), "{previous}");
    assert_eq!(after["breaker"], "open");
    let retry_in_ms = after["retry_in_ms"].as_u64().expect("milliseconds");
    assert!((1..=60_000).contains(&retry_in_ms), "{retry_in_ms}");
    let of_guard = |name: &str| format!("{name}{{digest=\"{}\"", &pushed_digest()[..6]);
    for (name, value) in [
        ("gapura_plugin_calls_total", "3"),
        ("gapura_plugin_fallbacks_total", "5"),
        ("gapura_plugin_breaker_openings_total", "1"),
    ] {
        let found = metric(&server, &of_guard(name)).await;
        assert_eq!(found.as_deref(), Some(value), "{name}");
    }
    let gauge = format!("gapura_plugin_breaker_open{{digest=\"{}\"", pushed_digest());
    assert_eq!(metric(&server, &gauge).await.as_deref(), Some("1"));
    let failed = "gapura_plugin_failures_total{digest=";
    let text = server.get("/metrics").await.text().to_owned();
    let skipped = text
        .lines()
        .find(|line| line.starts_with(failed) && line.contains("kind=\"breaker_open\""));
    assert!(skipped.is_some_and(|line| line.ends_with(" 2")), "{text}");
}

fn pushed_digest() -> String {
    gapura::config::Digest::of(guests::TRAP).to_hex()
}

#[tokio::test]
async fn clients_are_told_when_a_plugin_will_be_tried_again() {
    let toml = "[[routes]]\nname = 'chat'\nplugins = [{ plugin = 'guard', \
                breaker = { failures = 2, backoff_ms = 30000 } }, { plugin = 'chatml' }]\n\
                [[routes]]\nname = 'stubborn'\nplugins = [{ plugin = 'guard', \
                breaker = { failures = 0 } }, { plugin = 'chatml' }]\n";
    let runner = SimRunner::default().answering("ya");
    let server = Server::with_plugins(toml, runner, &[("guard", guests::TRAP)]);
    for _ in 0..2 {
        let answer = ask(&server, "chat").await;
        assert_eq!(answer.status, 500);
        assert_eq!(answer.json()["error"]["code"], "plugin_trap");
    }
    let answer = ask(&server, "chat").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    let error = &answer.json()["error"];
    assert_eq!(
        (&error["type"], &error["code"], &error["param"]),
        (
            &json!("server_error"),
            &json!("plugin_breaker_open"),
            &Value::Null
        )
    );
    let message = error["message"].as_str().expect("a message");
    assert!(message.starts_with("plugin guard@"), "{message}");
    let seconds: u64 = answer.header("retry-after").parse().expect("seconds");
    assert!((25..=30).contains(&seconds), "{seconds}");
    // The same plugin on another route has a breaker of its own, and this one is off.
    for _ in 0..5 {
        let answer = ask(&server, "stubborn").await;
        assert_eq!(answer.json()["error"]["code"], "plugin_trap");
    }
}
