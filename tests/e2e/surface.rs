//! What every request meets beside its endpoint: ids, keys, other origins, the list of models.

use axum::body::Body;
use axum::http::Request;
use gapura_engine::sim::SimRunner;
use gapura_tests::{PLAIN, Server, post};
use serde_json::json;

use crate::expect::{CHAT, halo};

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
