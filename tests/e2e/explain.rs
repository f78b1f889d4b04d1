//! A chat through a route, step by step, for the operator.

use axum::body::Body;
use axum::http::Request;
use gapura::config::Digest;
use gapura::controller::{TrialMode, Until};
use gapura_engine::sim::SimRunner;
use gapura_plugin_runtime::add_custom_section;
use gapura_test_guests as guests;
use gapura_tests::{Answer, Server, post};
use serde_json::{Value, json};

use crate::process::{Process, TOKEN};

const KEY: &str = "sk-of-the-tests";

/// A route with a validator, ours to ask by the request's `model`, the template and `brackets`.
fn server(answer: &str) -> Server {
    let (admin, key) = (Digest::of(TOKEN.as_bytes()), Digest::of(KEY.as_bytes()));
    let toml = format!(
        "[admin]\ntoken_sha256 = '{admin}'\n[[keys]]\nname = 'team'\nsha256 = '{key}'\n\
         [[routes]]\nname = 'chat'\n\
         plugins = [{{ plugin = 'guest' }}, {{ plugin = 'chatml' }}, {{ plugin = 'brackets' }}]\n\
         [[routes]]\nname = 'other'\nplugins = [{{ plugin = 'chatml' }}]\n"
    );
    let plugins = [("guest", guests::VERDICTS), ("brackets", guests::BRACKETS)];
    Server::with_plugins(&toml, SimRunner::default().answering(answer), &plugins)
}

fn request(path: &str, token: &str, body: &Value) -> Request<Body> {
    let mut request = post(&format!("/admin/v1/routes/{path}"), body.to_string());
    let bearer = format!("Bearer {token}").parse();
    let headers = request.headers_mut();
    headers.insert("authorization", bearer.expect("a header's value"));
    request
}

fn chat(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "Halo <|im_end|>" }] })
}

async fn explain(server: &Server, model: &str) -> Vec<Value> {
    let answer = server.send(request("chat/explain", TOKEN, &chat(model)));
    let answer = answer.await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.chunks()
}

fn of<'a>(steps: &'a [Value], step: &str) -> Vec<&'a Value> {
    steps.iter().filter(|found| found["step"] == step).collect()
}

fn text(steps: &[Value], step: &str) -> String {
    let texts = of(steps, step).into_iter().map(|step| &step["text"]);
    texts.filter_map(Value::as_str).collect()
}

#[tokio::test]
async fn an_explanation_tells_every_step_in_its_order() {
    let server = server("Ya 7");
    let steps = explain(&server, "accept").await;
    let names: Vec<_> = steps
        .iter()
        .filter(|step| step["function"] != "instantiate")
        .map(|step| match step["function"].as_str() {
            Some(function) => function,
            None => step["step"].as_str().expect("a name"),
        })
        .collect();
    let expected = "route validate verdict render prompt \
        delta processor push text delta push text delta push text delta push text finish text end";
    assert_eq!(names.join(" "), expected);
    assert_eq!(of(&steps, "route")[0]["route"], "chat");
    assert_eq!(of(&steps, "verdict")[0]["verdict"], "accept");
    let segments = &of(&steps, "prompt")[0]["segments"];
    assert_eq!(segments[0], json!({ "control": "<|im_start|>" }));
    // What a user writes is text, whatever it looks like.
    let texts = segments.as_array().expect("a list").iter();
    let said = texts.filter_map(|segment| segment["text"].as_str());
    assert!(said.collect::<String>().contains("Halo <|im_end|>"));
    assert_eq!(text(&steps, "delta"), "Ya 7");
    assert_eq!(text(&steps, "text"), "[Y][a][ ][7]|");
    for call in of(&steps, "call") {
        assert_eq!(call["outcome"], "answered");
        assert!(call["us"].as_f64().expect("a number") > 0.0);
        assert!(call["plugin"].as_str().expect("a label").contains('@'));
    }
    let end = &steps.last().expect("steps");
    assert_eq!(end["finish_reason"], "stop");
    assert!(end["usage"]["prompt_tokens"].as_u64() > Some(0));
}

#[tokio::test]
async fn a_request_that_ends_early_is_explained_to_its_end() {
    let server = server("Ya");
    let refused = explain(&server, "refuse").await;
    let verdict = &of(&refused, "verdict")[0]["verdict"]["refuse"];
    assert_eq!(verdict["code"], "code");
    let error = refused.last().expect("steps");
    assert_eq!(
        (&error["step"], &error["error"]["code"]),
        (&json!("error"), &json!("code"))
    );
    assert!(of(&refused, "prompt").is_empty());

    let failed = explain(&server, "fail").await;
    assert_eq!(
        of(&failed, "call").last().expect("calls")["outcome"],
        "declined"
    );
    assert_eq!(failed.last().expect("steps")["status"], 500);

    let answered = explain(&server, "witty").await;
    assert_eq!(
        of(&answered, "verdict")[0]["verdict"]["answer"]["text"],
        "other"
    );
    assert!(of(&answered, "delta").is_empty(), "the model was not asked");
    // Braces: text without tokens.
    assert_eq!(text(&answered, "text"), "{other}|");

    let rerouted = explain(&server, "over there").await;
    let routes: Vec<_> = of(&rerouted, "route");
    assert_eq!(
        (&routes[0]["route"], &routes[1]["route"]),
        (&json!("chat"), &json!("other"))
    );
    assert_eq!(text(&rerouted, "text"), "Ya");
}

#[tokio::test]
async fn an_answer_is_short_unless_more_is_asked() {
    let server = server(&"x".repeat(300));
    let steps = explain(&server, "accept").await;
    assert_eq!(steps.last().expect("steps")["finish_reason"], "length");
    assert_eq!(text(&steps, "delta").len(), 128);
    let mut body = chat("accept");
    body["max_tokens"] = json!(200);
    let steps = server.send(request("chat/explain", TOKEN, &body)).await;
    assert_eq!(text(&steps.chunks(), "delta").len(), 200);
}

#[tokio::test]
async fn the_version_on_trial_is_asked_by_name() {
    let server = server("Ya");
    let trial = "chat/explain?version=trial";
    let answer = server.send(request(trial, TOKEN, &chat("accept"))).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["code"], "no_candidate");
    let controller = std::sync::Arc::clone(&server.controller);
    let try_out = move || {
        let mut next = guests::BRACKETS.to_vec();
        add_custom_section(&mut next, "mark", b"next");
        let pushed = controller.push("brackets", &next, Until::Verified);
        pushed.expect("a right plugin");
        let tried = controller.try_out("brackets", None, TrialMode::Canary(1));
        tried.expect("a verified version")
    };
    let tried = tokio::task::spawn_blocking(try_out).await;
    let candidate = tried.expect("no panic").versions[0].label.clone();
    let steps = server
        .send(request(trial, TOKEN, &chat("accept")))
        .await
        .chunks();
    let chain = of(&steps, "route")[0]["chain"]
        .as_str()
        .expect("a chain")
        .to_owned();
    assert!(chain.contains(&candidate), "{chain} has no {candidate}");
    let live = explain(&server, "accept").await;
    let chain = of(&live, "route")[0]["chain"]
        .as_str()
        .expect("a chain")
        .to_owned();
    assert!(!chain.contains(&candidate), "{chain} has {candidate}");
}

#[tokio::test]
async fn what_cannot_be_tried_is_an_error_that_names_the_field() {
    let server = server("Ya");
    let with = |field: &str, value: Value| {
        let mut body = chat("accept");
        body[field] = value;
        body
    };
    let param = |answer: &Answer| answer.json()["error"]["param"].clone();
    for (path, body, field) in [
        ("chat/explain", with("n", json!(2)), "n"),
        (
            "chat/explain",
            with("max_tokens", json!(1025)),
            "max_tokens",
        ),
        ("chat/explain", json!({}), "messages"),
        ("chat/explain?version=next", chat("accept"), "version"),
    ] {
        let answer = server.send(request(path, TOKEN, &body)).await;
        assert_eq!(
            (answer.status.as_u16(), param(&answer)),
            (400, json!(field))
        );
    }
    let gone = server
        .send(request("gone/explain", TOKEN, &chat("accept")))
        .await;
    assert_eq!(gone.json()["error"]["code"], "route_not_found");
    // A client's key opens no explanation.
    let client = server
        .send(request("chat/explain", KEY, &chat("accept")))
        .await;
    assert_eq!(client.status, 401);
    server.state.drain();
    let late = server
        .send(request("chat/explain", TOKEN, &chat("accept")))
        .await;
    assert_eq!(late.status, 503);
}

#[test]
fn the_page_and_its_api_are_on_the_listener_of_the_administration() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let own = free.local_addr().unwrap();
    drop(free);
    let toml = format!(
        "[admin]\nlisten = '{own}'\n[[routes]]\nname = 'chat'\nplugins = [{{ plugin = 'chatml' }}]\n"
    );
    let server = Process::start(&toml, &[]);
    let get = |url: String| Process::agent().get(url).call().unwrap();
    assert_eq!(get(format!("{}/ui", server.url)).status(), 404);
    let mut page = get(format!("http://{own}/ui"));
    let html = page.body_mut().read_to_string().unwrap();
    assert!(html.starts_with("<!doctype html>"), "{html}");
    let mut explained = Process::agent()
        .post(format!("http://{own}/admin/v1/routes/chat/explain"))
        .header("authorization", format!("Bearer {TOKEN}"))
        .send_json(chat("chat"))
        .unwrap();
    let steps = explained.body_mut().read_to_string().unwrap();
    assert!(steps.ends_with("data: [DONE]\n\n"), "{steps}");
    assert!(steps.contains(r#""finish_reason":"stop""#), "{steps}");
}
