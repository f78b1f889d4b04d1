//! `oci://REGISTRY[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]`.

use std::{fmt, net::IpAddr, str::FromStr};

use thiserror::Error;

use crate::config::Digest;

const SCHEME: &str = "oci://";
/// What the distribution specification allows.
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// Names an artefact in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that names nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{text}` is not a reference such as `oci://registry.example.com/team/persona:1.2.0` or \
     `oci://registry.example.com/team/persona@sha256:…`: {reason}"
)]
pub struct ReferenceError {
    text: String,
    reason: &'static str,
}

impl Reference {
    /// Whether `text` means to be one.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// Host, and port where it is named.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The name that somebody can move.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// SHA-256 of the manifest: what no one can move.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same artefact by the digest of its manifest.
    pub fn pinned(&self, manifest: Digest) -> Self {
        Self {
            digest: Some(manifest),
            ..self.clone()
        }
    }

    /// Whether the registry is on this machine.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.registry)
    }
}

/// Whether `authority`, `HOST[:PORT]`, is on this machine.
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|reason| ReferenceError {
            text: text.chars().take(512).collect(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    let rest = text
        .strip_prefix(SCHEME)
        .ok_or("it does not begin with `oci://`")?;
    let (registry, path) = rest
        .split_once('/')
        .ok_or("a repository must follow the registry")?;
    if !is_registry(registry) {
        return Err("the registry must be a host name or address, with a port if need be");
    }
    let (path, digest) = match path.split_once('@') {
        None => (path, None),
        Some((path, digest)) => (path, Some(parse_digest(digest)?)),
    };
    let (repository, tag) = match path.split_once(':') {
        None => (path, None),
        Some((path, tag)) => (path, Some(tag)),
    };
    if !is_repository(repository) {
        return Err(
            "the repository must be of lower-case letters, digits, and `.`, `_`, `-` or `/` between \
             them",
        );
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("the tag must be 1 to 128 letters, digits, `_`, `.` or `-`");
    }
    Ok(Reference {
        registry: registry.to_owned(),
        repository: repository.to_owned(),
        tag: tag.map(str::to_owned),
        digest,
    })
}

fn parse_digest(text: &str) -> Result<Digest, &'static str> {
    let is_hex = |digits: &str| {
        digits
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    text.strip_prefix("sha256:")
        .filter(|digits| is_hex(digits))
        .and_then(Digest::from_hex)
        .ok_or("the digest must be `sha256:` and 64 hexadecimal digits")
}

/// Whether `text` can stand for a registry: a host name, an IPv4 address or an IPv6 address in
/// brackets, and a port.
pub(crate) fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("address", port)
        }
        None => match text.find(':') {
            Some(colon) => text.split_at(colon),
            None => (text, ""),
        },
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_port = match port.strip_prefix(':') {
        Some(port) => port.parse::<u16>().is_ok_and(|port| port > 0),
        None => port.is_empty(),
    };
    host.len() <= 253 && host.split('.').all(is_label) && is_port
}

/// Lower-case words with single separators between them, in a path.
fn is_repository(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_component = |component: &str| {
        let bytes = component.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        ends.iter()
            .all(|byte| byte.is_some_and(|byte| is_word(*byte)))
            && bytes
                .iter()
                .all(|byte| is_word(*byte) || b"._-".contains(byte))
            && !component.contains("..")
    };
    text.len() <= MAX_REPOSITORY && text.split('/').all(is_component)
}

fn is_tag(text: &str) -> bool {
    (1..=MAX_TAG).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_written_alike() {
        let digest = "a1".repeat(32);
        for text in [
            "oci://registry.example.com/persona",
            "oci://registry.example.com:5000/team/persona:1.2.0",
            &format!("oci://127.0.0.1:5000/team/a-b_c.d@sha256:{digest}"),
            &format!("oci://[::1]:5000/team/persona:latest@sha256:{digest}"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), text);
        }
    }

    #[test]
    fn what_names_nothing_is_refused() {
        let digest = "a1".repeat(32);
        for text in [
            "registry.example.com/persona",
            "https://registry.example.com/persona",
            "oci://registry.example.com",
            "oci://registry.example.com/",
            "oci:///persona",
            "oci://user:password@registry.example.com/persona",
            "oci://registry.example.com:0/persona",
            "oci://registry.example.com:port/persona",
            "oci://[::g]/persona",
            "oci://registry.example.com/Persona",
            "oci://registry.example.com/../persona",
            "oci://registry.example.com/a//b",
            "oci://registry.example.com/persona:",
            "oci://registry.example.com/persona:-1",
            "oci://registry.example.com/persona@sha256:12",
            &format!("oci://registry.example.com/persona@sha512:{digest}"),
            &format!(
                "oci://registry.example.com/persona@sha256:{}",
                digest.to_uppercase()
            ),
            &format!("oci://registry.example.com/{}", "a".repeat(256)),
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (authority, expected) in [
            ("localhost:5000", true),
            ("127.0.0.1", true),
            ("127.9.9.9:80", true),
            ("[::1]:5000", true),
            ("[::1]", true),
            ("10.0.0.1:5000", false),
            ("localhost.example.com", false),
        ] {
            assert_eq!(is_loopback(authority), expected, "{authority}");
        }
    }
}
