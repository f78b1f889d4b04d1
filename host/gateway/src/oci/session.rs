//! Exchanges with one registry: redirects, logins and limits. Who is there is said to the registry
//! alone, and to where it says that tokens come from; never to where a redirect leads.

use std::{
    io::Read as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use ureq::{
    AsSendBody, Body,
    http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Uri, header},
};

use super::{
    Login, OciError, Reference, Registries, Registry,
    challenge::Challenge,
    error::{Said, printable},
    reference,
};
use crate::config::Secret;

/// Until a connection stands.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Without a byte in either direction.
const STALL_TIME: Duration = Duration::from_secs(10);
/// Everything that one pull asks for, redirects and tokens included.
const PULL_TIME: Duration = Duration::from_secs(60);
/// One exchange of a publication: whoever publishes sees it, and may have a slow line.
const PUSH_TIME: Duration = Duration::from_secs(300);
/// Blobs often lie elsewhere; nothing lies at the end of a long chain.
const MAX_REDIRECTS: usize = 3;
const MAX_TOKEN: u64 = 64 << 10;
/// What is read of an answer that is an error.
const MAX_SAID: u64 = 4 << 10;

/// Asks one registry. What it was let in with is kept for the next exchange.
pub(super) struct Session {
    agent: ureq::Agent,
    reference: Reference,
    registry: Registry,
    is_plain: bool,
    /// When whatever is pulled has to be here.
    end: Instant,
    /// Of the `Authorization` header, once the registry has asked for one.
    authorization: Mutex<Option<Secret>>,
}

/// What a token is to allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Pull,
    Push,
}

/// One request, as it is sent to each address that it is sent to.
pub(super) struct Ask<'a> {
    pub(super) scope: Scope,
    pub(super) method: Method,
    pub(super) url: String,
    /// At most one, beside that of authorization.
    pub(super) header: Option<(HeaderName, &'static str)>,
    pub(super) body: Option<&'a [u8]>,
}

/// An answer, and who gave it.
pub(super) struct Reply {
    response: Response<Body>,
    /// `HOST[:PORT]`.
    authority: String,
    /// Whether that is the registry itself.
    is_own: bool,
}

impl Reply {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }
}

impl Session {
    /// With the registry of `reference`, as `registries` say that it is reached. The time for a pull
    /// begins now.
    pub(super) fn new(reference: &Reference, registries: &Registries) -> Self {
        let registry = registries
            .get(reference.registry())
            .cloned()
            .unwrap_or_default();
        let is_loopback = reference.is_loopback();
        let is_plain = registry.plain_http.unwrap_or(is_loopback);
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .https_only(!is_plain)
            // Followed here, where it is known who may hear what.
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIME))
            .timeout_per_read(Some(STALL_TIME))
            .timeout_per_write(Some(STALL_TIME))
            .user_agent(concat!("gapura/", env!("CARGO_PKG_VERSION")));
        let config = match is_loopback {
            true => config.proxy(None),
            false => config,
        };
        Self {
            agent: config.build().into(),
            reference: reference.clone(),
            registry,
            is_plain,
            end: Instant::now() + PULL_TIME,
            authorization: Mutex::new(None),
        }
    }

    #[cfg(test)]
    pub(super) fn ends_in(&mut self, time: Duration) {
        self.end = Instant::now() + time;
    }

    /// The address of `path` in the reference's repository.
    pub(super) fn url(&self, path: &str) -> String {
        format!(
            "{}/v2/{}/{path}",
            self.origin(),
            self.reference.repository()
        )
    }

    /// Sends `ask`, and once more where the registry asks who is there.
    pub(super) fn send(&self, ask: &Ask<'_>) -> Result<Reply, OciError> {
        let reply = self.follow(ask)?;
        // Whoever else asks is a stranger, whatever he says that tokens come from.
        if reply.status() != StatusCode::UNAUTHORIZED || !reply.is_own {
            return Ok(reply);
        }
        let headers = reply.response.headers();
        let challenge = Challenge::find(texts(headers, &header::WWW_AUTHENTICATE));
        let authorization = match (challenge, &self.registry.login) {
            (Some(Challenge::Bearer { realm, service }), _) => {
                let token = self.token(ask.scope, &realm, service.as_deref())?;
                Secret::new(format!("Bearer {}", token.expose()))
            }
            (Some(Challenge::Basic), Some(login)) => basic(login),
            (Some(Challenge::Basic) | None, _) => return Ok(reply),
        };
        *self.kept() = Some(authorization);
        self.follow(ask)
    }

    /// Sends `ask` to its address, and to where that leads.
    fn follow(&self, ask: &Ask<'_>) -> Result<Reply, OciError> {
        let mut url = ask.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let reply = self.once(ask, &url)?;
            let leads_on = match reply.status() {
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
                StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
                    matches!(ask.method, Method::GET | Method::HEAD)
                }
                _ => false,
            };
            if !leads_on {
                return Ok(reply);
            }
            url = self.location(&url, &reply)?;
        }
        let reason = format!("it redirects more than {MAX_REDIRECTS} times");
        Err(self.malformed("reply", reason))
    }

    fn once(&self, ask: &Ask<'_>, url: &str) -> Result<Reply, OciError> {
        let is_own = self.is_own(url);
        let mut request = Request::builder().method(ask.method.clone()).uri(url);
        if let Some((name, value)) = &ask.header {
            request = request.header(name, *value);
        }
        if let (true, Some(secret)) = (is_own, &*self.kept()) {
            request = request.header(header::AUTHORIZATION, secret.expose());
        }
        let authority = request
            .uri_ref()
            .and_then(Uri::authority)
            .map(ToString::to_string);
        let response = match ask.body {
            Some(body) => self.run(ask.scope, request.body(body)),
            None => self.run(ask.scope, request.body(())),
        }?;
        Ok(Reply {
            response,
            authority: authority.unwrap_or_default(),
            is_own,
        })
    }

    fn run<B: AsSendBody>(
        &self,
        scope: Scope,
        request: ureq::http::Result<Request<B>>,
    ) -> Result<Response<Body>, OciError> {
        // Only an address that is none makes a request that is none.
        let request =
            request.map_err(|error| self.malformed("reply", printable(&error.to_string())))?;
        let left = self.left(scope)?;
        let request = self.agent.configure_request(request);
        let request = request.timeout_global(Some(left)).build();
        self.agent.run(request).map_err(|error| self.failed(&error))
    }

    /// How long what is asked for `scope` may still take.
    fn left(&self, scope: Scope) -> Result<Duration, OciError> {
        let left = match scope {
            Scope::Pull => self.end.saturating_duration_since(Instant::now()),
            Scope::Push => PUSH_TIME,
        };
        match left.is_zero() {
            true => Err(self.failed(&ureq::Error::Timeout(ureq::Timeout::Global))),
            false => Ok(left),
        }
    }

    /// A token for `scope` from `realm`.
    fn token(&self, scope: Scope, realm: &str, service: Option<&str>) -> Result<Secret, OciError> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        self.check_realm(realm)?;
        let actions = match scope {
            Scope::Pull => "pull",
            Scope::Push => "pull,push",
        };
        let scope_name = format!("repository:{}:{actions}", self.reference.repository());
        let mut query = vec![("scope", scope_name.as_str())];
        query.extend(service.map(|service| ("service", service)));
        let mut request = self.agent.get(realm).query_pairs(query);
        if let Some(login) = &self.registry.login {
            request = request.header(header::AUTHORIZATION, basic(login).expose());
        }
        let request = request
            .config()
            .timeout_global(Some(self.left(scope)?))
            // Without the login, as ureq's default has it.
            .max_redirects(MAX_REDIRECTS as u32)
            .build();
        let response = request.call().map_err(|error| self.failed(&error))?;
        let reply = Reply {
            response,
            authority: self.reference.registry().to_owned(),
            is_own: true,
        };
        let reply = self.expect("request for a token", StatusCode::OK, reply)?;
        let text = self.read("token", MAX_TOKEN, reply)?;
        let token: Token = serde_json::from_slice(&text)
            // Without the text, which may hold what nobody should read.
            .map_err(|_| self.malformed("token", "it is not JSON with a `token`".to_owned()))?;
        token
            .token
            .or(token.access_token)
            .filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()))
            .map(Secret::new)
            .ok_or_else(|| self.malformed("token", "it has none that can be sent".to_owned()))
    }

    /// A registry may send the login anywhere, but not through the open.
    fn check_realm(&self, realm: &str) -> Result<(), OciError> {
        let uri: Option<Uri> = realm.parse().ok();
        let scheme = uri.as_ref().and_then(Uri::scheme_str);
        let authority = uri.as_ref().and_then(Uri::authority);
        let is_safe = match (scheme, authority) {
            (Some("https"), Some(_)) => true,
            (Some("http"), Some(authority)) => {
                let authority = authority.as_str();
                let is_here = self.reference.is_loopback() && reference::is_loopback(authority);
                self.is_plain && (authority == self.reference.registry() || is_here)
            }
            _ => false,
        };
        match is_safe {
            true => Ok(()),
            false => Err(self.malformed(
                "challenge",
                format!(
                    "tokens would come from {}, which is not HTTPS",
                    printable(realm)
                ),
            )),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Secret>> {
        // One value, replaced whole.
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn origin(&self) -> String {
        let scheme = if self.is_plain { "http" } else { "https" };
        format!("{scheme}://{}", self.reference.registry())
    }

    /// Whether `url` is one of the registry itself.
    fn is_own(&self, url: &str) -> bool {
        let own = place(&self.origin());
        own.is_some() && place(url) == own
    }

    /// Where the answer to `url` leads.
    pub(super) fn location(&self, url: &str, reply: &Reply) -> Result<String, OciError> {
        let location = texts(reply.response.headers(), &header::LOCATION)
            .next()
            .ok_or_else(|| self.malformed("reply", "it leads on, and names no place".to_owned()))?;
        if location.starts_with("https://") || location.starts_with("http://") {
            return Ok(location.to_owned());
        }
        let from: Option<Uri> = url.parse().ok();
        let from = from.as_ref();
        let scheme = from.and_then(Uri::scheme_str);
        let authority = from.and_then(Uri::authority);
        match (scheme, authority) {
            (Some(scheme), Some(authority))
                if location.starts_with('/') && !location.starts_with("//") =>
            {
                Ok(format!("{scheme}://{authority}{location}"))
            }
            _ => {
                let reason = format!("it leads to {}", printable(location));
                Err(self.malformed("reply", reason))
            }
        }
    }

    /// `reply`, if its status is `wanted`.
    pub(super) fn expect(
        &self,
        what: &'static str,
        wanted: StatusCode,
        mut reply: Reply,
    ) -> Result<Reply, OciError> {
        let status = reply.status();
        if status == wanted {
            return Ok(reply);
        }
        let mut body = Vec::new();
        let reader = reply.response.body_mut().as_reader();
        // What cannot be read says nothing.
        let _ = reader.take(MAX_SAID).read_to_end(&mut body);
        let (said, registry) = (Said::of(&body), reply.authority);
        Err(match status {
            StatusCode::NOT_FOUND => OciError::NotFound {
                registry,
                what: format!("{what} of {}", self.reference),
                said,
            },
            // Where a redirect has led, no login is known.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if reply.is_own => OciError::Denied {
                status: status.as_u16(),
                said,
                advice: match &self.registry.login {
                    Some(login) => {
                        format!("`{}` may not, or its password is another", login.username)
                    }
                    None => {
                        format!("[registries.\"{registry}\"] of the configuration has no login")
                    }
                },
                registry,
            },
            _ => OciError::Status {
                registry,
                what,
                status: status.as_u16(),
                said,
            },
        })
    }

    /// The body of `reply`, of at most `limit` bytes.
    pub(super) fn read(
        &self,
        what: &'static str,
        limit: u64,
        mut reply: Reply,
    ) -> Result<Vec<u8>, OciError> {
        let body = reply.response.body_mut().with_config().limit(limit);
        body.read_to_vec().map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => OciError::TooLarge { what, limit },
            error => self.failed(&error),
        })
    }

    fn failed(&self, error: &ureq::Error) -> OciError {
        let reason = printable(&error.to_string());
        match error {
            // Somebody is there, and does not speak HTTP as he should.
            ureq::Error::Protocol(_) | ureq::Error::Http(_) | ureq::Error::BadUri(_) => {
                self.malformed("reply", reason)
            }
            _ => OciError::Unreachable {
                registry: self.reference.registry().to_owned(),
                reason,
            },
        }
    }

    pub(super) fn malformed(&self, what: &'static str, reason: String) -> OciError {
        OciError::Malformed {
            registry: self.reference.registry().to_owned(),
            what,
            reason,
        }
    }
}

/// Scheme, host and port of `url`.
fn place(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = match (uri.port_u16(), scheme.as_str()) {
        (Some(port), _) => port,
        (None, "https") => 443,
        (None, "http") => 80,
        (None, _) => return None,
    };
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

fn basic(login: &Login) -> Secret {
    let pair = format!("{}:{}", login.username, login.password.expose());
    Secret::new(format!("Basic {}", BASE64_STANDARD.encode(pair)))
}

fn texts<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter();
    values.filter_map(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn a_place_is_the_same_however_it_is_spelt() {
        let own = place("https://Registry.example.com/v2/");
        assert!(own.is_some());
        for same in [
            "https://registry.example.com:443/x?y",
            "HTTPS://registry.example.com",
        ] {
            assert_eq!(place(same), own, "{same}");
        }
        for other in [
            "http://registry.example.com/",
            "https://registry.example.com:5000/",
            "https://registry.example.com.evil.example/",
            "https://registry.example.com@evil.example/",
            "https://evil.example/registry.example.com",
        ] {
            assert!(place(other).is_some() && place(other) != own, "{other}");
        }
        assert_eq!(place("/v2/"), None);
    }
}
