//! `gapura pull`: fetches a model into the hub's cache, so that `serve` starts without a network.

use std::io::{self, Write as _};

use clap::Args;

use super::ConfigArgs;
use crate::{config::Overrides, model_loader};

/// Which model.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gapura pull google/gemma-2-2b-it
  gapura pull bartowski/SmolLM2-135M-Instruct-GGUF:SmolLM2-135M-Instruct-Q4_K_M.gguf
  HUGGINGFACE_TOKEN=hf_… gapura pull GoToCompany/gemma2-9b-cpt-sahabatai-v1-instruct")]
pub(crate) struct PullArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// `owner/name[:file.gguf][@revision]`.
    model: String,
}

impl PullArgs {
    /// Fetches, and prints where the model lies.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let flags = Overrides {
            allow_open: true,
            ..Overrides::default()
        };
        let config = self.config.load(&flags)?;
        let path = model_loader::locate(&self.model, &config.model)?;
        writeln!(io::stdout(), "{}", path.display())?;
        Ok(())
    }
}
