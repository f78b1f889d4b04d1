//! What the tests of errors have in common: one request that works, and OpenAI's error shape.

use gapura_tests::{Answer, Server};
use serde_json::{Value, json};

pub(crate) const CHAT: &str = "/v1/chat/completions";

pub(crate) fn halo() -> Value {
    json!({"model": "chat", "messages": [{"role": "user", "content": "halo"}]})
}

/// An error has these four keys and no other.
pub(crate) fn error(message: &str, kind: &str, param: Value, code: Value) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

pub(crate) fn invalid(message: &str, param: Value, code: Value) -> Value {
    error(message, "invalid_request_error", param, code)
}

#[track_caller]
pub(crate) fn assert_answer(answer: &Answer, status: u16, body: &Value) {
    assert_eq!((answer.status.as_u16(), &answer.json()), (status, body));
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(!answer.header("x-request-id").is_empty());
}

/// The server still serves.
pub(crate) async fn assert_alive(server: &Server) {
    let answer = server.post(CHAT, halo()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}
