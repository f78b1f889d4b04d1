//! `gapura plugin publish`: puts a component into a registry, for gateways to pull.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::Args;
use gapura_plugin_runtime::{PluginRuntime, RuntimeConfig};

use super::{location, sign};
use crate::{
    cli::ConfigArgs,
    oci::{Client, Publication, Reference},
};

/// The contract's package and version, as components spell their interfaces.
const PACKAGE: (&str, &str) = ("gapura:plugin/", "@0.1.0");

/// What is published where.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The component. Its signature, FILE.sig, goes along if it is there.
    file: PathBuf,
    /// Such as oci://registry.example.com/team/persona:1.2.0. Without a tag it has its digest alone.
    reference: Reference,
    /// Its `[registries]` say how registries are reached.
    #[command(flatten)]
    config: ConfigArgs,
}

impl PublishArgs {
    /// Publishes a component that this version can run; prints its reference by digest.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let file = self.file.display();
        if self.reference.digest().is_some() {
            anyhow::bail!(
                "{} has a digest, which is what publishing finds out; name a tag at most",
                self.reference
            );
        }
        let component = std::fs::read(&self.file).with_context(|| format!("cannot read {file}"))?;
        let runtime = PluginRuntime::new(RuntimeConfig::default())?;
        let title = self
            .reference
            .repository()
            .rsplit('/')
            .next()
            .unwrap_or_default();
        let plugin = runtime
            .load(title, &component)
            .with_context(|| format!("{file} is not a plugin that this version can run"))?;
        let interface = |name: &str| format!("{}{name}{}", PACKAGE.0, PACKAGE.1);
        let signature = sign::text_beside(&self.file)?;
        let signature = signature.as_deref().map(str::trim);
        let publication = Publication {
            component: &component,
            title,
            version: plugin.version(),
            exports: plugin
                .stages()
                .iter()
                .map(|stage| interface(stage.interface()))
                .collect(),
            imports: plugin
                .imports()
                .iter()
                .map(|import| interface(import.as_str()))
                .collect(),
            signature,
        };
        let config = location::load(&self.config)?;
        let client = Client::new(&self.reference, &config.registries);
        let manifest = client.publish(&publication)?;
        writeln!(io::stdout(), "{}", self.reference.pinned(manifest))?;
        Ok(())
    }
}
