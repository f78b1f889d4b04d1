//! `/v1/completions`: every form of prompt, echo and scoring.

use gapura_engine::sim::SimRunner;
use gapura_tests::{PLAIN, Server};
use serde_json::{Value, json};

fn server() -> Server {
    Server::start(PLAIN, SimRunner::default().answering(" pagi"))
}

fn body(fields: Value) -> Value {
    let mut body = json!({"model": "chat", "prompt": "halo"});
    for (name, value) in fields.as_object().expect("an object of fields") {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn a_whole_completion_has_every_key() {
    let answer = server().post("/v1/completions", body(json!({}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.stable(),
        json!({
            "id": "…", "object": "text_completion", "created": "…", "model": "chat",
            "choices": [{
                "index": 0, "text": " pagi", "logprobs": null, "finish_reason": "stop",
            }],
            // `<bos>` before the four bytes; `<eos>` after the five.
            "usage": {
                "prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        })
    );
}

#[tokio::test]
async fn every_form_of_prompt_is_answered_in_order() {
    let server = server();
    // Token ids are taken as they are: no `<bos>` before them.
    let cases = [
        (json!("halo"), 1, 5),
        (json!(["halo", "hai"]), 2, 5 + 4),
        (json!([104, 97]), 1, 2),
        (json!([[104, 97], [104]]), 2, 3),
    ];
    for (prompt, num_choices, num_tokens) in cases {
        let body = body(json!({"prompt": prompt, "n": 2}));
        let answer = server.post("/v1/completions", body).await.json();
        let choices = answer["choices"].as_array().unwrap();
        assert_eq!(choices.len(), 2 * num_choices);
        for (index, choice) in choices.iter().enumerate() {
            assert_eq!(
                (&choice["index"], &choice["text"]),
                (&json!(index), &json!(" pagi"))
            );
        }
        assert_eq!(answer["usage"]["prompt_tokens"], num_tokens, "{prompt}");
    }
}

#[tokio::test]
async fn echo_with_logprobs_scores_the_prompt_without_generating() {
    let server = server();
    let body = body(json!({"echo": true, "logprobs": 1, "max_tokens": 0}));
    let answer = server.post("/v1/completions", body).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "halo");
    assert_eq!(choice["finish_reason"], "length");
    let logprobs = &choice["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["<bos>", "h", "a", "l", "o"]));
    assert_eq!(logprobs["text_offset"], json!([0, 0, 1, 2, 3]));
    assert_eq!(logprobs["token_logprobs"][0], Value::Null);
    assert_eq!(logprobs["top_logprobs"][0], Value::Null);
    for index in 1..5 {
        assert!(logprobs["token_logprobs"][index].as_f64().unwrap() < 0.0);
        // The likeliest token and the prompt's own.
        assert_eq!(
            logprobs["top_logprobs"][index].as_object().unwrap().len(),
            2
        );
    }
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    assert_eq!(answer["usage"]["prompt_tokens"], 5);
}

#[tokio::test]
async fn echo_goes_before_the_answer_and_its_logprobs() {
    let server = server();
    let body = body(json!({"prompt": [104, 97], "echo": true, "logprobs": 0, "max_tokens": 2}));
    let answer = server.post("/v1/completions", body).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "ha p");
    assert_eq!(choice["logprobs"]["tokens"], json!(["h", "a", " ", "p"]));
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 1, 2, 3]));
}

#[tokio::test]
async fn a_stream_of_completions_says_the_same() {
    let server = server();
    let body = body(json!({
        "stream": true, "echo": true, "max_tokens": 2, "stream_options": {"include_usage": true},
    }));
    let chunks = server.post("/v1/completions", body).await.stable_chunks();
    let chunk = |text: &str, finish: Value| {
        json!({
            "id": "…", "object": "text_completion", "created": "…", "model": "chat",
            "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": finish}],
            "usage": null,
        })
    };
    let (usage, texts) = chunks.split_last().unwrap();
    assert_eq!(
        texts,
        [
            chunk("halo", Value::Null),
            chunk(" ", Value::Null),
            chunk("p", Value::Null),
            chunk("", json!("length")),
        ]
    );
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 2);
}

#[tokio::test]
async fn special_tokens_in_a_prompt_are_text() {
    let server = server();
    let body = body(json!({"prompt": "<eos>", "echo": true, "logprobs": 0, "max_tokens": 0}));
    let answer = server.post("/v1/completions", body).await.json();
    let tokens = json!(["<bos>", "<", "e", "o", "s", ">"]);
    assert_eq!(answer["choices"][0]["logprobs"]["tokens"], tokens);
}

#[tokio::test]
async fn tokens_go_to_text_and_back() {
    let server = server();
    let answer = server
        .post("/tokenize", json!({"prompt": "hé"}))
        .await
        .json();
    assert_eq!(
        answer,
        json!({
            "count": 4, "max_model_len": 8192, "tokens": [257, 104, 195, 169], "token_strs": null,
        })
    );
    let answer = server
        .post("/detokenize", json!({"tokens": [257, 104, 195, 169]}))
        .await;
    assert_eq!(answer.json(), json!({"prompt": "hé"}));
    let answer = server.post("/detokenize", json!({"tokens": [9999]})).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["param"], "tokens.0");
}
