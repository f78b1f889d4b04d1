//! What real plugins do to requests and answers, as clients see it.

use gapura_engine::sim::{SimRunner, sim_tokens};
use gapura_tests::{Server, component};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn halo(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "halo"}]})
}

#[tokio::test]
async fn routes_bound_what_clients_ask_for() {
    let toml = "[[routes]]\nname = 'chat'\nplugins = [{ plugin = 'chatml' }]\n\
                limits = { max_tokens = 3, max_choices = 2, max_temperature = 1.0 }\n";
    let server = Server::start(toml, SimRunner::default().answering("selamat"));
    for (name, value, message) in [
        (
            "max_tokens",
            json!(5),
            "max_tokens is 5, this route gives at most 3",
        ),
        ("n", json!(3), "n is 3, this route gives at most 2"),
        (
            "temperature",
            json!(1.5),
            "temperature is 1.5, this route gives at most 1",
        ),
    ] {
        let mut body = halo("chat");
        body[name] = value;
        let answer = server.post(CHAT, body).await;
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["param"], &error["message"]),
            (&json!(name), &json!(message))
        );
    }
    let answer = server.post(CHAT, halo("chat")).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "sel");
    let answer = server
        .post("/v1/completions", json!({"prompt": "a"}))
        .await
        .json();
    assert_eq!(answer["choices"][0]["text"], "sel");
}

/// Redacts prompts and answers.
const REDACTING: &str = "[[routes]]\nname = 'asisten'\n\
    plugins = [{ plugin = 'pii-redact' }, { plugin = 'chatml' }]\n";

#[tokio::test]
async fn answers_are_redacted_streamed_or_not_and_logprobs_do_not_tell() {
    let answer_text = "Hubungi budi@contoh.id atau 0812-3456-7890 ya.";
    let redacted = "Hubungi [EMAIL] atau [PHONE] ya.";
    let pii_redact = component("pii-redact");
    let runner = SimRunner::default().answering(answer_text);
    let server = Server::with_plugins(REDACTING, runner, &[("pii-redact", &pii_redact)]);
    let mut body = halo("asisten");
    body["logprobs"] = json!(true);
    let answer = server.post(CHAT, body.clone()).await;
    let json = answer.json();
    assert_eq!(json["choices"][0]["message"]["content"], redacted);
    let tokens = json["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    let told: String = tokens
        .iter()
        .filter_map(|token| token["token"].as_str())
        .collect();
    assert!("Hubungi ".starts_with(&told), "{told}");
    body["stream"] = json!(true);
    let stream = server.post(CHAT, body).await;
    assert_eq!(stream.streamed_text(0), redacted);
    assert!(!stream.text().contains("budi") && !stream.text().contains("\"token\":\"@\""));
}

#[tokio::test]
async fn prompts_are_redacted_before_the_model_reads_them() {
    let pii_redact = component("pii-redact");
    // The model says whether it has read the address.
    let runner = SimRunner::default().with_script(|prompt| {
        let secret = sim_tokens("budi@contoh.id");
        let has_read = prompt.windows(secret.len()).any(|window| window == secret);
        sim_tokens(if has_read { "bocor" } else { "aman" })
    });
    let server = Server::with_plugins(REDACTING, runner, &[("pii-redact", &pii_redact)]);
    let mut body = halo("asisten");
    body["messages"][0]["content"] = json!("surel saya budi@contoh.id");
    let answer = server.post(CHAT, body).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "aman");
    let body = json!({"model": "asisten", "prompt": "surel saya budi@contoh.id"});
    let answer = server.post("/v1/completions", body).await.json();
    assert_eq!(answer["choices"][0]["text"], "aman");
}
