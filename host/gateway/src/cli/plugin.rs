//! `gapura plugin`: from an empty folder to a plugin that serves.

pub(super) mod build;
mod inspect;
mod remote;
mod scaffold;

use clap::Subcommand;

/// Makes, builds, pushes and shows plugins.
#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Start a new plugin in a folder of its name.
    #[command(after_help = "Examples:
  gapura plugin new shout
  gapura plugin new brief --lang python
  gapura plugin new shout --dir ~/plugins/shout
  cd shout && gapura plugin build && gapura plugin push shout target/components/shout.wasm")]
    New(scaffold::NewArgs),
    /// Build a plugin project to a component.
    #[command(after_help = "Examples:
  gapura plugin build
  gapura plugin build ~/plugins/shout --out plugins/")]
    Build(build::BuildArgs),
    /// Put a component into a running server: checked first, then swapped at once.
    #[command(after_help = "Examples:
  gapura plugin push persona plugins/target/components/persona.wasm
  GAPURA_ADMIN_TOKEN=… gapura plugin push persona persona.wasm --server http://gateway:8000")]
    Push(remote::PushArgs),
    /// Show the plugins and routes of a running server.
    #[command(after_help = "Examples:
  gapura plugin status
  gapura plugin status --json | jq '.plugins[].label'")]
    Status(remote::StatusArgs),
    /// Show what a component is: stages, imports, version, digest, size.
    #[command(after_help = "Examples:
  gapura plugin inspect persona.wasm
  gapura plugin inspect persona.wasm --json")]
    Inspect(inspect::InspectArgs),
}

impl PluginCommand {
    /// Does it.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::New(args) => args.run(),
            Self::Build(args) => args.run(),
            Self::Push(args) => args.run(),
            Self::Status(args) => args.run(),
            Self::Inspect(args) => args.run(),
        }
    }
}
