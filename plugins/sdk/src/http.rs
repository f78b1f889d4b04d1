//! HTTP requests to the hosts that the route allows. Needs the grant `http`.
//!
//! The route names the hosts and bounds how many requests there may be in one request of a client,
//! their time and what comes back. Redirects are not followed, and nothing is remembered from one
//! request to the next.
//!
//! ```
//! use core::time::Duration;
//! use gapura_plugin_sdk::http::{self, Request, Response};
//! use gapura_plugin_sdk::testing;
//!
//! testing::respond_http(Ok(Response { status: 200, headers: vec![], body: b"ok".to_vec() }));
//! let request = Request::post("https://api.example.com/check", br#"{"text":"halo"}"#)
//!     .header("content-type", "application/json")
//!     .timeout(Duration::from_millis(300));
//! let response = http::send(&request)?;
//! assert_eq!((response.status, response.text().as_ref()), (200, "ok"));
//! assert_eq!(testing::sent_http(), [request]);
//! # Ok::<(), http::HttpError>(())
//! ```

use core::time::Duration;
use std::borrow::Cow;

pub use crate::bindings::{Header, HttpError, Method, Request, Response};
use crate::host;

/// Sends, and waits for the whole response. The wait costs none of the plugin's own time.
///
/// # Errors
/// [`HttpError`] says why there is no response; what to do then is the plugin's decision.
pub fn send(request: &Request) -> Result<Response, HttpError> {
    host::send_http(request)
}

impl Request {
    /// A request without headers and body, with the route's time.
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self {
            method,
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout_ms: None,
        }
    }

    /// A `GET` of `url`.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new(Method::Get, url)
    }

    /// A `POST` of `body` to `url`.
    pub fn post(url: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..Self::new(Method::Post, url)
        }
    }

    /// The same with this header more.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        self.headers.push(Header { name, value });
        self
    }

    /// The same with this much time, in whole milliseconds; the route's is the most there can be.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout_ms = Some(u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX));
        self
    }
}

impl Response {
    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| header.value.as_str())
    }

    /// The body as text; bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}
