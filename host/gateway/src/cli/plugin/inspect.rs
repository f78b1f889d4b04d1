//! `gapura plugin inspect`: loads a component as the server would and says what it is.

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::Args;
use gapura_plugin_runtime::{PluginRuntime, RuntimeConfig};
use serde_json::json;

use super::location::Location;
use crate::{cases, cli::ConfigArgs};

/// Which component.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The component: a file, or a reference such as oci://registry.example.com/persona:1.2.0.
    #[arg(value_name = "FILE|REFERENCE")]
    location: Location,
    /// Its `[registries]` say how registries are reached.
    #[command(flatten)]
    config: ConfigArgs,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    /// Prints what the component is.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let location = &self.location;
        let component = location.read(&self.config)?;
        let runtime = PluginRuntime::new(RuntimeConfig::default())?;
        let plugin = runtime
            .load(&location.stem(), &component)
            .with_context(|| format!("{location} is not a plugin that this version can run"))?;
        let stages: Vec<_> = plugin.stages().iter().map(|stage| stage.as_str()).collect();
        let imports: Vec<_> = plugin
            .imports()
            .iter()
            .map(|import| import.as_str())
            .collect();
        let grants: Vec<_> = plugin.grants_needed().map(|grant| grant.as_str()).collect();
        let cases = cases::embedded(&component)?;
        let cases: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
        let mut out = io::stdout().lock();
        if self.json {
            let value = json!({
                "name": plugin.name(),
                "version": plugin.version(),
                "digest": plugin.digest(),
                "size_bytes": plugin.size_bytes(),
                "stages": stages,
                "imports": imports,
                "grants_needed": grants,
                "wasi": plugin.uses_wasi(),
                "cases": cases,
            });
            writeln!(out, "{value:#}")?;
            return Ok(());
        }
        let or_none = |list: Vec<&str>| match list.is_empty() {
            true => "none".to_owned(),
            false => list.join(", "),
        };
        writeln!(out, "version  {}", plugin.version())?;
        writeln!(out, "digest   sha256:{}", plugin.digest())?;
        writeln!(out, "size     {} bytes", plugin.size_bytes())?;
        writeln!(out, "stages   {}", or_none(stages))?;
        writeln!(out, "imports  {}", or_none(imports))?;
        writeln!(out, "grants needed: {}", or_none(grants))?;
        writeln!(
            out,
            "wasi     {}",
            if plugin.uses_wasi() {
                "yes, empty"
            } else {
                "no"
            }
        )?;
        writeln!(out, "cases    {}", or_none(cases))?;
        Ok(())
    }
}
