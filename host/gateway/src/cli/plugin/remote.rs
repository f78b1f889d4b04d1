//! The commands that change the versions of a running server, and its history.

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use comfy_table::Table;
use serde_json::{Value, json};

use super::{
    installed,
    location::Location,
    server::ServerArgs,
    status::{text, utc, version_table, versioned},
};
use crate::{cli::ConfigArgs, config::Digest, signing::Signature};

/// What to push.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The name that routes bind.
    name: String,
    /// The component: a file, or a reference such as oci://registry.example.com/persona:1.2.0. Its
    /// signature, FILE.sig or what was published with it, goes along if there is one.
    #[arg(value_name = "FILE|REFERENCE")]
    location: Location,
    /// Its `[registries]` say how registries are reached.
    #[command(flatten)]
    config: ConfigArgs,
    /// How far it is to come.
    #[arg(long, value_enum, default_value_t = UntilArg::Live)]
    until: UntilArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// How far a pushed component is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum UntilArg {
    /// Kept, and nothing more.
    Staged,
    /// Compiled, linked and tried with its golden cases.
    Verified,
    /// Serving.
    Live,
}

/// Which version of which plugin.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// The plugin.
    name: String,
    /// The first digits of the version's digest, 6 at least. Without them: the version on trial,
    /// else the newest that waits.
    digest: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Which version, and its share.
#[derive(Debug, Args)]
pub(crate) struct CanaryArgs {
    /// The plugin.
    name: String,
    /// Requests of a hundred that the version answers.
    #[arg(value_parser = clap::value_parser!(u8).range(1..=100))]
    percent: u8,
    /// The first digits of the version's digest, 6 at least. Without them: the version on trial,
    /// else the newest that waits.
    digest: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Which plugin goes back.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The plugin.
    name: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// Whose history.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Only changes of this plugin.
    name: Option<String>,
    /// Most changes that are shown.
    #[arg(long, default_value_t = 50)]
    last: usize,
    #[command(flatten)]
    server: ServerArgs,
    /// One JSON object for each change, the newest first.
    #[arg(long)]
    json: bool,
}

impl PushArgs {
    /// Sends the component and prints what became of it.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (component, signature) = self.location.read_signed(&self.config)?;
        let until = match self.until {
            UntilArg::Staged => "staged",
            UntilArg::Verified => "verified",
            UntilArg::Live => "live",
        };
        let path = format!("/admin/v1/plugins/{}?until={until}", self.name);
        let digest = Digest::of(&component).to_hex();
        let signature = signature.as_deref().map(Signature::parse).transpose();
        let signature = signature.with_context(|| format!("the signature of {}", self.location))?;
        let status = self.server.put(&path, &component, signature.as_ref())?;
        installed::print(&mut io::stdout().lock(), &status, &digest)?;
        Ok(())
    }
}

impl VersionArgs {
    /// `verify`, `shadow` or `activate`, and what became of it.
    pub(crate) fn run(self, action: &str) -> anyhow::Result<()> {
        let body = json!({ "digest": self.digest });
        make_move(&self.server, &self.name, action, &body)
    }
}

impl CanaryArgs {
    /// Gives the version its share.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let body = json!({ "digest": self.digest, "percent": self.percent });
        make_move(&self.server, &self.name, "canary", &body)
    }
}

impl RollbackArgs {
    /// Goes back and prints where to.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        make_move(&self.server, &self.name, "rollback", &json!({}))
    }
}

impl HistoryArgs {
    /// Prints the changes, the newest first.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let history = self.server.get("/admin/v1/history")?;
        let subject = self.name.map(|name| format!("plugin {name}"));
        let changes = history["history"].as_array().into_iter().flatten();
        let changes = changes
            .filter(|change| {
                subject
                    .as_deref()
                    .is_none_or(|wanted| text(change, "subject") == wanted)
            })
            .take(self.last);
        let mut out = io::stdout().lock();
        if self.json {
            for change in changes {
                writeln!(out, "{change}")?;
            }
            return Ok(());
        }
        let mut table = Table::new();
        table.set_header(["", "time", "who", "what", "version", "outcome", "reason"]);
        for change in changes {
            table.add_row([
                change["sequence"].to_string(),
                utc(change["at"].as_u64().unwrap_or_default()),
                text(change, "origin").to_owned(),
                text(change, "subject").to_owned(),
                versioned(change),
                text(change, "outcome").to_owned(),
                text(change, "reason").to_owned(),
            ]);
        }
        writeln!(out, "{table}")?;
        Ok(())
    }
}

/// Asks for a move and prints how the versions stand after it.
fn make_move(server: &ServerArgs, name: &str, action: &str, body: &Value) -> anyhow::Result<()> {
    let status = server.post(&format!("/admin/v1/plugins/{name}/{action}"), body)?;
    writeln!(io::stdout(), "{}", version_table(&status))?;
    Ok(())
}
