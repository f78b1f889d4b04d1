//! The distribution protocol, as far as components need it: resolve a reference, fetch a blob,
//! publish. Blocks; call it where blocking is allowed.

use ureq::http::{Method, StatusCode, header};

use super::{
    OciError, Reference, Registries,
    manifest::{self, Refused},
    session::{Ask, Scope, Session},
};
use crate::config::Digest;

/// A component's takes about one KiB.
const MAX_MANIFEST: u64 = 256 << 10;

/// Talks to the registry of one reference.
pub struct Client {
    reference: Reference,
    session: Session,
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
    /// Everything that it exports, as it is written there.
    pub exports: Vec<String>,
    /// Everything that it imports, as it is written there.
    pub imports: Vec<String>,
    /// A detached signature of the component.
    pub signature: Option<&'a str>,
}

impl Client {
    /// For the registry of `reference`, as `registries` say that it is reached. What is pulled has a
    /// minute from now.
    pub fn new(reference: &Reference, registries: &Registries) -> Self {
        Self {
            reference: reference.clone(),
            session: Session::new(reference, registries),
        }
    }

    #[cfg(test)]
    pub(super) fn ends_in(mut self, time: std::time::Duration) -> Self {
        self.session.ends_in(time);
        self
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
        let reply = self.session.send(&Ask {
            header: Some((header::ACCEPT, manifest::ACCEPTED)),
            ..self.ask(Scope::Pull, Method::GET, &format!("manifests/{name}"))
        })?;
        let reply = self.session.expect("manifest", StatusCode::OK, reply)?;
        let text = self.session.read("manifest", MAX_MANIFEST, reply)?;
        let found = Digest::of(&text);
        if let Some(expected) = self.reference.digest() {
            check("manifest", expected, found)?;
        }
        let layer = manifest::read(&text).map_err(|refused| match refused {
            Refused::Unreadable(reason) => self.session.malformed("manifest", reason),
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
        let path = format!("blobs/{}", artefact.component);
        let ask = self.ask(Scope::Pull, Method::GET, &path);
        let reply = self.session.send(&ask)?;
        let reply = self.session.expect("component", StatusCode::OK, reply)?;
        let component = self.session.read("component", artefact.size, reply)?;
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
        let reply = self.session.send(&Ask {
            header: Some((header::CONTENT_TYPE, manifest::MANIFEST)),
            body: Some(&manifest),
            ..self.ask(Scope::Push, Method::PUT, &format!("manifests/{name}"))
        })?;
        self.session
            .expect("manifest's upload", StatusCode::CREATED, reply)?;
        Ok(digest)
    }

    /// Uploads `blob`, if the registry does not have it.
    fn upload(&self, blob: &[u8]) -> Result<(), OciError> {
        let digest = Digest::of(blob);
        let ask = self.ask(Scope::Push, Method::HEAD, &format!("blobs/{digest}"));
        if self.session.send(&ask)?.status() == StatusCode::OK {
            return Ok(());
        }
        // Begun without a body, so that a registry that wants a token says so before the blob is
        // sent.
        let ask = Ask {
            body: Some(&[]),
            ..self.ask(Scope::Push, Method::POST, "blobs/uploads/")
        };
        let begun = self.session.send(&ask)?;
        let begun = self.session.expect("upload", StatusCode::ACCEPTED, begun)?;
        let location = self.session.location(&ask.url, &begun)?;
        let separator = if location.contains('?') { '&' } else { '?' };
        // Storage elsewhere has its own secret in the address, and hears none of ours.
        let done = self.session.send(&Ask {
            scope: Scope::Push,
            method: Method::PUT,
            url: format!("{location}{separator}digest={digest}"),
            header: Some((header::CONTENT_TYPE, "application/octet-stream")),
            body: Some(blob),
        })?;
        self.session.expect("upload", StatusCode::CREATED, done)?;
        Ok(())
    }

    /// A request without header or body.
    fn ask(&self, scope: Scope, method: Method, path: &str) -> Ask<'static> {
        Ask {
            scope,
            method,
            url: self.session.url(path),
            header: None,
            body: None,
        }
    }
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
