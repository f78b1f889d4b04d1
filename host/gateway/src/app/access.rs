//! What stands before every handler: keys, rates and the size of headers.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::error::{ApiError, Unrecorded};
use crate::state::AppState;

/// Most bytes of header names and values together.
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// Lets the holder of a key through, at the rate of that key, and tells the handler who it is.
pub(super) async fn authenticate(
    State(state): State<Arc<AppState>>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match state.auth.load().authenticate(request.headers()) {
        Ok(caller) => caller,
        Err(error) => return denied(&state, error, None),
    };
    // Lists of models cost nothing.
    if *request.method() == Method::POST
        && let Err(error) = state.rate.admit(&caller, Instant::now())
    {
        return denied(&state, error, caller.tenant.clone());
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

fn denied(state: &AppState, error: ApiError, tenant: Option<String>) -> Response {
    let metrics = &state.metrics;
    metrics.http_request("denied", "", error.status().as_u16());
    let mut response = error.into_response();
    if let Some(unrecorded) = response.extensions_mut().get_mut::<Unrecorded>() {
        unrecorded.tenant = tenant;
    }
    response
}

/// Refuses headers that no client of ours needs.
pub(super) async fn limit_headers(request: Request, next: Next) -> Result<Response, ApiError> {
    let headers = request.headers().iter();
    let num_bytes: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if num_bytes > MAX_HEADER_BYTES {
        return Err(ApiError::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "invalid_request_error",
            format!("{num_bytes} bytes of headers are more than the limit of {MAX_HEADER_BYTES}"),
        )
        .with_code("headers_too_large"));
    }
    Ok(next.run(request).await)
}
