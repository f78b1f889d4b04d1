//! `gapura plugin inspect`: loads a component as the server would and says what it is.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::Args;
use gapura_plugin_runtime::{PluginRuntime, RuntimeConfig};
use serde_json::json;

/// Which component.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The component.
    file: PathBuf,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    /// Prints what the component is.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let file = self.file.display();
        let component = std::fs::read(&self.file).with_context(|| format!("cannot read {file}"))?;
        let runtime = PluginRuntime::new(RuntimeConfig::default())?;
        let name = self
            .file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or("plugin");
        let plugin = runtime
            .load(&name.to_lowercase(), &component)
            .with_context(|| format!("{file} is not a plugin that this version can run"))?;
        let stages: Vec<_> = plugin.stages().iter().map(|stage| stage.as_str()).collect();
        let imports: Vec<_> = plugin
            .imports()
            .iter()
            .map(|import| import.as_str())
            .collect();
        let grants: Vec<_> = plugin.grants_needed().map(|grant| grant.as_str()).collect();
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
        Ok(())
    }
}
