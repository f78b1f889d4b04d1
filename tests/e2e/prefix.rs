//! Prompts that begin alike: what is computed once, what is reported of it, and who shares it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use gapura::controller::{Origin, Until};
use gapura::pipeline::Prefill;
use gapura_engine::sim::{SimLatency, SimRunner, sim_tokenizer};
use gapura_engine::{EngineConfig, ModelRunner as _};
use gapura_plugin_runtime::add_custom_section;
use gapura_tests::{Answer, PLAIN, Server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

/// A chat that begins with 600 letters and ends with `end`.
fn chat(end: &str, more: Value) -> Value {
    let mut body = json!({
        "model": "chat",
        "messages": [{"role": "user", "content": format!("{}{end}", "salam ".repeat(100))}],
    });
    for (name, value) in more.as_object().expect("an object of fields") {
        body[name] = value.clone();
    }
    body
}

#[track_caller]
fn cached(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .expect("a number")
}

async fn samples(server: &Server) -> HashMap<String, f64> {
    let answer = server.get("/metrics").await;
    answer
        .text()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
        .collect()
}

#[tokio::test]
async fn a_known_beginning_is_reported_in_usage_and_metrics() {
    let server = Server::start(PLAIN, SimRunner::default().with_window(64));
    assert_eq!(cached(&server.post(CHAT, chat("satu", json!({}))).await), 0);
    let again = server.post(CHAT, chat("dua", json!({}))).await;
    // `<|im_start|>`, `user`, a line end, and 600 letters: 37 whole pages.
    assert_eq!(cached(&again), 592);
    let usage = &again.json()["usage"];
    let prompt_tokens = usage["prompt_tokens"].as_f64().expect("a number");
    assert!(
        again.json()["choices"][0]["message"]["content"]
            .as_str()
            .expect("a text")
            .ends_with("salam dua")
    );
    let streamed = chat(
        "tiga",
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    );
    let streamed = server.post(CHAT, streamed).await;
    let streamed = streamed.text();
    assert!(
        streamed.contains(r#""prompt_tokens_details":{"cached_tokens":592}"#),
        "{streamed}"
    );
    let samples = samples(&server).await;
    assert_eq!(samples["gapura_prefix_cache_hit_tokens_total"], 2.0 * 592.0);
    assert_eq!(
        samples["gapura_prefix_cache_query_tokens_total"],
        3.0 * prompt_tokens + 2.0
    );
    assert!(samples["gapura_kv_blocks_cached{group=\"full\"}"] >= 37.0);
    assert_eq!(samples["gapura_kv_blocks_used{group=\"full\"}"], 0.0);
}

#[tokio::test]
async fn a_salt_keeps_prefixes_apart() {
    let server = Server::start(PLAIN, SimRunner::default());
    let asked = async |salt: Value| {
        let body = chat("", json!({"cache_salt": salt}));
        cached(&server.post(CHAT, body).await)
    };
    assert_eq!(asked(Value::Null).await, 0);
    assert_eq!(asked(json!("a")).await, 0);
    assert_eq!(asked(json!("b")).await, 0);
    // The same prompt: all but its last page.
    assert_eq!(asked(json!("a")).await, 608);
    let empty = server.post(CHAT, chat("", json!({"cache_salt": ""}))).await;
    assert_eq!(empty.status, 400);
    let error = &empty.json()["error"];
    assert_eq!(error["param"], "cache_salt");
    assert_eq!(
        error["message"],
        "cache_salt has 0 bytes, it must have 1 to 256"
    );
}

#[tokio::test]
async fn the_switch_turns_it_off() {
    let config = EngineConfig {
        prefix_cache: false,
        ..EngineConfig::default()
    };
    let server = Server::with_engine(PLAIN, SimRunner::default(), config);
    for _ in 0..2 {
        assert_eq!(cached(&server.post(CHAT, chat("", json!({}))).await), 0);
    }
}

#[tokio::test]
async fn more_answers_than_the_kv_cache_holds_are_refused_with_the_numbers() {
    // 128 pages of 16 tokens, one context of 2,048.
    let config = EngineConfig {
        kv_bytes: 128 * SimRunner::default().model().kv.full_block_bytes,
        ..EngineConfig::default()
    };
    let runner = SimRunner::default().answering("ya");
    let server = Server::with_engine(PLAIN, runner, config);
    let ask = async |n: u32, max_tokens: Value| {
        let body = chat("", json!({"n": n, "max_tokens": max_tokens}));
        server.post(CHAT, body).await
    };
    assert_eq!(ask(1, json!(1400)).await.status, 200);
    assert_eq!(ask(8, json!(100)).await.status, 200);
    // What is left open takes the room that there is.
    assert_eq!(ask(8, Value::Null).await.status, 200);
    let refused = ask(8, json!(1400)).await;
    assert_eq!(refused.status, 400);
    let error = &refused.json()["error"];
    assert_eq!(
        (&error["param"], &error["code"]),
        (&json!("n"), &json!("kv_cache_exceeded"))
    );
    let message = error["message"].as_str().expect("a text");
    assert!(
        message.starts_with("n is 8 and max_tokens 1400, which is more than the KV cache holds"),
        "{message}"
    );
    let limit: u32 = message
        .split_once("at most ")
        .and_then(|(_, rest)| rest.split_once(' '))
        .and_then(|(limit, _)| limit.parse().ok())
        .expect("a limit");
    assert_eq!(ask(8, json!(limit)).await.status, 200);
    assert_eq!(ask(8, json!(limit + 1)).await.status, 400);
}

/// The prefix of a template is computed when its chain is about to serve, so that the first
/// request finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_templates_prefix_is_computed_before_a_new_version_serves() {
    let system = "Kamu asisten yang sopan. ".repeat(8);
    let toml = format!(
        "[[routes]]\nname = 'chat'\n\
         plugins = [{{ plugin = 'chatml', settings = {{ default_system = '{system}' }} }}]\n\
         [[routes]]\nname = 'other'\nplugins = [{{ plugin = 'gemma-chat' }}]\n"
    );
    let server = Server::start(&toml, SimRunner::default());
    let runtime = tokio::runtime::Handle::current();
    let prefill = Prefill::new(server.engine.clone(), sim_tokenizer(), runtime);
    let controller = server.controller.clone();
    let work = tokio::task::spawn_blocking(move || controller.prefill_with(prefill));
    work.await.expect("no panic");
    let stats = server.engine.stats();
    let num_prefix_blocks = system.len() / 16;
    assert!(stats.full_blocks.pinned >= num_prefix_blocks, "{stats:?}");
    assert_eq!(stats.full_blocks.used, 0);
    let body = json!({"model": "chat", "messages": [{"role": "user", "content": "halo"}]});
    let hit = cached(&server.post(CHAT, body).await);
    assert!(hit as usize >= 16 * num_prefix_blocks, "{hit}");

    // A push computes what the new chain's prompts begin with; this one is the same template,
    // and all but the end of its prefix is there.
    let push = async |name: &'static str| {
        let before = server.engine.stats().prefill_tokens;
        let builtin = gapura::builtin::BUILTINS
            .iter()
            .find(|builtin| builtin.name == name);
        let mut component = builtin.expect("a built-in plugin").bytes.to_vec();
        // Another version, though it does the same.
        add_custom_section(&mut component, "mark", b"another");
        let controller = server.controller.clone();
        let work =
            tokio::task::spawn_blocking(move || controller.push(name, &component, Until::Live));
        work.await.expect("no panic").expect("a good plugin");
        server.engine.stats().prefill_tokens - before
    };
    let computed = push("chatml").await;
    assert!((1..=17).contains(&computed), "{computed}");
    // Who goes back waits for nothing, be it an operator or the guard.
    for origin in [Origin::Admin, Origin::Guard] {
        let before = server.engine.stats().prefill_tokens;
        let controller = server.controller.clone();
        let back = move || controller.roll_back("chatml", origin, None, None);
        let work = tokio::task::spawn_blocking(back);
        work.await.expect("no panic").expect("one served before");
        assert_eq!(server.engine.stats().prefill_tokens, before, "{origin}");
        if origin == Origin::Admin {
            assert!((1..=17).contains(&push("chatml").await));
        }
    }
    // Without a prefix there is nothing to compute.
    assert_eq!(push("gemma-chat").await, 0);
}

/// However slow the model is, a change waits for a prefix only so long.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_model_holds_no_change_up() {
    let system = "Kamu asisten yang sopan. ".repeat(8);
    let toml = format!(
        "[[routes]]\nname = 'chat'\n\
         plugins = [{{ plugin = 'chatml', settings = {{ default_system = '{system}' }} }}]\n"
    );
    // The whole prefix would take 40 seconds.
    let latency = SimLatency {
        per_prefill_token: Duration::from_millis(200),
        ..SimLatency::default()
    };
    let config = EngineConfig {
        max_batched_tokens: 4,
        ..EngineConfig::default()
    };
    let runner = SimRunner::default().with_latency(latency);
    let server = Server::with_engine(&toml, runner, config);
    let runtime = tokio::runtime::Handle::current();
    let prefill = Prefill::new(server.engine.clone(), sim_tokenizer(), runtime);
    let routes = server.state.routes.load_full();
    let started = Instant::now();
    let work = tokio::task::spawn_blocking(move || {
        let routes = routes.iter().map(std::sync::Arc::as_ref);
        prefill.routes(routes, Duration::from_millis(300));
    });
    work.await.expect("no panic");
    assert!(started.elapsed() < Duration::from_secs(20));
    // Nor does it go on without anybody waiting for it.
    while server.engine.stats().running + server.engine.stats().waiting > 0 {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(server.engine.stats().full_blocks.used, 0);
}

#[tokio::test]
async fn a_key_with_a_private_cache_shares_with_itself_alone() {
    let key = |name: &str, rest: &str| {
        let digest = gapura::config::Digest::of(name.as_bytes()).to_hex();
        format!("[[keys]]\nname = '{name}'\nsha256 = '{digest}'\n{rest}\n")
    };
    let toml = format!(
        "{PLAIN}\n{}{}{}",
        key("a", ""),
        key("b", ""),
        key("secret", "private_cache = true")
    );
    let server = Server::start(&toml, SimRunner::default());
    let asked = async |key: &str| {
        let request = Request::post(CHAT)
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {key}"))
            .body(Body::from(chat("", json!({})).to_string()))
            .expect("a right request");
        cached(&server.send(request).await)
    };
    assert_eq!(asked("a").await, 0);
    assert_eq!(asked("b").await, 608);
    assert_eq!(asked("secret").await, 0);
    assert_eq!(asked("secret").await, 608);
}
