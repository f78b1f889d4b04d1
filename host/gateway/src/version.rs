//! What `--version`, `/version` and the banner say.

/// The release.
pub const SHORT: &str = env!("CARGO_PKG_VERSION");

/// As whom the gateway asks other servers, unless a plugin says so itself.
pub const USER_AGENT: &str = concat!("gapura/", env!("CARGO_PKG_VERSION"));

/// The release with what it was built of.
pub const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (plugin contract gapura:plugin@0.1.0, wasmtime 48, backends: cuda, cpu, sim)"
);
