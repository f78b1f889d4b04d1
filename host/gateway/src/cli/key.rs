//! `gapura key`: secrets that are shown once and kept as hashes.

use std::io::{self, Write as _};

use clap::Subcommand;
use rand::RngCore as _;

use crate::config::Digest;

/// Makes API keys and administration tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key: the key for the caller, the hash for the configuration.
    #[command(after_help = "Examples:
  gapura key new --name team-a
  gapura key new --name team-a --route support --route chat
  gapura key new --admin")]
    New {
        /// What logs, metrics and plugins call the caller.
        #[arg(long, default_value = "default")]
        name: String,
        /// A route that the key opens; repeat it for more. Default: all.
        #[arg(long = "route", value_name = "NAME")]
        routes: Vec<String>,
        /// A token for the administration API instead.
        #[arg(long, conflicts_with_all = ["name", "routes"])]
        admin: bool,
    },
}

impl KeyCommand {
    /// Prints the key and the lines for the configuration.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Self::New {
            name,
            routes,
            admin,
        } = self;
        let key = new_secret(if admin { "gapura-admin-" } else { "sk-gapura-" });
        let digest = Digest::of(key.as_bytes());
        let mut out = io::stdout().lock();
        if admin {
            writeln!(
                out,
                "token (shown once): {key}\n\n[admin]\ntoken_sha256 = \"{digest}\""
            )?;
            return Ok(());
        }
        writeln!(out, "key (shown once): {key}\n")?;
        writeln!(
            out,
            "[[keys]]\nname = {}\nsha256 = \"{digest}\"",
            toml::Value::String(name)
        )?;
        if !routes.is_empty() {
            let list = toml::Value::Array(routes.into_iter().map(toml::Value::String).collect());
            writeln!(out, "routes = {list}")?;
        }
        Ok(())
    }
}

/// 192 random bits in hexadecimal digits behind `prefix`.
fn new_secret(prefix: &str) -> String {
    let mut bytes = [0; 24];
    rand::rng().fill_bytes(&mut bytes);
    bytes
        .iter()
        .fold(prefix.to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
