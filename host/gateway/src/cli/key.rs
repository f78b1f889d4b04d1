//! `gapura key`: secrets that are shown once and kept as hashes.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::Subcommand;
use rand::RngCore as _;

use crate::{config::Digest, signing::SigningKey};

/// Makes API keys, administration tokens and keys that sign plugins.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key: the key for the caller, the hash for the configuration.
    #[command(after_help = "Examples:
  gapura key new --name team-a
  gapura key new --name team-a --route support --route chat
  gapura key new --admin
  gapura key new --signing release.key --name release")]
    New {
        /// What logs, metrics and plugins call the caller, or `require_signature` the key.
        #[arg(long, default_value = "default")]
        name: String,
        /// A route that the key opens; repeat it for more. Default: all.
        #[arg(long = "route", value_name = "NAME")]
        routes: Vec<String>,
        /// A token for the administration API instead.
        #[arg(long, conflicts_with_all = ["name", "routes"])]
        admin: bool,
        /// A pair that signs plugins instead: the private key goes into this new file, the public
        /// one is for the configuration.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["admin", "routes"])]
        signing: Option<PathBuf>,
    },
}

impl KeyCommand {
    /// Prints the key and the lines for the configuration.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Self::New {
            name,
            routes,
            admin,
            signing,
        } = self;
        if let Some(file) = signing {
            return new_signing_key(&file, name);
        }
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

fn new_signing_key(file: &Path, name: String) -> anyhow::Result<()> {
    let key = SigningKey::generate().context("no random numbers to make a key of")?;
    let mut options = OpenOptions::new();
    // Never over what is there: a key that is gone cannot be had again.
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(file).and_then(|mut file| {
        file.write_all(key.to_pem().as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            anyhow!(
                "{} is there already; a key is never overwritten",
                file.display()
            )
        }
        _ => anyhow::Error::new(error).context(format!("cannot write {}", file.display())),
    })?;
    writeln!(
        io::stdout(),
        "{} has the private key; keep it secret\n\n[[plugins.trusted_keys]]\nname = {}\n\
         public_key = \"{}\"",
        file.display(),
        toml::Value::String(name),
        key.public()
    )?;
    Ok(())
}

/// 192 random bits in hexadecimal digits behind `prefix`.
fn new_secret(prefix: &str) -> String {
    let mut bytes = [0; 24];
    rand::rng().fill_bytes(&mut bytes);
    bytes
        .iter()
        .fold(prefix.to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
