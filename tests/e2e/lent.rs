//! What the gateway lends to plugins, over HTTP: questions to the model, numbers, memory; and what
//! observers hear.

use std::time::Duration;

use axum::body::Body;
use gapura_engine::EngineConfig;
use gapura_engine::sim::{SimFault, SimLatency, SimRunner};
use gapura_test_guests as guests;
use gapura_tests::{Answer, Server, component, post};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const CHAT: &str = "/v1/chat/completions";

/// The guest that asks, whose way is the first letter of the `model`.
fn asking(model: &str) -> String {
    format!(
        "[[routes]]\nname = 'chat'\naliases = ['ask', 'loop', 'empty', 'grammar', 'bad', 'pass']\n\
         plugins = [{{ plugin = 'asks', grants = ['model'], model = {model} }}, \
         {{ plugin = 'chatml' }}]\n"
    )
}

fn asks(model: &str, runner: SimRunner) -> Server {
    Server::with_plugins(&asking(model), runner, &[("asks", guests::ASKS)])
}

fn halo(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "halo"}]})
}

/// Status and message of an error.
pub(crate) fn refusal(answer: &Answer) -> (u16, String) {
    let message = answer.json()["error"]["message"]
        .as_str()
        .map(str::to_owned);
    (
        answer.status.as_u16(),
        message.unwrap_or_else(|| answer.text().to_owned()),
    )
}

/// The only sample of that name that has those labels, among others.
pub(crate) async fn sample(server: &Server, series: &str) -> Option<f64> {
    let scraped = server.get("/metrics").await;
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.trim_end_matches('}').split(',');
    let labels: Vec<&str> = labels.filter(|label| !label.is_empty()).collect();
    let is_meant = |found: &str| {
        let (of, found) = found.split_once('{').unwrap_or((found, ""));
        of == name && labels.iter().all(|label| found.contains(label))
    };
    let samples = scraped
        .text()
        .lines()
        .filter_map(|line| line.rsplit_once(' '));
    let mut values = samples
        .filter(|(found, _)| is_meant(found))
        .map(|(_, value)| value);
    let value = values.next()?;
    assert_eq!(values.next(), None, "{series} is not one series");
    Some(value.parse().expect("a value is a number"))
}

/// Waits until `reached`, for ten seconds at most.
pub(crate) async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let reached = async {
        while !reached().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), reached).await;
    waited.unwrap_or_else(|_| panic!("not in ten seconds: {what}"));
}

/// No sequence runs or waits, and none holds a block.
async fn idle(server: &Server) {
    until("the engine is idle", async || {
        let stats = server.engine.stats();
        stats.running + stats.waiting + stats.full_blocks.used == 0
    })
    .await;
}

fn slow(per_decode_step: u64) -> SimLatency {
    SimLatency {
        per_decode_step: Duration::from_millis(per_decode_step),
        ..SimLatency::default()
    }
}

#[tokio::test]
async fn a_plugin_asks_the_loaded_model() {
    let server = asks("{}", SimRunner::default().answering("ya"));
    let answer = server.post(CHAT, halo("ask")).await;
    // `y`, `a` and the end-of-sequence token.
    assert_eq!(refusal(&answer), (403, "ya".to_owned()));
    let labels = |more: &str| format!("{{{more},plugin=\"asks\",version=\"0.0.0\"}}");
    let questions = format!(
        "gapura_plugin_model_questions_total{}",
        labels("outcome=\"answered\"")
    );
    assert_eq!(sample(&server, &questions).await, Some(1.0));
    let tokens = |kind: &str| {
        let labels = format!("{{plugin=\"asks\",type=\"{kind}\",version=\"0.0.0\"}}");
        format!("gapura_plugin_model_tokens_total{labels}")
    };
    assert_eq!(sample(&server, &tokens("output")).await, Some(3.0));
    // As the template renders `halo` for any request.
    assert_eq!(sample(&server, &tokens("input")).await, Some(23.0));
    idle(&server).await;
    // Rendered alike, the client's own request finds the question's blocks.
    assert_eq!(server.post(CHAT, halo("pass")).await.status, 200);
    assert!(server.engine.stats().prefix_hit_tokens > 0);
}

#[tokio::test]
async fn questions_and_tokens_are_bounded_for_each_request() {
    let server = asks("{ questions = 3 }", SimRunner::default().answering("ya"));
    for _ in 0..2 {
        let answer = server.post(CHAT, halo("loop")).await;
        assert_eq!(refusal(&answer), (450, "all its questions, 3".to_owned()));
    }
    let server = asks("{ tokens = 2 }", SimRunner::default().answering("tidak"));
    let answer = server.post(CHAT, halo("ask")).await;
    assert_eq!(refusal(&answer), (402, "ti".to_owned()));
    let answer = server.post(CHAT, halo("loop")).await;
    assert_eq!(refusal(&answer), (450, "all its tokens, 2".to_owned()));
}

#[tokio::test]
async fn an_answer_matches_the_questions_grammar() {
    let server = asks("{}", SimRunner::default().answering("tidak tahu"));
    let answer = server.post(CHAT, halo("grammar")).await;
    assert_eq!(refusal(&answer).1, "tidak");
    let (status, message) = refusal(&server.post(CHAT, halo("bad")).await);
    assert_eq!(status, 454, "{message}");
    assert!(
        message.starts_with("the regular expression is not valid"),
        "{message}"
    );
    let answer = server.post(CHAT, halo("empty")).await;
    assert_eq!(refusal(&answer), (454, "it has no message".to_owned()));
}

#[tokio::test]
async fn a_template_that_asks_cannot_do_so_for_a_question() {
    let toml = "[[routes]]\nname = 'chat'\naliases = ['ask', 'pass']\n\
        plugins = [{ plugin = 'asks', grants = ['model'] }, { plugin = 'deep', grants = ['model'] }]\n";
    let plugins = [("asks", guests::ASKS), ("deep", guests::ASKS_IN_RENDER)];
    let server = Server::with_plugins(toml, SimRunner::default(), &plugins);
    let answer = server.post(CHAT, halo("ask")).await;
    assert_eq!(refusal(&answer).1, "You said: depth");
    // For the request itself it may.
    let answer = server.post(CHAT, halo("pass")).await.json();
    let content = &answer["choices"][0]["message"]["content"];
    assert_eq!(content, "You said: pass");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_takes_too_long_is_given_up() {
    let runner = SimRunner::default()
        .answering(&"a".repeat(60))
        .with_latency(slow(100));
    let server = asks("{ seconds = 1 }", runner);
    assert_eq!(server.post(CHAT, halo("ask")).await.status, 452);
    idle(&server).await;
    let deadline = "gapura_plugin_model_questions_total\
        {outcome=\"deadline\",plugin=\"asks\",version=\"0.0.0\"}";
    assert_eq!(sample(&server, deadline).await, Some(1.0));
    // The request's own time ends both.
    let toml = format!("[server]\nrequest_timeout_seconds = 0.3\n{}", asking("{}"));
    let runner = SimRunner::default()
        .answering(&"a".repeat(60))
        .with_latency(slow(100));
    let server = Server::with_plugins(&toml, runner, &[("asks", guests::ASKS)]);
    let answer = server.post(CHAT, halo("ask")).await;
    assert_eq!(answer.json()["error"]["code"], "deadline_exceeded");
    idle(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_questions_along() {
    let runner = SimRunner::default()
        .answering(&"a".repeat(60))
        .with_latency(slow(100));
    let server = asks("{}", runner);
    let request = server
        .app
        .clone()
        .oneshot(post(CHAT, halo("ask").to_string()));
    let client = tokio::spawn(request);
    until("the question is being answered", async || {
        server.engine.stats().full_blocks.used > 0
    })
    .await;
    client.abort();
    idle(&server).await;
    let given_up = "gapura_plugin_model_questions_total\
        {outcome=\"given_up\",plugin=\"asks\",version=\"0.0.0\"}";
    assert_eq!(sample(&server, given_up).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_the_plugins_to_hear_of() {
    let runner = SimRunner::default()
        .answering(&"a".repeat(50))
        .with_latency(slow(20));
    let config = EngineConfig {
        max_num_seqs: 1,
        max_queued: 1,
        ..EngineConfig::default()
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("asks.wasm"), guests::ASKS).expect("room");
    let plugins = format!(
        "[plugins]\ndir = '{}'\nwatch = false\n",
        dir.path().display()
    );
    let server = Server::with_engine(&(plugins + &asking("{}")), runner, config);
    let mut clients = Vec::new();
    for (running, waiting) in [(1, 0), (1, 1)] {
        let request = server
            .app
            .clone()
            .oneshot(post(CHAT, halo("pass").to_string()));
        clients.push(tokio::spawn(request));
        until("the engine has it", async || {
            let stats = server.engine.stats();
            (stats.running, stats.waiting) == (running, waiting)
        })
        .await;
    }
    assert_eq!(server.post(CHAT, halo("ask")).await.status, 453);
    for client in clients {
        let answer = client
            .await
            .expect("no panic")
            .expect("the service never fails");
        assert_eq!(answer.status(), 200);
    }
}

/// A processor that asks in the middle of an answer and at its end, streamed or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_processor_asks_while_the_answer_waits() {
    let toml = "[[routes]]\nname = 'chat'\n\
        plugins = [{ plugin = 'chatml' }, { plugin = 'late', grants = ['model'] }]\n";
    let runner = SimRunner::default()
        .with_script(|prompt| {
            let asked = gapura_engine::sim::sim_tokens("halo");
            let is_request = prompt.windows(asked.len()).any(|window| window == asked);
            gapura_engine::sim::sim_tokens(if is_request { "abQc" } else { "<?>" })
        })
        .with_latency(slow(10));
    let server = Server::with_plugins(toml, runner, &[("late", guests::ASKS_LATE)]);
    let answer = server.post(CHAT, halo("chat")).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "ab<?>c<?>");
    let mut body = halo("chat");
    body["stream"] = json!(true);
    let stream = server.post(CHAT, body).await;
    assert_eq!(stream.streamed_text(0), "ab<?>c<?>");
    idle(&server).await;
}

#[tokio::test]
async fn a_plugins_names_are_bounded_where_they_are_scraped() {
    let toml = "[[routes]]\nname = 'chat'\n\
        plugins = [{ plugin = 'many', grants = ['metrics'], limits = { call_deadline_ms = 5000 } }, \
        { plugin = 'chatml' }]\n";
    let runner = SimRunner::default().answering("ya");
    let server = Server::with_plugins(toml, runner, &[("many", guests::MANY_NAMES)]);
    assert_eq!(server.post(CHAT, halo("chat")).await.status, 200);
    let scraped = server.get("/metrics").await;
    let series = scraped.text().lines();
    let series = series.filter(|line| line.starts_with("gapura_plugin_values_total{"));
    assert_eq!(series.count(), 32);
    let dropped = "gapura_plugin_values_dropped_total{plugin=\"many\",route=\"chat\"}";
    assert_eq!(sample(&server, dropped).await, Some(9968.0));
}

#[tokio::test]
async fn a_plugin_remembers_over_requests_and_versions() {
    let toml = "[[routes]]\nname = 'chat'\naliases = ['sesuatu', 'get']\n\
        plugins = [{ plugin = 'remembers', grants = ['kv'] }, { plugin = 'chatml' }]\n";
    let runner = SimRunner::default().answering("ya");
    let server = Server::with_plugins(toml, runner, &[("remembers", guests::REMEMBERS)]);
    assert_eq!(server.post(CHAT, halo("sesuatu")).await.status, 200);
    let answer = server.post(CHAT, halo("get")).await;
    assert_eq!(refusal(&answer), (400, "sesuatu".to_owned()));
    let before = answer.header("x-gapura-chain").to_owned();
    let next = [guests::REMEMBERS, &[0, 3, 1, b'x', b'2']].concat();
    server
        .controller
        .push("remembers", &next, gapura::controller::Until::Live)
        .expect("a right plugin");
    let answer = server.post(CHAT, halo("get")).await;
    assert_eq!(refusal(&answer), (400, "sesuatu".to_owned()));
    assert_ne!(answer.header("x-gapura-chain"), before);
}

/// A route whose observer counts what it hears.
const WATCHED: &str = "[[routes]]\nname = 'chat'\naliases = ['zebra']\n\
    plugins = [{ plugin = 'chatml' }, { plugin = 'watches', grants = ['metrics'] }]\n";

/// What the observer counted under `name`, once it has.
async fn heard(server: &Server, name: &str) -> f64 {
    let series =
        format!("gapura_plugin_values_total{{name=\"{name}\",plugin=\"watches\",route=\"chat\"}}");
    until(name, async || sample(server, &series).await.is_some()).await;
    sample(server, &series).await.expect("it was there")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_hears_how_answers_ended() {
    let watched = |runner| Server::with_plugins(WATCHED, runner, &[("watches", guests::WATCHES)]);
    let server = watched(SimRunner::default().answering("ya"));
    let mut body = halo("chat");
    body["n"] = json!(2);
    let answer = server.post(CHAT, body).await;
    assert!(answer.header("x-gapura-chain").contains(",watches@"));
    // Three tokens for each of two answers, from a chain of two plugins.
    until("both are counted", async || {
        heard(&server, "finished").await == 6.0
    })
    .await;
    assert_eq!(heard(&server, "prompt").await, 2.0 * 23.0);
    assert_eq!(heard(&server, "chain").await, 4.0);

    let server = watched(
        SimRunner::default()
            .with_faults(|step, _| (step == 1).then(|| SimFault::Error("a fault".to_owned()))),
    );
    assert_eq!(server.post(CHAT, halo("chat")).await.status, 500);
    assert_eq!(heard(&server, "engine_error").await, 1.0);

    let runner = SimRunner::default()
        .answering(&"a".repeat(60))
        .with_latency(slow(50));
    let server = watched(runner);
    let mut body = halo("chat");
    body["stream"] = json!(true);
    let response = server
        .app
        .clone()
        .oneshot(post(CHAT, Body::from(body.to_string())))
        .await;
    drop(response.expect("the service never fails"));
    assert_eq!(heard(&server, "cancelled").await, 1.0);
}

/// The observer traps; the client knows nothing of it, and the books do.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_an_observer_is_counted_and_no_more() {
    let runner = SimRunner::default().answering("ya");
    let server = Server::with_plugins(WATCHED, runner, &[("watches", guests::WATCHES)]);
    let answer = server.post(CHAT, halo("zebra")).await;
    assert_eq!(answer.status, 200);
    let failures = "gapura_plugin_failures_total\
        {kind=\"trap\",plugin=\"watches\",stage=\"observe\",version=\"0.0.0\"}";
    until("the failure is counted", async || {
        sample(&server, failures).await == Some(1.0)
    })
    .await;
    // A server that drains waits for its observers.
    server.state.drain();
    let drained = tokio::time::timeout(Duration::from_secs(10), server.state.drained()).await;
    drained.expect("nothing is left to hear");
}

/// Requests that differ in anything that decides an answer do not share one from memory.
#[tokio::test]
async fn a_cached_answer_is_only_for_the_same_request() {
    let toml = "[[routes]]\nname = 'chat'\nplugins = [\
                { plugin = 'answer-cache', grants = ['log', 'kv', 'metrics'] }, \
                { plugin = 'chatml' }]\n";
    let cache = component("answer-cache");
    let runner = SimRunner::default().answering("abc");
    let server = Server::with_plugins(toml, runner, &[("answer-cache", &cache)]);
    let hits = async || {
        let series =
            "gapura_plugin_values_total{name=\"hits\",plugin=\"answer-cache\",route=\"chat\"}";
        sample(&server, series).await.unwrap_or(0.0)
    };
    let greedy = |more: Value| {
        let mut body = halo("chat");
        body["temperature"] = json!(0);
        let more = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(more);
        body
    };
    let content = |answer: &Answer| {
        answer.json()["choices"][0]["message"]["content"]
            .as_str()
            .map(str::to_owned)
    };
    let plain = greedy(json!({}));
    let others = [
        greedy(json!({"guided_regex": "[0-9]{3}"})),
        greedy(json!({"logit_bias": {"97": -100}})),
        greedy(json!({"stop_token_ids": [98]})),
        greedy(json!({"min_tokens": 2})),
        greedy(json!({"n": 2})),
    ];
    for body in [&plain].into_iter().chain(&others) {
        let answer = server.post(CHAT, body.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let text = json!({"model": "chat", "prompt": "halo", "temperature": 0});
    assert_eq!(server.post("/v1/completions", text).await.status, 200);
    assert_eq!(hits().await, 0.0);
    let again = server.post(CHAT, plain).await;
    assert_eq!(
        (content(&again).as_deref(), hits().await),
        (Some("abc"), 1.0)
    );
    let digits = server.post(CHAT, others[0].clone()).await;
    let digits = content(&digits).expect("a text");
    assert!(digits.bytes().all(|byte| byte.is_ascii_digit()), "{digits}");
    assert_eq!(hits().await, 2.0);
}
