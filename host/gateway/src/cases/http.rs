//! HTTP requests that a case has an answer to: `[[http]]` in its file.

use std::collections::BTreeMap;

use gapura_plugin_runtime::{HttpError, HttpRequest, HttpResponse};
use serde::Deserialize;

/// A request that a plugin may send once, and what comes of it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    request: Expected,
    /// What the server answers; 200 without a body where nothing is said.
    #[serde(default)]
    response: Response,
    /// An error in place of a response, as the contract spells it.
    error: Option<Error>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    #[serde(default)]
    method: Method,
    url: String,
    /// Those that it must have, in lower case.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The whole body; any where nothing is said.
    body: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Response {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Default for Response {
    fn default() -> Self {
        Self {
            status: 200,
            headers: BTreeMap::new(),
            body: String::new(),
        }
    }
}

/// Those that a server or a network can be the reason of.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Error {
    Denied,
    Timeout,
    TooLarge,
    Connect,
    Tls,
    Protocol,
}

impl Method {
    fn as_str(self) -> &'static str {
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

impl Exchange {
    /// # Errors
    /// What cannot be of it.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.error.is_some() && self.response != Response::default() {
            return Err("it has both a response and an error".to_owned());
        }
        let status = self.response.status;
        if !(200..1000).contains(&status) {
            return Err(format!("its status is {status}, it must be 200 to 999"));
        }
        Ok(())
    }

    /// Whether it has the answer to `request`.
    pub(super) fn is_for(&self, request: &HttpRequest) -> bool {
        let expected = &self.request;
        let has = |(name, value): (&String, &String)| {
            let mut headers = request.headers.iter();
            headers.any(|(own, text)| own.eq_ignore_ascii_case(name) && text == value)
        };
        expected.method.as_str() == request.method.as_str()
            && expected.url == request.url
            && expected.headers.iter().all(has)
            && (expected.body.as_ref()).is_none_or(|body| body.as_bytes() == request.body)
    }

    /// What comes of the request.
    pub(super) fn result(self) -> Result<HttpResponse, HttpError> {
        let said = || "the case says so".to_owned();
        match self.error {
            None => Ok(HttpResponse {
                status: self.response.status,
                headers: self.response.headers.into_iter().collect(),
                body: self.response.body.into_bytes(),
            }),
            Some(Error::Denied) => Err(HttpError::Denied(said())),
            Some(Error::Timeout) => Err(HttpError::Timeout),
            Some(Error::TooLarge) => Err(HttpError::TooLarge(256 << 10)),
            Some(Error::Connect) => Err(HttpError::Connect(said())),
            Some(Error::Tls) => Err(HttpError::Tls(said())),
            Some(Error::Protocol) => Err(HttpError::Protocol(said())),
        }
    }
}
