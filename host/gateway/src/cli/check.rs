//! `gapura check`: everything that `serve` would refuse, without loading the model.

use std::{
    io::{self, Write as _},
    sync::Arc,
};

use clap::Args;

use super::ConfigArgs;
use crate::{
    config::{self, Environment, Overrides},
    controller::Controller,
    serve::plugin_runtime,
    telemetry::Metrics,
};

/// Which configuration to check.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gapura check --config gapura.toml
  gapura check --print-default > gapura.toml")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Write the commented default configuration and end.
    #[arg(long)]
    print_default: bool,
}

impl CheckArgs {
    /// Reads the configuration, loads every plugin and builds every chain.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if self.print_default {
            out.write_all(config::DEFAULT_TOML.as_bytes())?;
            return Ok(());
        }
        let flags = Overrides::default();
        let config = self.config.load(&flags)?;
        // `serve` makes the folder, for what will be pushed; who checks a file means one that is
        // there, and a misspelt folder would be an empty one.
        if let Some(dir) = config.plugins.dir.as_ref().filter(|dir| !dir.is_dir()) {
            anyhow::bail!(
                "[plugins] dir: {} is not a folder that exists; make it, or leave `dir` out",
                dir.display()
            );
        }
        let runtime = plugin_runtime(&config)?;
        let metrics = Arc::new(Metrics::new());
        let controller =
            Controller::look(config, Environment::of_process(), flags, runtime, metrics)?;
        for route in controller.route_statuses() {
            let mark = if route.default { " (default)" } else { "" };
            writeln!(out, "route {}{mark}: {}", route.name, route.chain)?;
            if let Some(signers) = &route.signers {
                writeln!(out, "  plugins must be signed by {}", signers.join(" or "))?;
            }
            for binding in &route.plugins {
                let needed = match binding.grants_needed.as_slice() {
                    [] => "none".to_owned(),
                    needed => needed.join(", "),
                };
                write!(out, "  {}: grants needed: {needed}", binding.plugin)?;
                if !binding.http.is_empty() {
                    write!(out, "; http to {}", binding.http.join(", "))?;
                }
                if let Some(signer) = &binding.signed_by {
                    write!(out, "; signed by {signer}")?;
                }
                let pinned = if binding.is_pinned { "; pinned" } else { "" };
                writeln!(out, "{pinned}")?;
            }
        }
        for plugin in controller.plugins() {
            if let Some(refusal) = plugin.refused {
                writeln!(out, "warning: {}: {}", plugin.name, refusal.reason)?;
            }
        }
        writeln!(out, "the configuration is right")?;
        Ok(())
    }
}
