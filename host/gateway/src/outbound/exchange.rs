//! One request and its response on one connection.

use std::pin::pin;

use futures_util::future::{Either, select};
use gapura_plugin_runtime::{HTTP_HEADER_BYTES, HTTP_HEADERS, HttpError, HttpResponse};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::{Body as _, Bytes};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Sends `request` over `stream` and reads all of the response, whose body may have
/// `max_body_bytes`.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    max_body_bytes: u64,
) -> Result<HttpResponse, HttpError> {
    let handshake = http1::Builder::new()
        .max_headers(HTTP_HEADERS)
        .max_buf_size(HTTP_HEADER_BYTES)
        .handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(failed)?;
    let response = pin!(async move {
        let response = sender.send_request(request).await.map_err(failed)?;
        read(response, max_body_bytes).await
    });
    // The connection is driven here and not by a task, so that it ends with this future. Once it has
    // ended, what it read is still to be taken.
    match select(response, pin!(connection)).await {
        Either::Left((response, _)) => response,
        Either::Right((_, response)) => response.await,
    }
}

async fn read(
    response: hyper::Response<hyper::body::Incoming>,
    max_body_bytes: u64,
) -> Result<HttpResponse, HttpError> {
    let too_large = || HttpError::TooLarge(max_body_bytes);
    let (head, mut rest) = response.into_parts();
    if rest.size_hint().lower() > max_body_bytes {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(frame) = rest.frame().await {
        // Trailers say nothing that a guest is told.
        let Ok(data) = frame.map_err(failed)?.into_data() else {
            continue;
        };
        if (body.len() + data.len()) as u64 > max_body_bytes {
            return Err(too_large());
        }
        body.extend_from_slice(&data);
    }
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = head.headers.iter();
    Ok(HttpResponse {
        status: head.status.as_u16(),
        headers: headers
            .map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes())))
            .collect(),
        body,
    })
}

fn failed(error: hyper::Error) -> HttpError {
    if error.is_parse_too_large() {
        return HttpError::TooLarge(HTTP_HEADER_BYTES as u64);
    }
    HttpError::Protocol(match error {
        error if error.is_parse() => "what came is not HTTP/1.1".to_owned(),
        _ => "the connection ended before the whole response had come".to_owned(),
    })
}
