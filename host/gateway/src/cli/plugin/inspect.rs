//! `gapura plugin inspect`: loads a component as the server would and says what it is.

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::Args;
use gapura_plugin_runtime::{Import, PluginRuntime, RuntimeConfig};
use serde_json::json;

use super::location::{self, Location};
use crate::{
    cases,
    cli::ConfigArgs,
    config::Digest,
    signing::{PublicKey, Signature, TrustedKeys},
};

/// What a binding has to say for a component that imports `http`.
const HTTP_HINT: &str = "it asks servers by HTTP: a route that binds it grants `http` and names them, \
    such as grants = [\"log\", \"http\"], http = { allow = [\"api.example.com\"] }";

/// Which component.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The component: a file, or a reference such as oci://registry.example.com/persona:1.2.0.
    #[arg(value_name = "FILE|REFERENCE")]
    location: Location,
    /// Its `[[plugins.trusted_keys]]` are known, and its `[registries]` say how registries are
    /// reached.
    #[command(flatten)]
    config: ConfigArgs,
    /// Fail unless this public key, or one of several, has signed it.
    #[arg(long, value_name = "KEY")]
    trust: Vec<PublicKey>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    /// Prints what the component is.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let location = &self.location;
        let (component, signature) = location.read_signed(&self.config)?;
        let runtime = PluginRuntime::new(RuntimeConfig::default())?;
        let plugin = runtime
            .load(&location.stem(), &component)
            .with_context(|| format!("{location} is not a plugin that this version can run"))?;
        let stages: Vec<_> = plugin.stages().iter().map(|stage| stage.as_str()).collect();
        let imports: Vec<_> = plugin
            .imports()
            .iter()
            .map(|import| import.as_str())
            .collect();
        let grants: Vec<_> = plugin.grants_needed().map(|grant| grant.as_str()).collect();
        let cases = cases::embedded(&component)?;
        let cases: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
        let trusted = match &self.config.config {
            Some(_) => location::load(&self.config)?.plugins.trusted_keys,
            None => TrustedKeys::default(),
        };
        let signed = self.signed(&trusted, Digest::of(&component), signature.as_deref());
        let needs_http = grants.contains(&Import::Http.as_str());
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
                "cases": cases,
                "signature": {
                    "status": signed.status(),
                    "key": signed.key().map(|key| key.to_string()),
                    "name": signed.name(),
                    "reason": signed.reason(),
                },
            });
            writeln!(out, "{value:#}")?;
            return self.demand(&signed);
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
        if needs_http {
            writeln!(out, "hint     {HTTP_HINT}")?;
        }
        writeln!(
            out,
            "wasi     {}",
            if plugin.uses_wasi() {
                "yes, empty"
            } else {
                "no"
            }
        )?;
        writeln!(out, "cases    {}", or_none(cases))?;
        let mark = signed.status();
        match (signed.key(), signed.name(), signed.reason()) {
            (Some(key), Some(name), _) => writeln!(out, "signature {mark}: by {name} ({key})")?,
            (Some(key), None, _) => writeln!(out, "signature {mark}: by {key}")?,
            (None, _, Some(reason)) => writeln!(out, "signature {mark}: {reason}")?,
            (None, _, None) => writeln!(out, "signature {mark}")?,
        }
        self.demand(&signed)
    }

    /// What the signature that came with the component is worth.
    fn signed(&self, trusted: &TrustedKeys, digest: Digest, text: Option<&str>) -> Signed {
        let Some(text) = text else {
            return Signed::Not;
        };
        let signature = match Signature::parse(text) {
            Ok(signature) => signature,
            Err(error) => return Signed::Invalid(error.to_string()),
        };
        match signature.check(digest) {
            Err(error) => Signed::Invalid(error.to_string()),
            Ok(()) => {
                let key = signature.key();
                let name = trusted.name(key).map(str::to_owned);
                match name.is_some() || self.trust.contains(&key) {
                    true => Signed::Valid(key, name),
                    false => Signed::Unknown(key),
                }
            }
        }
    }

    /// Fails where `--trust` names keys and none of them has signed. The configuration's keys are
    /// not demanded: its routes may do without.
    fn demand(&self, signed: &Signed) -> anyhow::Result<()> {
        let by = signed.key();
        let is_right = self.trust.is_empty() || by.is_some_and(|key| self.trust.contains(&key));
        anyhow::ensure!(
            is_right,
            "{} is not signed by a key that --trust names",
            self.location
        );
        Ok(())
    }
}

/// What the signature that came with a component is worth.
enum Signed {
    /// There is none.
    Not,
    /// It is no signature, or one of something else: why.
    Invalid(String),
    /// It is one of this component, by a key that neither `--trust` nor the configuration has.
    Unknown(PublicKey),
    /// By one that they have, and what the configuration calls it.
    Valid(PublicKey, Option<String>),
}

impl Signed {
    fn status(&self) -> &'static str {
        match self {
            Self::Not => "none",
            Self::Invalid(_) => "invalid",
            Self::Unknown(_) => "unknown",
            Self::Valid(..) => "valid",
        }
    }

    fn key(&self) -> Option<PublicKey> {
        match self {
            Self::Not | Self::Invalid(_) => None,
            Self::Unknown(key) | Self::Valid(key, _) => Some(*key),
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Valid(_, name) => name.as_deref(),
            Self::Not | Self::Invalid(_) | Self::Unknown(_) => None,
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Invalid(reason) => Some(reason),
            Self::Not | Self::Unknown(_) | Self::Valid(..) => None,
        }
    }
}
