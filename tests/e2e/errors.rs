//! Bad requests and bad moments: each is an error in OpenAI's shape with all four keys, and
//! the server answers the next request.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Request;
use futures_util::stream;
use gapura_engine::EngineConfig;
use gapura_engine::sim::{SimFault, SimLatency, SimRunner};
use gapura_tests::{Answer, PLAIN, Server, post};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn halo() -> Value {
    json!({"model": "chat", "messages": [{"role": "user", "content": "halo"}]})
}

/// An error has these four keys and no other.
fn error(message: &str, kind: &str, param: Value, code: Value) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

fn invalid(message: &str, param: Value, code: Value) -> Value {
    error(message, "invalid_request_error", param, code)
}

#[track_caller]
fn assert_answer(answer: &Answer, status: u16, body: &Value) {
    assert_eq!((answer.status.as_u16(), &answer.json()), (status, body));
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(!answer.header("x-request-id").is_empty());
}

/// The server still serves.
async fn assert_alive(server: &Server) {
    let answer = server.post(CHAT, halo()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

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
            json!({"type": "json_object"}),
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
async fn while_the_model_loads_lists_answer_and_chats_are_503() {
    let server = Server::loading(PLAIN, SimRunner::default(), EngineConfig::default());
    let answer = server.post(CHAT, halo()).await;
    let message = "the model is still loading";
    let expected = error(message, "server_error", Value::Null, json!("model_loading"));
    assert_answer(&answer, 503, &expected);
    assert_eq!(
        (
            answer.header("retry-after"),
            answer.header("retry-after-ms")
        ),
        ("2", "2000")
    );
    assert_eq!(server.get("/readyz").await.status, 503);
    assert_eq!(server.get("/livez").await.status, 200);
    let health = server.get("/health").await;
    assert_eq!(health.status, 503);
    assert_eq!(
        health.json(),
        json!({"status": "loading", "model_loaded": false, "version": "0.1.0", "device": null})
    );
    let models = server.get("/v1/models").await;
    assert_eq!(
        (models.status.as_u16(), &models.json()["data"][0]["id"]),
        (200, &json!("chat"))
    );
    server.load();
    assert_alive(&server).await;
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(
        server.get("/health").await.json(),
        json!({"status": "ok", "model_loaded": true, "version": "0.1.0", "device": "sim"})
    );
}

#[tokio::test]
async fn while_the_server_drains_it_is_not_ready_but_alive() {
    let server = Server::start(PLAIN, SimRunner::default());
    server.state.drain();
    let answer = server.post(CHAT, halo()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("retry-after")),
        (503, "5")
    );
    assert_eq!(answer.json()["error"]["code"], "shutting_down");
    assert_eq!(server.get("/readyz").await.status, 503);
    assert_eq!(server.get("/livez").await.status, 200);
    assert_eq!(server.get("/health").await.json()["status"], "draining");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_429_at_once() {
    let latency = SimLatency {
        per_decode_step: Duration::from_millis(20),
        ..SimLatency::default()
    };
    let runner = SimRunner::default()
        .answering("selamat pagi semua")
        .with_latency(latency);
    let limits = EngineConfig {
        max_num_seqs: 1,
        max_queued: 1,
        ..EngineConfig::default()
    };
    let server = Server::with_engine(PLAIN, runner, limits);
    let mut body = halo();
    body["n"] = json!(8);
    let answer = server.post(CHAT, body).await;
    let message = "1 requests are waiting already";
    let expected = error(
        message,
        "rate_limit_error",
        Value::Null,
        json!("overloaded"),
    );
    assert_answer(&answer, 429, &expected);
    assert_eq!(
        (
            answer.header("retry-after"),
            answer.header("retry-after-ms")
        ),
        ("1", "1000")
    );
    // Those of the eight that got in are dropped with the request.
    for _ in 0..100 {
        let stats = server.engine.stats();
        if stats.running + stats.waiting == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_alive(&server).await;
}

#[tokio::test]
async fn a_failed_step_is_500_without_details_and_costs_one_request() {
    let runner = SimRunner::default().with_faults(|step, _| {
        (step == 0).then(|| SimFault::Error("device 0x7f lost its mind".into()))
    });
    let server = Server::start(PLAIN, runner);
    let answer = server.post(CHAT, halo()).await;
    let message = "the model failed on this request";
    let expected = error(message, "server_error", Value::Null, json!("engine_error"));
    assert_answer(&answer, 500, &expected);
    assert!(answer.header("x-gapura-chain").starts_with("chatml@"));
    assert_alive(&server).await;
}

#[tokio::test]
async fn the_deadline_of_a_request_is_504_and_not_to_be_retried() {
    let latency = SimLatency {
        per_decode_step: Duration::from_millis(10),
        ..SimLatency::default()
    };
    let runner = SimRunner::default()
        .answering(&"a".repeat(1000))
        .with_latency(latency);
    let toml = format!("[server]\nrequest_timeout_seconds = 0.2\n{PLAIN}");
    let server = Server::start(&toml, runner);
    let answer = server.post(CHAT, halo()).await;
    let message = "the answer took longer than the limit of 0.2 s";
    let expected = error(
        message,
        "timeout_error",
        Value::Null,
        json!("deadline_exceeded"),
    );
    assert_answer(&answer, 504, &expected);
    assert_eq!(answer.header("x-should-retry"), "false");
}

#[tokio::test]
async fn a_sane_request_id_comes_back_and_another_is_replaced() {
    let server = Server::start(PLAIN, SimRunner::default());
    for (sent, is_kept) in [("trace-1.a:b", true), ("no spaces", false)] {
        let mut request = post(CHAT, halo().to_string());
        request
            .headers_mut()
            .insert("x-request-id", sent.parse().unwrap());
        let answer = server.send(request).await;
        assert_eq!(answer.header("x-request-id") == sent, is_kept);
    }
}

#[tokio::test]
async fn models_are_listed_and_found_with_raw_and_escaped_slashes() {
    let server = Server::start(PLAIN, SimRunner::default().with_id("org/model"));
    let models = server.get("/v1/models").await.json();
    let ids: Vec<_> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| &model["id"])
        .collect();
    assert_eq!(ids, ["chat", "org/model"]);
    for path in [
        "/v1/models/org/model",
        "/v1/models/org%2Fmodel",
        "/routes/chat/v1/models/org/model",
    ] {
        let model = server.get(path).await;
        assert_eq!(
            model.json(),
            json!({
                "id": "org/model", "object": "model", "created": model.json()["created"],
                "owned_by": "gapura", "route": "chat", "max_model_len": 8192,
            })
        );
    }
    let answer = server.get("/v1/models/none").await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["code"]),
        (404, &json!("model_not_found"))
    );
}

#[tokio::test]
async fn keys_are_asked_for_everywhere_but_at_probes() {
    let digest = gapura::config::Digest::of(b"rahasia");
    let toml = format!("{PLAIN}[[keys]]\nname = 'warung'\nsha256 = '{digest}'\n");
    let server = Server::start(&toml, SimRunner::default());
    for path in ["/health", "/livez", "/readyz", "/version", "/metrics"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    assert_eq!(server.get("/v1/models").await.status, 401);
    let answer = server.post(CHAT, halo()).await;
    assert_eq!(answer.status, 401);
    let error = &answer.json()["error"];
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("authentication_error"), &json!("invalid_api_key"))
    );
    let mut request = post(CHAT, halo().to_string());
    request
        .headers_mut()
        .insert("authorization", "Bearer rahasia".parse().unwrap());
    assert_eq!(server.send(request).await.status, 200);
}

#[tokio::test]
async fn pages_of_other_origins_are_shut_out_unless_they_are_named() {
    let preflight = |origin: &str| {
        Request::options(CHAT)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type",
            )
            .body(Body::empty())
            .expect("a right request")
    };
    let from = |origin: &str| {
        let mut request = post(CHAT, halo().to_string());
        let origin = origin.parse().expect("a right header");
        request.headers_mut().insert("origin", origin);
        request
    };
    let allowed = "access-control-allow-origin";

    let closed = Server::start(PLAIN, SimRunner::default());
    for request in [preflight("https://warung.id"), from("https://warung.id")] {
        let answer = closed.send(request).await;
        let told = answer.headers.keys().map(|name| name.as_str());
        let told: Vec<_> = told
            .filter(|name| name.starts_with("access-control"))
            .collect();
        assert!(told.is_empty(), "{told:?}");
    }
    assert_eq!(
        closed.send(preflight("https://warung.id")).await.status,
        405
    );

    let toml = format!("[server]\ncors_allow_origins = ['https://warung.id']\n{PLAIN}");
    let open = Server::start(&toml, SimRunner::default());
    for (origin, told) in [
        ("https://warung.id", "https://warung.id"),
        ("https://evil.id", ""),
    ] {
        assert_eq!(open.send(preflight(origin)).await.header(allowed), told);
        assert_eq!(open.send(from(origin)).await.header(allowed), told);
    }
    let answer = open.send(preflight("https://warung.id")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-methods"), "GET,POST");
}
