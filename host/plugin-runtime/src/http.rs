//! HTTP requests of guests, and how many a binding may send in one request. What is allowed, and
//! how it is sent, is the gateway's affair.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::plugin::PluginId;

/// Most bytes of a request's body, as the contract says.
pub const HTTP_REQUEST_BYTES: usize = 256 << 10;
/// Most headers of a request or a response, as the contract says.
pub const HTTP_HEADERS: usize = 64;
/// Most bytes of the headers of a request or a response together, as the contract says.
pub const HTTP_HEADER_BYTES: usize = 16 << 10;

/// The network, as far as plugins see it.
pub trait Http: Send + Sync {
    /// Sends, and waits for the whole response. Dropping the future closes the connection.
    ///
    /// An implementation sends nothing to a host that the binding's grant does not allow, and reads
    /// no more than the caller may have.
    fn send<'a>(&'a self, caller: HttpCaller<'a>, request: HttpRequest) -> Sending<'a>;
}

/// What [`Http::send`] returns.
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

/// Who sends.
#[derive(Debug, Clone, Copy)]
pub struct HttpCaller<'a> {
    /// The plugin.
    pub plugin: &'a PluginId,
    /// The client's request, as logs name it.
    pub request_id: &'a str,
    /// Its place among the bindings of the chain, whose grant counts.
    pub binding: usize,
    /// How long it may take. The caller gives up then.
    pub within: Duration,
    /// Most bytes of the response's body.
    pub max_response_bytes: u64,
}

/// What is asked of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HttpMethod {
    /// Reads.
    Get,
    /// Reads the header alone.
    Head,
    /// Has the body processed.
    Post,
    /// Puts the body in place of what is there.
    Put,
    /// Changes what is there.
    Patch,
    /// Removes what is there.
    Delete,
}

impl HttpMethod {
    /// As it is sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// A request as the guest wrote it; nothing of it has been checked but the size of its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// What is asked.
    pub method: HttpMethod,
    /// Of whom.
    pub url: String,
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// At most [`HTTP_REQUEST_BYTES`].
    pub body: Vec<u8>,
}

/// What the server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// Such as 200.
    pub status: u16,
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Why there is no response. The guest is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpError {
    /// The route does not allow the host, or its address is private.
    #[error("denied: {0}")]
    Denied(String),
    /// The request cannot be sent.
    #[error("the request cannot be sent: {0}")]
    InvalidRequest(String),
    /// The request has had all its requests.
    #[error("the request has had {0}")]
    Budget(String),
    /// The time was over.
    #[error("the time is over")]
    Timeout,
    /// Something has more than so many bytes.
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    /// There is no connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// The server is not who it should be, or speaks no TLS.
    #[error("no secure connection: {0}")]
    Tls(String),
    /// The connection ended early, or what came is not HTTP.
    #[error("no response: {0}")]
    Protocol(String),
}

/// No network: every request ends with the same error.
#[derive(Debug, Clone)]
pub struct NoHttp(pub HttpError);

impl Http for NoHttp {
    fn send<'a>(&'a self, _caller: HttpCaller<'a>, _request: HttpRequest) -> Sending<'a> {
        Box::pin(std::future::ready(Err(self.0.clone())))
    }
}

/// How many requests each binding of one request has sent so far.
#[derive(Debug, Default)]
pub(crate) struct Sent(Mutex<Vec<(usize, u64)>>);

impl Sent {
    /// Takes one request out of what `limits` give the binding `index`.
    pub(crate) fn take(&self, index: usize, limits: &Limits) -> Result<(), HttpError> {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = sent.iter().position(|(binding, _)| *binding == index);
        let place = place.unwrap_or_else(|| {
            sent.push((index, 0));
            sent.len() - 1
        });
        let (_, count) = &mut sent[place];
        if *count >= limits.http_requests {
            let spent = format!("all its HTTP requests, {}", limits.http_requests);
            return Err(HttpError::Budget(spent));
        }
        *count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_has_its_own_requests() {
        let limits = Limits {
            http_requests: 2,
            ..Limits::default()
        };
        let sent = Sent::default();
        assert_eq!(sent.take(0, &limits), Ok(()));
        assert_eq!(sent.take(0, &limits), Ok(()));
        let none_left = HttpError::Budget("all its HTTP requests, 2".to_owned());
        assert_eq!(sent.take(0, &limits), Err(none_left));
        assert_eq!(sent.take(1, &limits), Ok(()), "another binding");
    }
}
