//! The two ways in which a request to the model ends, as seen by its handler.

use axum::http::HeaderValue;
use axum::response::{IntoResponse as _, Response};

use crate::error::{ApiError, X_GAPURA_CHAIN};
use crate::telemetry::RequestRecord;

/// The answer, or the error that came while it was generated, with the plugins that made it.
pub(super) fn answered(response: Result<Response, ApiError>, chain: &HeaderValue) -> Response {
    let mut response = response.unwrap_or_else(ApiError::into_response);
    response.headers_mut().insert(X_GAPURA_CHAIN, chain.clone());
    response
}

/// An error before the answer began, on the record.
pub(super) fn failed(error: ApiError, mut record: RequestRecord) -> Response {
    record.ended(error.status().as_u16(), error.code());
    error.into_response()
}
