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
        let signature = sign::text_beside(&self.file)?;
        let signature = signature.as_deref().map(str::trim);
        let publication = Publication {
            component: &component,
            title,
            version: plugin.version(),
            exports: plugin.export_names(),
            imports: plugin.import_names(),
            signature,
        };
        let config = location::load(&self.config)?;
        let client = Client::new(&self.reference, &config.registries);
        let manifest = client.publish(&publication)?;
        writeln!(io::stdout(), "{}", self.reference.pinned(manifest))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::BUILTINS;

    #[test]
    fn what_is_published_names_every_interface_with_its_version() {
        let runtime = PluginRuntime::new(RuntimeConfig {
            small_reservations: true,
            ..RuntimeConfig::default()
        });
        let plugin = runtime.unwrap().load("chatml", BUILTINS[0].bytes).unwrap();
        let imports = plugin.import_names();
        assert!(
            imports.contains(&"gapura:plugin/types@0.1.0".to_owned()),
            "{imports:?}"
        );
        for import in plugin.imports() {
            let name = format!("gapura:plugin/{}@0.1.0", import.as_str());
            assert!(imports.contains(&name), "{imports:?}");
        }
        let stages = plugin.stages().iter();
        let exports: Vec<_> = stages
            .map(|stage| format!("gapura:plugin/{}@0.1.0", stage.interface()))
            .collect();
        assert_eq!(plugin.export_names(), exports);
    }
}
