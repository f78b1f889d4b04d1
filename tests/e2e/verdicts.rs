//! What a validator can decide, as clients see it: verdicts, amendments, failures.

use gapura_engine::sim::SimRunner;
use gapura_test_guests as guests;
use gapura_tests::Server;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

/// A guest that does what the first letter of the `model` says, and a route named `other`, which
/// is where it sends what it reroutes.
const VERDICTS: &str = "[[routes]]\nname = 'verdicts'\n\
    aliases = ['accept', 'mend', 'nan', 'refuse', 'write', 'other-way', 'fail']\n\
    plugins = [{ plugin = 'verdicts' }, { plugin = 'chatml' }]\n\
    [[routes]]\nname = 'other'\nplugins = [{ plugin = 'gemma-chat' }]\n";

fn verdicts(toml: &str) -> Server {
    let runner = SimRunner::default().answering("ya");
    Server::with_plugins(toml, runner, &[("verdicts", guests::VERDICTS)])
}

fn halo(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "halo"}]})
}

#[tokio::test]
async fn a_validators_answer_needs_no_model() {
    let server = verdicts(VERDICTS);
    let answer = server.post(CHAT, halo("write")).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "other");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["total_tokens"], 0);
    assert_eq!(server.engine.stats().steps, 0);
    let mut body = halo("write");
    body["stream"] = json!(true);
    assert_eq!(server.post(CHAT, body).await.streamed_text(0), "other");
}

#[tokio::test]
async fn a_refusal_is_a_client_error_whatever_status_the_plugin_says() {
    let server = verdicts(VERDICTS);
    let answer = server.post(CHAT, halo("refuse")).await;
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.json(),
        json!({"error": {
            "message": "other", "type": "invalid_request_error", "param": null, "code": "code",
        }})
    );
    assert!(answer.header("x-gapura-chain").starts_with("verdicts@"));
}

#[tokio::test]
async fn a_reroute_changes_the_chain_once() {
    let server = verdicts(VERDICTS);
    let answer = server.post(CHAT, halo("other-way")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.header("x-gapura-chain").starts_with("gemma-chat@"));
    // Back to itself is one hop too many.
    let looping = VERDICTS
        .replace("'other'", "'elsewhere'")
        .replace("'verdicts'\naliases", "'other'\naliases");
    let answer = verdicts(&looping).post(CHAT, halo("other-way")).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "plugin_reroute");
    assert_eq!(answer.header("x-should-retry"), "false");
    // So is a route that does not exist.
    let lost = VERDICTS.replace("name = 'other'", "name = 'elsewhere'");
    let answer = verdicts(&lost).post(CHAT, halo("other-way")).await;
    let message = answer.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        message.ends_with("named the route `other`, which does not exist"),
        "{message}"
    );
}

#[tokio::test]
async fn a_plugin_that_fails_closed_is_500_and_named() {
    let server = verdicts(VERDICTS);
    let answer = server.post(CHAT, halo("fail")).await;
    assert_eq!(answer.status, 500);
    let error = &answer.json()["error"];
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("server_error"), &json!("plugin_declined"))
    );
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("plugin verdicts@")
            && message.ends_with("failed in validate (declined)"),
        "{message}"
    );
    assert_eq!(answer.header("x-should-retry"), "false");
    assert_eq!(server.post(CHAT, halo("accept")).await.status, 200);
}

#[tokio::test]
async fn a_validator_amends_the_text_of_a_raw_prompt() {
    let server = verdicts(VERDICTS);
    for prompt in [json!("halo"), json!([104, 97])] {
        let body = json!({"model": "mend", "prompt": prompt, "echo": true, "max_tokens": 1});
        let answer = server.post("/v1/completions", body).await.json();
        assert_eq!(answer["choices"][0]["text"], "othery", "{prompt}");
    }
    let body = json!({"model": "accept", "prompt": "halo", "echo": true, "max_tokens": 1});
    let answer = server.post("/v1/completions", body).await.json();
    assert_eq!(answer["choices"][0]["text"], "haloy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_that_cuts_ends_the_answer_and_the_work() {
    let toml =
        "[[routes]]\nname = 'chat'\nplugins = [{ plugin = 'chatml' }, { plugin = 'moody' }]\n";
    let text = format!("abX{}", "c".repeat(4000));
    let runner = SimRunner::default().answering(&text);
    let server = Server::with_plugins(toml, runner, &[("moody", guests::MOODY)]);
    let mut body = halo("chat");
    let answer = server.post(CHAT, body.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let choice = &answer.json()["choices"][0];
    assert_eq!(choice["message"]["content"], "ab[cut]");
    assert_eq!(choice["finish_reason"], "content_filter");
    assert_eq!(answer.json()["usage"]["completion_tokens"], 3);
    body["stream"] = json!(true);
    let stream = server.post(CHAT, body).await;
    assert_eq!(stream.streamed_text(0), "ab[cut]");
    let last = stream.chunks().pop().expect("a stream has chunks");
    assert_eq!(last["choices"][0]["finish_reason"], "content_filter");
    // What follows is not generated for nobody.
    let idle = async {
        while server.engine.stats().running > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    let idle = tokio::time::timeout(std::time::Duration::from_secs(10), idle).await;
    idle.expect("the sequences are dropped");
    assert!(server.engine.stats().decode_tokens < 2 * 4000);
}
