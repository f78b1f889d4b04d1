//! The administration API without a socket.

use axum::{
    body::{Body, to_bytes},
    http::Method,
};
use gapura_plugin_runtime::{PluginRuntime, RuntimeConfig};
use tower::ServiceExt as _;

use super::*;
use crate::{
    builtin::BUILTINS,
    config::{Config, Digest, Environment, Overrides},
};

const GEMMA: &[u8] = BUILTINS[1].bytes;

fn api(toml: &str) -> Router {
    let (environment, flags) = (Environment::default(), Overrides::default());
    let config = Config::parse(None, toml, &environment, &flags).unwrap();
    let runtime = RuntimeConfig {
        small_reservations: true,
        ..RuntimeConfig::default()
    };
    let runtime = PluginRuntime::new(runtime).unwrap();
    let server = config.server.clone();
    let controller =
        Controller::start(config, environment, flags, runtime, Arc::default()).unwrap();
    let state = AppState::new(server, &controller);
    router(Arc::new(controller), Arc::new(state))
}

fn with_token() -> Router {
    let digest = Digest::of(b"secret");
    api(&format!(
        "[admin]\ntoken_sha256 = '{digest}'\nmax_plugin_bytes = 200000\n"
    ))
}

async fn call(api: &Router, method: Method, path: &str, token: &str, body: &[u8]) -> (u16, Value) {
    let request = axum::http::Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {token}"))
        .body(Body::from(body.to_vec()))
        .unwrap();
    let response = api.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}

#[tokio::test]
async fn a_push_answers_with_what_now_serves() {
    let api = with_token();
    let (status, body) = call(
        &api,
        Method::PUT,
        "/admin/v1/plugins/chatml",
        "secret",
        GEMMA,
    )
    .await;
    assert_eq!(status, 201, "{body}");
    assert_eq!(body["name"], "chatml");
    assert_eq!(body["digest"], Digest::of(GEMMA).to_hex());
    assert_eq!(body["state"], "live");
    assert_eq!(body["routes"], json!(["default"]));
    assert!(body["version"].is_string());
    let (_, routes) = call(&api, Method::GET, "/admin/v1/routes", "secret", b"").await;
    assert_eq!(routes["routes"][0]["chain"], body["label"]);
    let (_, history) = call(&api, Method::GET, "/admin/v1/history", "secret", b"").await;
    assert_eq!(history["history"][0]["subject"], "plugin chatml");
    assert_eq!(history["history"][0]["outcome"], "live");
}

/// Method, path, token and body; status and code.
type Mistake<'a> = (Method, &'a str, &'a str, &'a [u8], u16, &'a str);

#[tokio::test]
async fn every_mistake_has_its_status_and_code() {
    let api = with_token();
    let big = vec![0; 200_001];
    let cases: [Mistake<'_>; 10] = [
        (Method::GET, "plugins", "wrong", b"", 401, "invalid_api_key"),
        (
            Method::PUT,
            "plugins/chatml",
            "",
            GEMMA,
            401,
            "invalid_api_key",
        ),
        (
            Method::PUT,
            "plugins/chatml",
            "secret",
            b"not wasm",
            422,
            "not_wasm",
        ),
        (
            Method::PUT,
            "plugins/UPPER",
            "secret",
            GEMMA,
            422,
            "invalid_plugin_name",
        ),
        (
            Method::PUT,
            "plugins/template",
            "secret",
            GEMMA,
            422,
            "reserved_plugin_name",
        ),
        (
            Method::PUT,
            "plugins/chatml",
            "secret",
            &big,
            413,
            "component_too_large",
        ),
        (
            Method::GET,
            "plugins/gone",
            "secret",
            b"",
            404,
            "plugin_not_found",
        ),
        (
            Method::GET,
            "nothing",
            "secret",
            b"",
            404,
            "unknown_endpoint",
        ),
        (
            Method::DELETE,
            "plugins",
            "secret",
            b"",
            405,
            "method_not_allowed",
        ),
        (Method::POST, "reload", "secret", b"", 400, "no_config_file"),
    ];
    for (method, path, token, body, status, code) in cases {
        let path = format!("/admin/v1/{path}");
        let (found, answer) = call(&api, method, &path, token, body).await;
        assert_eq!(
            (found, answer["error"]["code"].as_str()),
            (status, Some(code)),
            "{path}"
        );
        assert!(answer["error"]["message"].is_string());
    }
}

#[tokio::test]
async fn without_a_token_there_is_no_administration() {
    let api = api("");
    let (status, body) = call(&api, Method::GET, "/admin/v1/plugins", "any", b"").await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (404, Some("admin_disabled"))
    );
}

#[tokio::test]
async fn the_page_is_there_where_the_administration_is() {
    let page = |api: Router, path: &'static str| async move {
        let request = axum::http::Request::get(path).body(Body::empty()).unwrap();
        api.oneshot(request).await.unwrap()
    };
    for (path, kind) in [
        ("/ui", "text/html; charset=utf-8"),
        ("/ui/app.js", "text/javascript; charset=utf-8"),
        ("/ui/style.css", "text/css; charset=utf-8"),
    ] {
        assert_eq!(page(api(""), path).await.status(), 404, "{path}");
        let found = page(with_token(), path).await;
        assert_eq!(found.status(), 200, "{path}");
        assert_eq!(found.headers()["content-type"], kind);
        assert_eq!(found.headers()["x-content-type-options"], "nosniff");
        let policy = found.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));
    }
    assert_eq!(
        page(with_token(), "/ui/").await.headers()["location"],
        "../ui"
    );
}

#[tokio::test]
async fn plugins_are_listed_with_what_they_are() {
    let (status, body) = call(
        &with_token(),
        Method::GET,
        "/admin/v1/plugins",
        "secret",
        b"",
    )
    .await;
    assert_eq!(status, 200);
    let names: Vec<_> = body["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plugin| &plugin["name"])
        .collect();
    assert_eq!(names, ["chatml", "gemma-chat"]);
    assert_eq!(body["plugins"][0]["source"], "builtin");
    assert_eq!(body["plugins"][1]["state"], "live");
    assert_eq!(body["plugins"][1]["routes"], json!([]));
    assert_eq!(body["plugins"][0]["stages"], json!(["render"]));
}
