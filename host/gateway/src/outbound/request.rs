//! What a guest asks to be sent, checked: nothing of a request may reach past the host that its URL
//! names.

use gapura_plugin_runtime::{HTTP_HEADER_BYTES, HTTP_HEADERS, HttpError, HttpMethod, HttpRequest};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use url::{Host, Url};

use crate::version;

/// Most bytes of a URL.
const MAX_URL_BYTES: usize = 8 << 10;

/// Headers that are the host's: what frames the request, names its server or is about the connection.
const HOSTS_OWN: [HeaderName; 10] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::EXPECT,
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];
/// The same, without a constant.
const HOSTS_OWN_TOO: [&str; 2] = ["keep-alive", "proxy-connection"];

/// A request that can be sent, and to whom.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) target: Target,
    pub(super) request: Request<Full<Bytes>>,
}

/// Whom a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    scheme: Scheme,
    pub(super) host: Host<String>,
    pub(super) port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Target {
    /// Whom `url` names.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn of(url: &Url) -> Result<Self, String> {
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => return Err(format!("its scheme is `{other}`, not http or https")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("its URL has a user or a password; send them in a header".to_owned());
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err("its URL names no host".to_owned());
        };
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
        })
    }

    pub(super) fn is_https(&self) -> bool {
        self.scheme == Scheme::Https
    }

    pub(super) fn default_port(&self) -> u16 {
        match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    /// Host and port, for errors and the log.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Checks `request` and makes it what is sent.
///
/// # Errors
/// [`HttpError::InvalidRequest`] names what is wrong.
pub(crate) fn prepare(request: HttpRequest) -> Result<Prepared, HttpError> {
    check(request).map_err(HttpError::InvalidRequest)
}

fn check(asked: HttpRequest) -> Result<Prepared, String> {
    let HttpRequest {
        method,
        url,
        headers,
        body,
    } = asked;
    if url.len() > MAX_URL_BYTES {
        let bytes = url.len();
        return Err(format!(
            "its URL has {bytes} bytes, {MAX_URL_BYTES} are allowed"
        ));
    }
    let url = Url::parse(&url).map_err(|error| format!("its URL cannot be read: {error}"))?;
    let target = Target::of(&url)?;
    let has_none = matches!(method, HttpMethod::Get | HttpMethod::Head);
    if has_none && !body.is_empty() {
        return Err(format!("a {} has no body", method.as_str()));
    }
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = match method {
        HttpMethod::Get => Method::GET,
        HttpMethod::Head => Method::HEAD,
        HttpMethod::Post => Method::POST,
        HttpMethod::Put => Method::PUT,
        HttpMethod::Patch => Method::PATCH,
        HttpMethod::Delete => Method::DELETE,
    };
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    *request.uri_mut() = path
        .parse::<Uri>()
        .map_err(|error| format!("its path cannot be sent: {error}"))?;
    *request.headers_mut() = guests_own(headers)?;
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let host = HeaderValue::from_str(authority);
    let host = host.map_err(|_| "its host cannot be sent".to_owned())?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, host);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers
        .entry(header::USER_AGENT)
        .or_insert(HeaderValue::from_static(version::USER_AGENT));
    Ok(Prepared { target, request })
}

fn guests_own(headers: Vec<(String, String)>) -> Result<HeaderMap, String> {
    if headers.len() > HTTP_HEADERS {
        let count = headers.len();
        return Err(format!(
            "it has {count} headers, {HTTP_HEADERS} are allowed"
        ));
    }
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > HTTP_HEADER_BYTES {
        return Err(format!(
            "its headers have {bytes} bytes, {HTTP_HEADER_BYTES} are allowed"
        ));
    }
    let mut map = HeaderMap::with_capacity(headers.len() + 3);
    for (name, value) in headers {
        let Ok(known) = HeaderName::from_bytes(name.as_bytes()) else {
            return Err(format!("`{}` is not a header's name", name.escape_debug()));
        };
        if HOSTS_OWN.contains(&known) || HOSTS_OWN_TOO.contains(&known.as_str()) {
            return Err(format!("the header `{known}` is the host's to set"));
        }
        let Ok(value) = HeaderValue::from_str(&value) else {
            return Err(format!(
                "the value of the header `{known}` is not visible ASCII"
            ));
        };
        map.append(known, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(url: &str) -> HttpRequest {
        HttpRequest {
            method: HttpMethod::Get,
            url: url.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    fn problem(request: HttpRequest) -> String {
        match prepare(request) {
            Err(HttpError::InvalidRequest(problem)) => problem,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_request_is_for_the_host_of_its_url() {
        let prepared = prepare(get("https://API.example.com:443/a b?q=ü#here")).unwrap();
        let request = &prepared.request;
        assert_eq!(request.uri(), "/a%20b?q=%C3%BC");
        assert_eq!(request.headers()[header::HOST], "api.example.com");
        assert_eq!(prepared.target.authority(), "api.example.com:443");
        let prepared = prepare(get("http://[::1]:8080")).unwrap();
        assert_eq!(prepared.request.uri(), "/");
        assert_eq!(prepared.request.headers()[header::HOST], "[::1]:8080");
    }

    #[test]
    fn what_cannot_be_sent_is_named() {
        for (url, expected) in [
            ("api.example.com", "its URL cannot be read"),
            ("ftp://api.example.com/", "its scheme is `ftp`"),
            ("file:///etc/passwd", "its scheme is `file`"),
            ("https://me:secret@api.example.com/", "a user or a password"),
            ("https:///", "its URL cannot be read"),
            ("http://a\u{0}b/", "its URL cannot be read"),
        ] {
            let problem = problem(get(url));
            assert!(problem.contains(expected), "{url}: {problem}");
            assert!(!problem.contains("secret"), "{problem}");
        }
        let long = get(&format!("https://a.example/{}", "x".repeat(MAX_URL_BYTES)));
        assert!(problem(long).contains("8210 bytes, 8192 are allowed"));
        let mut with_body = get("https://a.example/");
        with_body.body = vec![1];
        assert_eq!(problem(with_body), "a GET has no body");
    }

    #[test]
    fn headers_that_are_the_hosts_cannot_be_set() {
        let with = |name: &str, value: &str| {
            let mut request = get("https://a.example/");
            request.headers.push((name.to_owned(), value.to_owned()));
            request
        };
        for name in [
            "Host",
            "content-length",
            "Transfer-Encoding",
            "expect",
            "connection",
            "Keep-Alive",
            "te",
            "trailer",
            "upgrade",
            "proxy-authorization",
            "Proxy-Connection",
        ] {
            let lower = name.to_lowercase();
            let expected = format!("the header `{lower}` is the host's to set");
            assert_eq!(problem(with(name, "x")), expected);
        }
        for (name, value) in [("a b", "x"), ("a\r\nb", "x"), ("", "x")] {
            assert!(problem(with(name, value)).contains("is not a header's name"));
        }
        assert!(problem(with("x-a", "1\r\nhost: evil")).contains("`x-a` is not visible"));
        let mut many = get("https://a.example/");
        many.headers = vec![("a".to_owned(), "b".to_owned()); HTTP_HEADERS + 1];
        assert_eq!(problem(many), "it has 65 headers, 64 are allowed");
        assert!(problem(with("a", &"b".repeat(HTTP_HEADER_BYTES))).contains("16385 bytes"));
    }
}
