//! Components in OCI registries, as the CNCF's layout for WebAssembly lays them down: a manifest
//! whose config is `application/vnd.wasm.config.v0+json` and whose one layer is the component.
//!
//! What comes from a registry is held against the digests that name it, and against limits before
//! it is read: a registry that lies, stalls or never ends costs a bounded time and nothing else.
//! Nothing here knows of versions or routes.

mod challenge;
mod client;
mod error;
mod manifest;
mod reference;
mod session;

pub use client::{Artefact, Client, Publication};
pub use error::OciError;
pub(crate) use reference::is_registry;
pub use reference::{Reference, ReferenceError};

/// How a registry is reached that needs more than HTTPS and no login.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registry {
    /// HTTP without TLS. `None`: on this machine alone.
    pub plain_http: Option<bool>,
    /// Who asks; without it, nobody in particular.
    pub login: Option<Login>,
}

/// A user of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Its name.
    pub username: String,
    /// Its password, or a token in its place.
    pub password: crate::config::Secret,
}

/// Registries by `HOST[:PORT]`.
pub type Registries = std::collections::BTreeMap<String, Registry>;

#[cfg(test)]
pub(crate) mod stub;
#[cfg(test)]
mod tests;
