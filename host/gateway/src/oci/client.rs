//! The distribution protocol, as far as components need it: resolve a reference, fetch a blob,
//! publish. Blocks; call it where blocking is allowed.

use std::{
    io::Read as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use ureq::{
    Body, RequestBuilder, SendBody,
    http::{HeaderMap, Response, StatusCode, Uri, header},
    typestate::{WithBody, WithoutBody},
};

use super::{
    OciError, Reference, Registries, Registry,
    challenge::Challenge,
    error::{Said, printable},
    manifest::{self, Refused},
    reference,
};
use crate::config::{Digest, Secret};

/// Until a connection stands.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Without a byte in either direction.
const STALL_TIME: Duration = Duration::from_secs(10);
/// One whole exchange, redirects included.
const WHOLE_TIME: Duration = Duration::from_secs(300);
/// Blobs often lie elsewhere; nothing lies at the end of a long chain.
const MAX_REDIRECTS: u32 = 3;
/// A component's takes about one KiB.
const MAX_MANIFEST: u64 = 256 << 10;
const MAX_TOKEN: u64 = 64 << 10;
/// What is read of an answer that is an error.
const MAX_SAID: u64 = 4 << 10;

/// Talks to the registry of one reference. What it was let in with is kept for the next exchange.
pub struct Client {
    agent: ureq::Agent,
    reference: Reference,
    registry: Registry,
    is_plain: bool,
    /// Of the `Authorization` header, once the registry has asked for one.
    authorization: Mutex<Option<Secret>>,
}

/// A component in a registry, as its manifest tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artefact {
    /// SHA-256 of the manifest.
    pub manifest: Digest,
    /// SHA-256 of the component.
    pub component: Digest,
    /// Bytes of the component.
    pub size: u64,
    /// The detached signature that was published with it, as its file was.
    pub signature: Option<String>,
}

/// A component to publish.
#[derive(Debug)]
pub struct Publication<'a> {
    /// The component.
    pub component: &'a [u8],
    /// What people call it.
    pub title: &'a str,
    /// Its author's version.
    pub version: &'a str,
    /// The interfaces that it exports.
    pub exports: Vec<String>,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// A detached signature of the component.
    pub signature: Option<&'a str>,
}

/// What a token is to allow.
#[derive(Clone, Copy)]
enum Scope {
    Pull,
    Push,
}

impl Client {
    /// For the registry of `reference`, as `registries` say that it is reached.
    pub fn new(reference: &Reference, registries: &Registries) -> Self {
        let registry = registries
            .get(reference.registry())
            .cloned()
            .unwrap_or_default();
        let is_loopback = reference.is_loopback();
        let is_plain = registry.plain_http.unwrap_or(is_loopback);
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .https_only(!is_plain)
            .max_redirects(MAX_REDIRECTS)
            .timeout_connect(Some(CONNECT_TIME))
            .timeout_per_read(Some(STALL_TIME))
            .timeout_per_write(Some(STALL_TIME))
            .timeout_global(Some(WHOLE_TIME))
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
            authorization: Mutex::new(None),
        }
    }

    /// Reads the manifest that the reference names: by its digest, else by its tag.
    ///
    /// # Errors
    /// [`OciError`]. Nothing but a manifest of one component of at most `max_bytes`, whose digest
    /// is the reference's where that has one, is let through.
    pub fn resolve(&self, max_bytes: u64) -> Result<Artefact, OciError> {
        let name = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_owned(),
            (None, None) => "latest".to_owned(),
        };
        let url = self.url(&format!("manifests/{name}"));
        let response = self.send(Scope::Pull, || {
            self.agent
                .get(&url)
                .header(header::ACCEPT, manifest::ACCEPTED)
        })?;
        let response = self.expect("manifest", StatusCode::OK, response)?;
        let text = self.read("manifest", MAX_MANIFEST, response)?;
        let found = Digest::of(&text);
        if let Some(expected) = self.reference.digest() {
            check("manifest", expected, found)?;
        }
        let layer = manifest::read(&text).map_err(|refused| match refused {
            Refused::Unreadable(reason) => self.malformed("manifest", reason),
            Refused::Other(reason) => OciError::NotAPlugin {
                reference: self.reference.to_string(),
                reason,
            },
        })?;
        if layer.size > max_bytes {
            return Err(OciError::TooLarge {
                what: "component",
                limit: max_bytes,
            });
        }
        Ok(Artefact {
            manifest: found,
            component: layer.digest,
            size: layer.size,
            signature: layer.signature,
        })
    }

    /// Fetches the component that [`resolve`](Self::resolve) has found.
    ///
    /// # Errors
    /// [`OciError`]; also where what comes is not what the manifest says.
    pub fn component(&self, artefact: &Artefact) -> Result<Vec<u8>, OciError> {
        let url = self.url(&format!("blobs/{}", artefact.component));
        let response = self.send(Scope::Pull, || self.agent.get(&url))?;
        let response = self.expect("component", StatusCode::OK, response)?;
        let component = self.read("component", artefact.size, response)?;
        check("component", artefact.component, Digest::of(&component))?;
        Ok(component)
    }

    /// Puts `publication` where the reference says; returns the digest of its manifest.
    ///
    /// # Errors
    /// [`OciError`].
    pub fn publish(&self, publication: &Publication<'_>) -> Result<Digest, OciError> {
        let (manifest, config) = manifest::write(publication);
        self.upload(publication.component)?;
        self.upload(&config)?;
        let digest = Digest::of(&manifest);
        let name = self
            .reference
            .tag()
            .map_or_else(|| digest.to_string(), str::to_owned);
        let url = self.url(&format!("manifests/{name}"));
        let request = self.authorized(self.agent.put(&url));
        let response = request
            .content_type(manifest::MANIFEST)
            .send(manifest.as_slice())
            .map_err(|error| self.failed(&error))?;
        self.expect("manifest's upload", StatusCode::CREATED, response)?;
        Ok(digest)
    }

    /// Uploads `blob`, if the registry does not have it.
    fn upload(&self, blob: &[u8]) -> Result<(), OciError> {
        let digest = Digest::of(blob);
        let url = self.url(&format!("blobs/{digest}"));
        let found = self.send(Scope::Push, || self.agent.head(&url))?;
        if found.status() == StatusCode::OK {
            return Ok(());
        }
        // Begun without a body, so that a registry that wants a token says so before the blob is
        // sent.
        let url = self.url("blobs/uploads/");
        let begun = self.send_with(Scope::Push, || self.agent.post(&url), SendBody::none)?;
        let begun = self.expect("upload", StatusCode::ACCEPTED, begun)?;
        let location = self.location(begun.headers())?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{separator}digest={digest}");
        let request = match self.is_own(&location) {
            true => self.authorized(self.agent.put(&url)),
            // Storage elsewhere, which has its own secret in the address.
            false => self.agent.put(&url),
        };
        let done = request
            .content_type("application/octet-stream")
            .send(blob)
            .map_err(|error| self.failed(&error))?;
        self.expect("upload", StatusCode::CREATED, done)?;
        Ok(())
    }

    fn send(
        &self,
        scope: Scope,
        request: impl Fn() -> RequestBuilder<WithoutBody>,
    ) -> Result<Response<Body>, OciError> {
        self.exchange(scope, || self.authorized(request()).call())
    }

    fn send_with<'a>(
        &self,
        scope: Scope,
        request: impl Fn() -> RequestBuilder<WithBody>,
        body: impl Fn() -> SendBody<'a>,
    ) -> Result<Response<Body>, OciError> {
        self.exchange(scope, || self.authorized(request()).send(body()))
    }

    /// Sends a request, and once more where the registry asks who is there.
    fn exchange(
        &self,
        scope: Scope,
        send: impl Fn() -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, OciError> {
        let response = send().map_err(|error| self.failed(&error))?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenge = Challenge::find(texts(response.headers(), &header::WWW_AUTHENTICATE));
        let authorization = match (challenge, &self.registry.login) {
            (Some(Challenge::Bearer { realm, service }), _) => {
                let token = self.token(scope, &realm, service.as_deref())?;
                Secret::new(format!("Bearer {}", token.expose()))
            }
            (Some(Challenge::Basic), Some(login)) => basic(login),
            (Some(Challenge::Basic) | None, _) => return Ok(response),
        };
        *self.kept() = Some(authorization);
        send().map_err(|error| self.failed(&error))
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
        let scope = format!("repository:{}:{actions}", self.reference.repository());
        let mut request = self.agent.get(realm).query("scope", &scope);
        if let Some(service) = service {
            request = request.query("service", service);
        }
        if let Some(login) = &self.registry.login {
            request = request.header(header::AUTHORIZATION, basic(login).expose());
        }
        let response = request.call().map_err(|error| self.failed(&error))?;
        let response = self.expect("request for a token", StatusCode::OK, response)?;
        let text = self.read("token", MAX_TOKEN, response)?;
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

    fn authorized<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &*self.kept() {
            Some(secret) => request.header(header::AUTHORIZATION, secret.expose()),
            None => request,
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Secret>> {
        // One value, replaced whole.
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn url(&self, path: &str) -> String {
        format!(
            "{}/v2/{}/{path}",
            self.origin(),
            self.reference.repository()
        )
    }

    fn origin(&self) -> String {
        let scheme = if self.is_plain { "http" } else { "https" };
        format!("{scheme}://{}", self.reference.registry())
    }

    fn is_own(&self, url: &str) -> bool {
        url.strip_prefix(&self.origin())
            .is_some_and(|rest| rest.starts_with('/'))
    }

    fn location(&self, headers: &HeaderMap) -> Result<String, OciError> {
        let location = texts(headers, &header::LOCATION)
            .next()
            .ok_or_else(|| self.malformed("reply", "it has no Location to upload to".to_owned()))?;
        match location.starts_with('/') {
            true => Ok(format!("{}{location}", self.origin())),
            false => Ok(location.to_owned()),
        }
    }

    fn expect(
        &self,
        what: &'static str,
        wanted: StatusCode,
        mut response: Response<Body>,
    ) -> Result<Response<Body>, OciError> {
        let status = response.status();
        if status == wanted {
            return Ok(response);
        }
        let mut body = Vec::new();
        let reader = response.body_mut().as_reader();
        // What cannot be read says nothing.
        let _ = reader.take(MAX_SAID).read_to_end(&mut body);
        let (said, registry) = (Said::of(&body), self.reference.registry().to_owned());
        Err(match status {
            StatusCode::NOT_FOUND => OciError::NotFound {
                registry,
                what: format!("{what} of {}", self.reference),
                said,
            },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => OciError::Denied {
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

    fn read(
        &self,
        what: &'static str,
        limit: u64,
        mut response: Response<Body>,
    ) -> Result<Vec<u8>, OciError> {
        let body = response.body_mut().with_config().limit(limit);
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

    fn malformed(&self, what: &'static str, reason: String) -> OciError {
        OciError::Malformed {
            registry: self.reference.registry().to_owned(),
            what,
            reason,
        }
    }
}

fn basic(login: &super::Login) -> Secret {
    let pair = format!("{}:{}", login.username, login.password.expose());
    Secret::new(format!("Basic {}", BASE64_STANDARD.encode(pair)))
}

fn texts<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter();
    values.filter_map(|value| value.to_str().ok())
}

fn check(what: &'static str, expected: Digest, found: Digest) -> Result<(), OciError> {
    match expected == found {
        true => Ok(()),
        false => Err(OciError::Digest {
            what,
            expected: expected.to_string(),
            found: found.to_string(),
        }),
    }
}
