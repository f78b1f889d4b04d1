//! Requests that a route keeps to be run again: bounded, redacted, and enough to come out the same.

use axum::body::Body;
use axum::http::Request;
use gapura::cases::{CaseRunner, Measure};
use gapura::config::Digest;
use gapura::recording::Record;
use gapura_engine::sim::SimRunner;
use gapura_test_guests as guests;
use gapura_tests::{Answer, Server, post};
use serde_json::{Value, json};

use crate::http::{listen, says_yes};

const CHAT: &str = "/v1/chat/completions";
const TOKEN: &str = "admin-of-the-tests";
const KEY: &str = "sk-of-the-tests";

/// A route with the guest `plugin`, ours to name by its `model`, the template and `brackets`.
fn server(plugin: &[u8], grants: &str, record: &str) -> Server {
    let (admin, key) = (Digest::of(TOKEN.as_bytes()), Digest::of(KEY.as_bytes()));
    let toml = format!(
        "[admin]\ntoken_sha256 = '{admin}'\n[[keys]]\nname = 'team'\nsha256 = '{key}'\n\
         [[routes]]\nname = 'chat'\nrecord = {record}\n\
         aliases = ['accept', 'refuse', 'mend', 'ask', 'save', 'get']\n\
         plugins = [{{ plugin = 'guest', grants = {grants}, settings = {{ api_key = 'hush' }} }},\n\
         {{ plugin = 'chatml' }}, {{ plugin = 'brackets' }}]\n"
    );
    let plugins = [("guest", plugin), ("brackets", guests::BRACKETS)];
    Server::with_plugins(&toml, SimRunner::default().answering("Ya 7"), &plugins)
}

async fn ask(server: &Server, request_id: &str, model: &str, more: Value) -> Answer {
    let mut body = json!({
        "model": model, "messages": [{"role": "user", "content": "Halo, saya Budi 0812"}],
    });
    for (name, value) in more.as_object().expect("an object of fields") {
        body[name] = value.clone();
    }
    let mut request = post(CHAT, body.to_string());
    let headers = request.headers_mut();
    headers.insert(
        "x-request-id",
        request_id.parse().expect("a header's value"),
    );
    let bearer = format!("Bearer {KEY}").parse();
    headers.insert("authorization", bearer.expect("a header's value"));
    server.send(request).await
}

async fn admin(server: &Server, path: &str) -> Answer {
    let request = Request::builder()
        .uri(format!("/admin/v1/{path}"))
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(Body::empty())
        .expect("a right request");
    server.send(request).await
}

/// The record of a request, once it is kept.
async fn record(server: &Server, request_id: &str) -> Record {
    let answer = admin(server, &format!("records/{request_id}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_value(answer.json()).expect("a record")
}

#[tokio::test]
async fn a_record_is_redacted_unless_the_route_says_otherwise() {
    let server = server(guests::VERDICTS, "[]", "{}");
    let answer = ask(
        &server,
        "a/b:1",
        "accept",
        json!({"metadata": {"city": "Solo"}}),
    )
    .await;
    let content = answer.json()["choices"][0]["message"]["content"].clone();
    assert_eq!(content, "[Y][a][ ][7]|");
    let text = admin(&server, "records/a/b:1").await.text().to_owned();
    for word in ["Halo", "Budi", "0812", "Ya", "Solo", "hush", KEY, TOKEN] {
        assert!(!text.contains(word), "{word} is in {text}");
    }
    let record = record(&server, "a/b:1").await;
    assert!(record.is_redacted && record.is_whole);
    assert_eq!(record.chat.messages[0].content, ["Xxxx, xxxx Xxxx 0000"]);
    assert_eq!(record.chat.extra, r#"{"metadata":{"city":"Xxxx"}}"#);
    assert_eq!(record.chat.tenant.as_deref(), Some("team"));
    let deltas: Vec<_> = record
        .deltas
        .iter()
        .map(|delta| delta.text.as_str())
        .collect();
    assert_eq!(deltas, ["X", "x", " ", "0"]);
    assert!(record.deltas.iter().all(|delta| delta.token_ids.is_empty()));
    let outcome = record.outcome;
    assert_eq!(
        (&*outcome.verdict, &*outcome.text),
        ("accept", "[X][x][ ][0]|")
    );
    let stages: Vec<_> = outcome
        .costs
        .iter()
        .map(|cost| cost.stage.as_str())
        .collect();
    assert_eq!(stages, ["validate", "render", "respond"]);
    assert_eq!(record.plugins[0].settings, json!({"api_key": "…"}));
    // A code is what the plugin says, and may be made of what it was told.
    ask(&server, "r-2", "refuse", json!({})).await;
    let refused = self::record(&server, "r-2").await.outcome;
    assert_eq!((&*refused.verdict, &*refused.detail), ("refuse", "xxxx"));
}

#[tokio::test]
async fn what_is_not_redacted_is_as_it_was() {
    let server = server(guests::VERDICTS, "[]", "{ redact = false }");
    ask(&server, "r-1", "accept", json!({"stream": true})).await;
    let found = loop {
        // A stream's record is kept a moment after the client has read its end.
        let answer = admin(&server, "records/r-1").await;
        if answer.status == 200 {
            break answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    assert!(!found.text().contains(KEY));
    let record: Record = serde_json::from_value(found.json()).expect("a record");
    assert_eq!(record.chat.messages[0].content, ["Halo, saya Budi 0812"]);
    assert!(record.deltas.iter().all(|delta| delta.token_ids.len() == 1));
    assert_eq!(record.outcome.text, "[Y][a][ ][7]|");
    ask(&server, "r-2", "refuse", json!({})).await;
    let refused = self::record(&server, "r-2").await;
    let outcome = (&*refused.outcome.verdict, &*refused.outcome.detail);
    assert_eq!(outcome, ("refuse", "code"));
    assert!(refused.deltas.is_empty() && refused.finish.is_none());
}

#[tokio::test]
async fn the_newest_are_kept_within_count_and_bytes() {
    let server = server(guests::VERDICTS, "[]", "{ keep = 3, redact = false }");
    for number in 0..5 {
        ask(&server, &format!("r-{number}"), "accept", json!({})).await;
    }
    let listed = admin(&server, "records").await.json();
    let ids = listed["records"].as_array().expect("a list").iter();
    let ids: Vec<_> = ids.map(|of| of["request_id"].clone()).collect();
    assert_eq!(ids, ["r-4", "r-3", "r-2"]);
    let gone = admin(&server, "records/r-1").await;
    assert_eq!(gone.status, 404);
    assert_eq!(gone.json()["error"]["code"], "record_not_found");
    // More than a record may hold is not kept in half.
    let more = json!({"metadata": {"note": "panjang ".repeat(200_000)}});
    ask(&server, "long", "refuse", more).await;
    let long = record(&server, "long").await;
    assert!(!long.is_whole && long.chat.messages.is_empty());
    assert_eq!(long.chat.extra, "{}");
    assert_eq!(long.outcome.verdict, "refuse");
    // Two records of half a MiB and more are beyond one of a MiB.
    let server = self::server(guests::VERDICTS, "[]", "{ max_mib = 1, redact = false }");
    for number in 0..3 {
        let half = json!({"metadata": {"note": "x".repeat(600_000)}});
        ask(&server, &format!("r-{number}"), "refuse", half).await;
    }
    let listed = admin(&server, "records").await.json();
    assert_eq!(listed["records"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed["records"][0]["request_id"], "r-2");
}

#[tokio::test]
async fn routes_keep_nothing_unless_they_are_told_to() {
    let toml = "[[routes]]\nname = 'chat'\nplugins = [{ plugin = 'chatml' }]\n";
    let server = Server::start(toml, SimRunner::default().answering("ya"));
    let body = json!({"model": "chat", "messages": [{"role": "user", "content": "halo"}]});
    assert_eq!(server.post(CHAT, body).await.status, 200);
    assert!(server.state.records.list().is_empty());
}

/// What the guest is told by its imports differs from run to run, and is part of its refusal.
#[tokio::test]
async fn a_record_comes_out_the_same_with_what_imports_said() {
    let (listener, url, allow) = listen().await;
    tokio::spawn(says_yes(listener));
    let http = format!("['http'], http = {{ {allow} }}");
    let said = json!({"messages": [{"role": "user", "content": url}]});
    for (component, grants, model) in [
        (guests::SENDS, http.as_str(), "ask"),
        (guests::CHANCE, "['random']", "accept"),
        (guests::TELLS, "['clock']", "accept"),
        (guests::ASKS, "['model']", "ask"),
        (guests::REMEMBERS, "['kv']", "get"),
    ] {
        let server = server(component, grants, "{ redact = false }");
        ask(&server, "before", "save", json!({})).await;
        let answer = ask(&server, "r-1", model, said.clone()).await;
        let message = answer.json()["error"]["message"].clone();
        let message = message.as_str().expect("the guest refuses").to_owned();
        let record = record(&server, "r-1").await;
        let runner = CaseRunner::new(Measure::Fuel).expect("a runtime");
        let wasm = |name: &str| match name {
            "guest" => component,
            "brackets" => guests::BRACKETS,
            _ => gapura::builtin::BUILTINS[0].bytes,
        };
        let load = |name: &str| runner.load(name, wasm(name)).expect("it loads");
        let plugins: Vec<_> = record.plugins.iter().map(|of| load(&of.name)).collect();
        let played = runner.replay(&record, &plugins, "guest").await;
        let played = played.expect("it can be bound");
        assert_eq!(played.found.text("verdict").as_deref(), Some("refuse"));
        let refusal = played.found.text("refusal").expect("a refusal");
        let message = format!("message = \"{message}\"");
        assert!(refusal.contains(&message), "{refusal} for {message}");
        // Times and random numbers might be the same by chance.
        if ["['clock']", "['random']"].contains(&grants) {
            continue;
        }
        let blank = Record {
            tapes: Default::default(),
            ..record
        };
        let blank = runner.replay(&blank, &plugins, "guest").await;
        let blank = blank.expect("it can be bound");
        assert_ne!(blank.found, played.found);
    }
}

#[tokio::test]
async fn components_are_given_out_by_digest() {
    let server = server(guests::VERDICTS, "[]", "{}");
    let digest = Digest::of(guests::VERDICTS).to_hex();
    let found = admin(&server, &format!("artefacts/{digest}")).await;
    assert_eq!(found.body, guests::VERDICTS);
    assert_eq!(found.header("content-type"), "application/wasm");
    for unknown in ["0".repeat(64), "..%2F..%2Fetc%2Fpasswd".to_owned()] {
        let missing = admin(&server, &format!("artefacts/{unknown}")).await;
        assert_eq!(missing.status, 404);
        assert_eq!(missing.json()["error"]["code"], "artefact_not_found");
    }
    let without = server.get("/admin/v1/records").await;
    assert_eq!(without.status, 401);
}
