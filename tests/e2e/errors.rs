//! Bad requests: each is an error in OpenAI's shape with all four keys, and the server answers
//! the next request.

use axum::body::{Body, Bytes};
use axum::http::Request;
use futures_util::stream;
use gapura_engine::sim::SimRunner;
use gapura_tests::{PLAIN, Server, component, post};
use serde_json::{Value, json};

use crate::expect::{CHAT, assert_alive, assert_answer, error, halo, invalid};

#[tokio::test]
async fn bodies_that_are_no_request_are_told_apart() {
    let server = Server::start(PLAIN, SimRunner::default());
    let cases: [(&[u8], &str, Value); 7] = [
        (
            b"",
            "the body is not valid JSON: EOF while parsing a value at line 1 column 0",
            json!("invalid_json"),
        ),
        (
            b"{\"a\":",
            "the body is not valid JSON: EOF while parsing a value at line 1 column 5",
            json!("invalid_json"),
        ),
        (
            b"\"text\"",
            "the body must be a JSON object, not a string",
            Value::Null,
        ),
        (
            b"[1]",
            "the body must be a JSON object, not an array",
            Value::Null,
        ),
        (
            b"42",
            "the body must be a JSON object, not a number",
            Value::Null,
        ),
        (
            b"null",
            "the body must be a JSON object, not null",
            Value::Null,
        ),
        (
            b"{\"model\":\"\xff\"}",
            "the body is not valid UTF-8 from byte 10 on",
            json!("invalid_utf8"),
        ),
    ];
    for path in [CHAT, "/v1/completions", "/tokenize", "/detokenize"] {
        for (body, message, code) in &cases {
            let answer = server.send(post(path, body.to_vec())).await;
            assert_answer(&answer, 400, &invalid(message, Value::Null, code.clone()));
        }
    }
    let deep = format!("{{\"messages\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    let answer = server.send(post(CHAT, deep)).await;
    assert_eq!(answer.json()["error"]["code"], "invalid_json");
    assert_alive(&server).await;
}

#[tokio::test]
async fn wrong_types_name_the_field_by_its_path() {
    let server = Server::start(PLAIN, SimRunner::default());
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let cases = [
        (
            json!({"messages": "halo"}),
            "messages",
            "messages: invalid type: string \"halo\", expected an array",
        ),
        (
            json!({"messages": []}),
            "messages",
            "messages must not be empty",
        ),
        (
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": 3}]}),
            "messages.1.content",
            "messages.1.content: invalid type: integer `3`, expected a string or an array of parts",
        ),
        (
            json!({"messages": user(json!([{"type": "image_url"}]))}),
            "messages.0.content.0.type",
            "messages.0.content.0.type is `image_url`, only `text` is supported",
        ),
        (
            json!({"model": 3}),
            "model",
            "model: invalid type: integer `3`, expected a string",
        ),
        (
            json!({"temperature": "hot"}),
            "temperature",
            "temperature: invalid type: string \"hot\", expected a number",
        ),
        (
            json!({"temperature": 3}),
            "temperature",
            "temperature is 3, it must be from 0 to 2",
        ),
        (
            json!({"max_tokens": 0}),
            "max_tokens",
            "max_tokens is 0, it must be at least 1",
        ),
        (
            json!({"stop": ["a", "b", "c", "d", "e"]}),
            "stop",
            "5 stop strings are more than the limit of 4",
        ),
        (
            json!({"top_logprobs": 21, "logprobs": true}),
            "top_logprobs",
            "top_logprobs is 21, it must be from 0 to 20",
        ),
        (
            json!({"stream_options": {}}),
            "stream_options",
            "stream_options is only allowed when stream is true",
        ),
        (json!({"n": 0}), "n", "n is 0, it must be from 1 to 128"),
        (
            json!({"logit_bias": {"999999": 1}}),
            "logit_bias.999999",
            "token id 999999 is outside the vocabulary of 263",
        ),
    ];
    for (fields, param, message) in cases {
        let mut body = halo();
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        let answer = server.post(CHAT, body).await;
        let is_missing = message.contains("supported");
        let code = if is_missing {
            json!("unsupported_parameter")
        } else {
            Value::Null
        };
        assert_answer(&answer, 400, &invalid(message, json!(param), code));
    }
    assert_alive(&server).await;
}

#[tokio::test]
async fn features_that_are_missing_are_refused_by_name() {
    let server = Server::start(PLAIN, SimRunner::default());
    for (name, value, param) in [
        (
            "tools",
            json!([{"type": "function", "function": {"name": "f"}}]),
            "tools",
        ),
        (
            "response_format",
            json!({"type": "structural_tag"}),
            "response_format.type",
        ),
        ("audio", json!({"voice": "x"}), "audio"),
        ("store", json!(true), "store"),
    ] {
        let mut body = halo();
        body[name] = value;
        let answer = server.post(CHAT, body).await;
        assert_eq!(answer.status, 400);
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!(param), &json!("unsupported_parameter"))
        );
    }
    let body = json!({"model": "chat", "prompt": "a", "suffix": "b"});
    let answer = server.post("/v1/completions", body).await;
    assert_eq!(answer.json()["error"]["param"], "suffix");
}

#[tokio::test]
async fn unknown_paths_and_methods_and_content_types_have_the_same_shape() {
    let server = Server::start(PLAIN, SimRunner::default());
    let answer = server.get("/v2/chat").await;
    let message = "there is nothing at GET /v2/chat";
    assert_answer(
        &answer,
        404,
        &invalid(message, Value::Null, json!("unknown_path")),
    );
    let answer = server.get("/v1/unknown").await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["code"]),
        (404, &json!("unknown_path"))
    );

    let answer = server.get(CHAT).await;
    let message = "/v1/chat/completions does not answer GET";
    assert_answer(
        &answer,
        405,
        &invalid(message, Value::Null, json!("method_not_allowed")),
    );
    assert_eq!(answer.header("allow"), "POST");

    for content_type in ["text/plain", "application/x-www-form-urlencoded"] {
        let request = Request::post(CHAT).header("content-type", content_type);
        let answer = server
            .send(request.body(Body::from(halo().to_string())).unwrap())
            .await;
        let message = format!("the content type is `{content_type}`, it must be application/json");
        let code = json!("unsupported_media_type");
        assert_answer(&answer, 415, &invalid(&message, Value::Null, code));
    }
    let request = Request::post(CHAT).header("content-type", "application/json; charset=utf-8");
    let answer = server
        .send(request.body(Body::from(halo().to_string())).unwrap())
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn an_unknown_model_or_route_is_404() {
    let server = Server::start(PLAIN, SimRunner::default());
    let mut body = halo();
    body["model"] = json!("gpt-5");
    let message = "the model `gpt-5` does not exist; GET /v1/models lists those that do";
    let expected = invalid(message, json!("model"), json!("model_not_found"));
    assert_answer(&server.post(CHAT, body).await, 404, &expected);
    let answer = server
        .post("/routes/none/v1/chat/completions", halo())
        .await;
    let expected = invalid(
        "there is no route `none`",
        Value::Null,
        json!("route_not_found"),
    );
    assert_answer(&answer, 404, &expected);
}

#[tokio::test]
async fn a_body_of_10_mib_is_413_and_one_message_too_many_400() {
    let server = Server::start(PLAIN, SimRunner::default());
    let answer = server.send(post(CHAT, vec![b' '; 10 << 20])).await;
    let message = "the body is larger than the limit of 4194304 bytes";
    assert_answer(
        &answer,
        413,
        &invalid(message, Value::Null, json!("body_too_large")),
    );

    let mut body = halo();
    body["messages"] = Value::Array(vec![json!({"role": "user", "content": "a"}); 1000]);
    let answer = server.post(CHAT, body).await;
    let message = "1000 messages are more than the limit of 512";
    assert_answer(
        &answer,
        400,
        &invalid(message, json!("messages"), json!("too_many_messages")),
    );
    assert_alive(&server).await;
}

#[tokio::test]
async fn a_client_that_still_sends_10_mib_reads_the_413() {
    let server = Server::start(PLAIN, SimRunner::default());
    let url = format!("http://{}{CHAT}", server.listen().await);
    let sent = tokio::task::spawn_blocking(move || {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let body = vec![b'x'; 10 << 20];
        let response = agent
            .post(url)
            .content_type("application/json")
            .send(&body[..]);
        response.unwrap().status().as_u16()
    });
    assert_eq!(sent.await.unwrap(), 413);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_408() {
    let toml = format!("[server]\nbody_timeout_seconds = 0.05\n{PLAIN}");
    let server = Server::start(&toml, SimRunner::default());
    let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    let answer = server.send(post(CHAT, body)).await;
    let message = "the body did not come within 0.05 s";
    let expected = error(message, "timeout_error", Value::Null, json!("body_timeout"));
    assert_answer(&answer, 408, &expected);
}

#[tokio::test]
async fn headers_without_measure_are_431() {
    let server = Server::start(PLAIN, SimRunner::default());
    let mut request = post(CHAT, halo().to_string());
    request
        .headers_mut()
        .insert("x-big", "a".repeat(40_000).parse().unwrap());
    let answer = server.send(request).await;
    assert_eq!(answer.status, 431);
    assert_eq!(answer.json()["error"]["code"], "headers_too_large");
}

#[tokio::test]
async fn text_beyond_any_context_is_refused_before_plugins_and_tokenizer_work_through_it() {
    let toml =
        "[[routes]]\nname = 'chat'\nplugins = [{ plugin = 'pii-redact' }, { plugin = 'chatml' }]\n";
    let plugins = [("pii-redact", &component("pii-redact")[..])];
    let server = Server::with_plugins(toml, SimRunner::default(), &plugins);
    let text = "0812-3456-789 ".repeat(200_000);
    let chat = json!({"model": "chat", "messages": [{"role": "user", "content": text}]});
    for (path, body, param) in [
        (CHAT, chat, "messages"),
        (
            "/v1/completions",
            json!({"model": "chat", "prompt": text}),
            "prompt",
        ),
    ] {
        let answer = server.post(path, body).await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status.as_u16(), &error["code"], &error["param"]),
            (400, &json!("context_length_exceeded"), &json!(param))
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("at least 2800000 tokens in"), "{message}");
    }
    assert_alive(&server).await;
}
