//! One version of a plugin, and the states that it passes through.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::signing::Signature;

/// One artefact of a plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// SHA-256 of the component, 64 hexadecimal digits.
    pub digest: String,
    /// Where it came from.
    pub source: Source,
    /// SHA-256 of the manifest by which a registry has it, if it came from one.
    #[serde(default)]
    pub manifest: Option<String>,
    /// Seconds since 1970 when it came.
    pub since: u64,
    /// What verification found.
    pub check: Check,
    /// Why it was taken out of service, if it was not by hand.
    pub withdrawn: Option<String>,
    /// Bytes of the component.
    pub size_bytes: u64,
    /// Who vouches for it, each key once. Whose signatures count is for the configuration to say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<Signature>,
}

impl Version {
    /// The version that its author wrote into it, once that was read.
    pub(in crate::controller) fn label(&self) -> Option<String> {
        match &self.check {
            Check::Passed(facts) => Some(facts.version.clone()),
            Check::Pending | Check::Failed { .. } => None,
        }
    }
}

/// Where an artefact came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Carried in the binary.
    Builtin,
    /// The plugin folder.
    File,
    /// The administration API.
    Pushed,
    /// A registry, by a reference of the configuration.
    Registry,
}

/// What verification found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// It has not ended yet.
    Pending,
    /// It compiles, links, instantiates, and keeps what its golden cases promise.
    Passed(Facts),
    /// It may not serve.
    Failed {
        /// Stable and machine-readable.
        code: String,
        /// For people.
        reason: String,
    },
}

/// What a component says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The version that its author wrote into it.
    pub version: String,
    /// The stages that it implements.
    pub stages: Vec<String>,
    /// The host interfaces that it imports.
    pub imports: Vec<String>,
    /// Golden cases that it carries, all kept.
    pub cases: usize,
}

/// How a version serves beside the live one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrialMode {
    /// It sees what the live one sees; what it makes of it is compared and thrown away.
    Shadow,
    /// It answers so many of a hundred requests.
    Canary(u8),
}

/// How far a version has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionState {
    /// It is there; it was not verified, or did not pass.
    Staged,
    /// It may serve.
    Verified,
    /// It serves beside the live one.
    Trial(TrialMode),
    /// It serves.
    Live,
    /// It has served.
    Retired,
}

impl VersionState {
    /// The state's name; the share of a canary is told apart.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Verified => "verified",
            Self::Trial(TrialMode::Shadow) => "shadow",
            Self::Trial(TrialMode::Canary(_)) => "canary",
            Self::Live => "live",
            Self::Retired => "retired",
        }
    }
}

impl fmt::Display for VersionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trial(TrialMode::Canary(percent)) => write!(f, "canary {percent} %"),
            other => f.write_str(other.as_str()),
        }
    }
}

impl Serialize for VersionState {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Digits enough to tell versions apart.
pub(in crate::controller) fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}
