//! Where a component is: a file, or a registry.

use std::{convert::Infallible, path::PathBuf, str::FromStr};

use anyhow::Context as _;

use super::sign;
use crate::{
    cli::ConfigArgs,
    config::{Config, Overrides},
    oci::{Client, Reference},
};

/// A component that a command is about.
#[derive(Debug, Clone)]
pub(super) enum Location {
    /// A path.
    File(PathBuf),
    /// A reference, as it was written.
    Registry(String),
}

impl FromStr for Location {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match Reference::is_meant(text) {
            true => Self::Registry(text.to_owned()),
            false => Self::File(text.into()),
        })
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Registry(reference) => f.write_str(reference),
        }
    }
}

impl Location {
    /// The component's bytes, and the signature that lies beside it or was published with it, as it
    /// is; registries are reached as the configuration says.
    pub(super) fn read_signed(
        &self,
        config: &ConfigArgs,
    ) -> anyhow::Result<(Vec<u8>, Option<String>)> {
        match self {
            Self::File(path) => {
                let component =
                    std::fs::read(path).with_context(|| format!("cannot read {self}"))?;
                Ok((component, sign::text_beside(path)?))
            }
            Self::Registry(reference) => {
                let reference: Reference = reference.parse()?;
                let config = load(config)?;
                let client = Client::new(&reference, &config.registries);
                let artefact = client.resolve(config.admin.max_plugin_bytes as u64)?;
                Ok((client.component(&artefact)?, artefact.signature))
            }
        }
    }

    /// What the component may be called: the file's name, or the end of the repository's.
    pub(super) fn stem(&self) -> String {
        let stem = match self {
            Self::File(path) => path.file_stem().and_then(|stem| stem.to_str()),
            Self::Registry(reference) => {
                let repository = reference.split(['@']).next().unwrap_or_default();
                let last = repository.rsplit('/').next();
                last.and_then(|last| last.split(':').next())
            }
        };
        stem.unwrap_or("plugin").to_lowercase()
    }
}

/// The configuration, for its `[registries]` and trusted keys.
pub(super) fn load(config: &ConfigArgs) -> anyhow::Result<Config> {
    config.load(&Overrides::default())
}
