//! `gapura plugin`: from an empty folder to a plugin that serves.

mod bench;
pub(super) mod build;
mod inspect;
mod installed;
mod ledger;
mod location;
mod project;
mod publish;
mod records;
mod remote;
mod replay;
mod scaffold;
mod server;
mod sign;
mod status;
mod test;
mod trial;

use std::process::ExitCode;

use clap::Subcommand;

/// Makes, builds, pushes, shows and replays plugins.
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
    /// Run a plugin's golden cases, on the production runtime with everything else scripted.
    #[command(after_help = "Examples:
  gapura plugin test
  gapura plugin test --update --only greeting
  gapura plugin test persona.wasm --cases plugins/persona/cases

A case is a file cases/NAME.toml:
  settings = { limit = 3 }
  answer = [\"Halo\", \" lagi\"]        # what the model says, delta by delta
  [request]                          # what the client sends
  messages = [{ role = \"user\", content = \"Halo!\" }]
  [expect]                           # what came of it, written by --update")]
    Test(test::TestArgs),
    /// Measure what a plugin's calls cost, against a budget.
    #[command(after_help = "Examples:
  gapura plugin bench
  gapura plugin bench persona.wasm --budget 50 --requests 10000
  gapura plugin bench persona.wasm --reuse 1000   # as a route that reuses instances
  gapura plugin bench --json | jq .calls.push.p50_us

A plugin without cases is measured with a chat of ten messages and an answer of 100 deltas.
Medians are held against the budget; on a busy machine repeat it.")]
    Bench(bench::BenchArgs),
    /// Put a component into a running server: checked first, then swapped at once.
    #[command(after_help = "Examples:
  gapura plugin push persona plugins/target/components/persona.wasm
  gapura plugin push persona persona.wasm --until verified   # to try it out before it serves
  gapura plugin push persona oci://registry.example.com/team/persona:1.2.0
  GAPURA_ADMIN_TOKEN=… gapura plugin push persona persona.wasm --server http://gateway:8000")]
    Push(remote::PushArgs),
    /// Put a component into an OCI registry; prints its reference by digest, for [plugins.sources].
    #[command(after_help = "Examples:
  gapura plugin publish persona.wasm oci://registry.example.com/team/persona:1.2.0
  gapura plugin publish persona.wasm oci://127.0.0.1:5000/persona
  gapura plugin publish persona.wasm oci://registry.example.com/persona --config gapura.toml")]
    Publish(publish::PublishArgs),
    /// Check a staged version again: that it links to what its routes grant, and keeps its golden
    /// cases.
    #[command(after_help = "Examples:
  gapura plugin verify persona
  gapura plugin verify persona 3f2a9c")]
    Verify(remote::VersionArgs),
    /// Let a version see what the live one sees; what it makes of it is compared and thrown away.
    #[command(after_help = "Examples:
  gapura plugin push persona persona.wasm --until verified
  gapura plugin shadow persona
  gapura plugin status persona")]
    Shadow(remote::VersionArgs),
    /// Let a version answer a share of the requests; it goes back by itself when it does worse.
    #[command(after_help = "Examples:
  gapura plugin canary persona 5
  gapura plugin canary persona 50 3f2a9c
  gapura plugin activate persona")]
    Canary(remote::CanaryArgs),
    /// Let a version serve in place of the live one.
    #[command(after_help = "Examples:
  gapura plugin activate persona
  gapura plugin activate persona 3f2a9c")]
    Activate(remote::VersionArgs),
    /// End a trial, or go back to the version that served before.
    #[command(after_help = "Examples:
  gapura plugin rollback persona")]
    Rollback(remote::RollbackArgs),
    /// Show what changed, when, and by whom.
    #[command(after_help = "Examples:
  gapura plugin history
  gapura plugin history persona --last 10
  gapura plugin history --json | jq -c .outcome")]
    History(remote::HistoryArgs),
    /// Show the plugins and routes of a running server, or the versions of one plugin.
    #[command(after_help = "Examples:
  gapura plugin status
  gapura plugin status persona
  gapura plugin status --json | jq '.plugins[].label'
  gapura plugin status --json | jq '.plugins[].ledger[] | {version, route, requests, failed}'

The last table says what each version has cost on each route since it first served there; the
status of one plugin says it by stage, with its failures by kind.")]
    Status(status::StatusArgs),
    /// List the requests that a running server has kept to be run again.
    #[command(after_help = "Examples:
  gapura plugin records
  gapura plugin records --json | jq -r '.records[0].request_id'

A route keeps its newest requests where its configuration says so:
  record = { keep = 100, redact = true }")]
    Records(records::RecordsArgs),
    /// Run a recorded request again, here, with another version of a plugin.
    #[command(after_help = "Examples:
  gapura plugin replay 0197c0de-… --plugin target/components/guard.wasm
  gapura plugin replay req-1 --plugin new.wasm --name guard --json
  gapura plugin replay req-1 --plugin guard.wasm --component chatml=old/chatml.wasm

Both versions run on the production runtime, with what clock, random numbers, tokenizer, kv and
model said at the time. Ends with 0 where verdict, prompt and answer are the same, 1 where they are
not, 2 where that cannot be found out. The cost is shown and not compared.")]
    Replay(replay::ReplayArgs),
    /// Sign a component, for routes that bind only what is signed.
    #[command(after_help = "Examples:
  gapura key new --signing release.key --name release
  gapura plugin sign persona.wasm --key release.key
  gapura plugin push persona persona.wasm            # sends persona.wasm.sig along")]
    Sign(sign::SignArgs),
    /// Show what a component is: stages, imports, version, digest, size, signature.
    #[command(after_help = "Examples:
  gapura plugin inspect persona.wasm
  gapura plugin inspect persona.wasm --trust ed25519:…    # fails unless this key has signed it
  gapura plugin inspect persona.wasm --config gapura.toml # whose signature it is, by the keys there
  gapura plugin inspect persona.wasm --json
  gapura plugin inspect oci://registry.example.com/team/persona:1.2.0")]
    Inspect(inspect::InspectArgs),
}

impl PluginCommand {
    /// Does it.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Replay(args) => return Ok(args.run()),
            Self::New(args) => args.run(),
            Self::Build(args) => args.run(),
            Self::Test(args) => args.run(),
            Self::Bench(args) => args.run(),
            Self::Push(args) => args.run(),
            Self::Publish(args) => args.run(),
            Self::Verify(args) => args.run("verify"),
            Self::Shadow(args) => args.run("shadow"),
            Self::Canary(args) => args.run(),
            Self::Activate(args) => args.run("activate"),
            Self::Rollback(args) => args.run(),
            Self::History(args) => args.run(),
            Self::Status(args) => args.run(),
            Self::Records(args) => args.run(),
            Self::Sign(args) => args.run(),
            Self::Inspect(args) => args.run(),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}
