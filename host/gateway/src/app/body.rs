//! Reading a JSON body within its limits of size and time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt as _;

use crate::config::ServerConfig;
use crate::error::ApiError;

/// Of a body that is too large so much more is read and thrown away, because a client that
/// still sends does not see the answer.
const MAX_DISCARDED_BYTES: usize = 64 << 20;
/// And so long.
const MAX_DISCARD_TIME: Duration = Duration::from_secs(5);

/// The body of a request that must be JSON.
///
/// # Errors
/// 415 for another content type, 413 above the limit of bytes, 408 above that of time, 400
/// where the connection breaks.
pub(crate) async fn read_body(request: Request, server: &ServerConfig) -> Result<Bytes, ApiError> {
    check_content_type(request.headers())?;
    let reading = read(request.into_body(), server.max_body_bytes);
    match tokio::time::timeout(server.body_timeout, reading).await {
        Ok(body) => body,
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout_error",
            format!(
                "the body did not come within {} s",
                server.body_timeout.as_secs_f64()
            ),
        )
        .with_code("body_timeout")),
    }
}

async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut frames = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|error| {
            ApiError::bad_request(format!("the body could not be read: {error}"))
        })?;
        if bytes.len() + frame.len() > limit {
            let rest = async {
                let mut num_discarded = 0;
                while let Some(Ok(frame)) = frames.next().await {
                    num_discarded += frame.len();
                    if num_discarded > MAX_DISCARDED_BYTES {
                        break;
                    }
                }
            };
            // However it ends, the answer is the same.
            let _ = tokio::time::timeout(MAX_DISCARD_TIME, rest).await;
            return Err(too_large(limit));
        }
        bytes.extend_from_slice(&frame);
    }
    Ok(bytes.into())
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "invalid_request_error",
        format!("the body is larger than the limit of {limit} bytes"),
    )
    .with_code("body_too_large")
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.to_str());
    let found = match content_type {
        Some(Ok(content_type)) => {
            let essence = content_type.split(';').next().unwrap_or_default().trim();
            let essence = essence.to_ascii_lowercase();
            if essence == "application/json"
                || (essence.starts_with("application/") && essence.ends_with("+json"))
            {
                return Ok(());
            }
            format!("`{content_type}`")
        }
        Some(Err(_)) => "not readable".to_owned(),
        None => "missing".to_owned(),
    };
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "invalid_request_error",
        format!("the content type is {found}, it must be application/json"),
    )
    .with_code("unsupported_media_type"))
}
