//! The command line. Each command is a file below; this one holds the tree that `--help` shows.

mod bench;
mod check;
mod doctor;
mod generate;
mod key;
mod model_args;
mod plugin;
mod pull;
mod serve;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::{Config, Environment, Overrides};

/// `gapura`: an inference gateway that owns its model and is programmed with WebAssembly.
#[derive(Debug, Parser)]
#[command(
    name = "gapura",
    version = crate::version::LONG,
    about,
    max_term_width = 100,
    after_help = "Examples:
  gapura serve --model SmolLM2-135M-Instruct.Q4_1.gguf
  gapura serve --config gapura.toml
  gapura plugin push persona persona.wasm
  gapura doctor"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load a model and answer the OpenAI API.
    Serve(serve::ServeArgs),
    /// Check a configuration with its routes, plugins and grants, without loading the model.
    Check(check::CheckArgs),
    /// Fetch a model from the hub, resuming where it stopped.
    Pull(pull::PullArgs),
    /// Answer one prompt, without a server.
    Generate(generate::GenerateArgs),
    /// Measure time to first token, inter-token latency and tokens/s of a running server.
    Bench(bench::BenchArgs),
    /// Say what this machine can run: devices, memory, caches, tools for plugins.
    Doctor(doctor::DoctorArgs),
    /// Make, build, push and look at plugins.
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Make API keys and administration tokens.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Write a completion script for a shell.
    #[command(after_help = "Examples:
  gapura completions bash > ~/.local/share/bash-completion/completions/gapura
  gapura completions zsh > \"${fpath[1]}/_gapura\"")]
    Completions {
        /// bash, elvish, fish, powershell or zsh.
        shell: clap_complete::Shell,
    },
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigArgs {
    /// The configuration file. Default: none, everything by flags and environment.
    #[arg(long, short, value_name = "FILE", env = "GAPURA_CONFIG")]
    pub config: Option<PathBuf>,
}

impl ConfigArgs {
    fn load(&self, flags: &Overrides) -> anyhow::Result<Config> {
        Ok(Config::load(
            self.config.as_deref(),
            &Environment::of_process(),
            flags,
        )?)
    }
}

/// Runs what the command line asks for. Errors go to standard error, one line each.
pub fn run() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            // A closed pipe (`gapura … | head`) is no failure worth a message.
            let is_closed_pipe = error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
            if !is_closed_pipe {
                let _ = writeln!(io::stderr(), "error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve(args) => return args.run(),
            Command::Check(args) => args.run()?,
            Command::Pull(args) => args.run()?,
            Command::Generate(args) => args.run()?,
            Command::Bench(args) => args.run()?,
            Command::Doctor(args) => args.run()?,
            Command::Plugin(command) => return command.run(),
            Command::Key(command) => command.run()?,
            Command::Completions { shell } => {
                // Into memory first: the generator panics on a closed pipe.
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "gapura", &mut script);
                io::stdout().write_all(&script)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        fn visit(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.has_subcommands() {
                command.get_subcommands().for_each(|sub| visit(sub, &path));
            } else {
                let help = command
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(help.starts_with("Example"), "{path} shows no example");
            }
        }
        visit(&Cli::command(), "");
    }
}
