//! `gapura serve`: flags for [`serve`](crate::serve).

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Args;

use super::{ConfigArgs, model_args::ModelArgs};
use crate::{
    config::{Environment, LogFormat, Overrides, listen_address},
    serve,
    telemetry::start_logging,
};

/// What to serve, and where.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gapura serve --model SmolLM2-135M-Instruct.Q4_1.gguf
  gapura serve --model google/gemma-2-2b-it --listen 127.0.0.1:9000
  gapura serve --config gapura.toml --log-format json
  API_KEYS=sk-one,sk-two gapura serve --config gapura.toml --listen 0.0.0.0:8000

SIGHUP reads the configuration again; SIGTERM lets running requests end first.")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// The name that clients see. Default: what the model calls itself.
    #[arg(long)]
    name: Option<String>,
    /// Address or name, and port of the API, such as localhost:8000. Default 127.0.0.1:8000.
    #[arg(long, value_name = "ADDRESS:PORT", env = "GAPURA_LISTEN", value_parser = listen_address)]
    listen: Option<SocketAddr>,
    /// Serve without API keys on an address that other machines can reach.
    #[arg(long)]
    allow_open: bool,
    /// Folder of NAME.wasm files; pushed plugins are stored there.
    #[arg(long, value_name = "DIR", env = "GAPURA_PLUGIN_DIR")]
    plugin_dir: Option<PathBuf>,
    /// Folder for compiled plugin code.
    #[arg(long, value_name = "DIR", env = "GAPURA_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    /// How log lines look.
    #[arg(long, value_enum, env = "GAPURA_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// error, warn, info, debug, trace, or a filter such as `warn,gapura=debug`.
    #[arg(long)]
    log_level: Option<String>,
}

impl ServeArgs {
    /// Serves until a signal or a failure.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let flags = self.overrides();
        let config = self.config.load(&flags)?;
        start_logging(&config.log)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("gapura-io")
            .enable_all()
            .build()?;
        let result = runtime.block_on(serve::serve(config, Environment::of_process(), flags));
        // A model that still loads, or a compilation, must not hold up the end.
        runtime.shutdown_background();
        result.map(|()| ExitCode::SUCCESS)
    }

    fn overrides(&self) -> Overrides {
        let mut flags = Overrides {
            listen: self.listen,
            allow_open: self.allow_open,
            model_name: self.name.clone(),
            plugin_dir: self.plugin_dir.clone(),
            plugin_cache_dir: self.cache_dir.clone(),
            log_format: self.log_format,
            log_level: self.log_level.clone(),
            ..Overrides::default()
        };
        self.model.apply(&mut flags);
        flags
    }
}
