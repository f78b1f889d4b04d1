//! `x-request-id`: the client's where it is sane, else a new one; on every answer, in every
//! log line, and in what plugins see. Requests that are refused before a handler has them on
//! record get their log line here.

use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use uuid::Uuid;

use crate::error::Unrecorded;
use crate::telemetry::{self, Refused};

/// The header.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken over.
const MAX_CHARS: usize = 128;
/// As much of a path as a log line shows.
const MAX_PATH_CHARS: usize = 200;

/// The id of a request, as an extension of it.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// A new [`Chat::call_id`](gapura_plugin_runtime::Chat::call_id).
pub(crate) fn new_call_id() -> String {
    Uuid::now_v7().to_string()
}

/// Gives the request its id and the answer the same.
pub(super) async fn request_id(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = from_client(request.headers()).unwrap_or_else(|| Uuid::now_v7().to_string());
    let header = HeaderValue::from_str(&id);
    let method = request.method().clone();
    let path: String = request.uri().path().chars().take(MAX_PATH_CHARS).collect();
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Some(refusal) = response.extensions_mut().remove::<Unrecorded>() {
        telemetry::log_refusal(&Refused {
            request_id: &id,
            method: method.as_str(),
            path: &path,
            tenant: refusal.tenant.as_deref(),
            status: response.status().as_u16(),
            code: &refusal.code,
            duration: started.elapsed(),
        });
    }
    if let Ok(header) = header {
        response.headers_mut().insert(X_REQUEST_ID, header);
    }
    response
}

/// An id that may go into logs and headers as it is.
fn from_client(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(X_REQUEST_ID)?.to_str().ok()?;
    let is_sane = |c: char| c.is_ascii_alphanumeric() || "-_.:/+=@".contains(c);
    (!id.is_empty() && id.len() <= MAX_CHARS && id.chars().all(is_sane)).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sane_ids_are_taken_over() {
        let taken = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_str(id).unwrap());
            from_client(&headers)
        };
        assert_eq!(taken("req-1_a.B:2/3"), Some("req-1_a.B:2/3".to_owned()));
        assert_eq!(taken(&"a".repeat(128)), Some("a".repeat(128)));
        for insane in ["", "a b", "a\"b", "{}", &"a".repeat(129)] {
            assert_eq!(taken(insane), None, "{insane}");
        }
    }
}
