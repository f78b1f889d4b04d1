//! `[plugins.sources]` and `[registries]`: what is to be pulled, and how registries are reached.

use std::collections::BTreeMap;

use super::{
    ConfigError, Environment, Secret, SourceConfig,
    check::is_name,
    file::{RegistrySection, SourceSection},
    location::Document,
};
use crate::{
    builtin,
    oci::{Login, Reference, Registries, Registry, is_registry},
};

impl SourceSection {
    fn parts(&self) -> (&str, Option<u8>) {
        match self {
            Self::Live(oci) => (oci, None),
            Self::Tried { oci, canary } => (oci, *canary),
        }
    }
}

/// Refuses what names no one version, or no plugin.
pub(super) fn check(
    sources: &BTreeMap<String, SourceSection>,
    document: &Document<'_>,
) -> Result<(), ConfigError> {
    for (name, source) in sources {
        if let Err(message) = check_name(name).and_then(|()| read(source).map(drop)) {
            return Err(document.invalid(&format!("plugins.sources.{name}"), message));
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    if name == builtin::TEMPLATE {
        return Err(format!(
            "`{name}` cannot be the name of a plugin: in a route it stands for the built-in \
             template that suits the model"
        ));
    }
    match is_name(name) {
        true => Ok(()),
        false => Err(format!(
            "plugin name `{name}` must be 1 to 64 letters, digits, `-`, `_` or `.`"
        )),
    }
}

fn read(source: &SourceSection) -> Result<SourceConfig, String> {
    let (text, canary) = source.parts();
    let reference: Reference = text
        .parse()
        .map_err(|error: crate::oci::ReferenceError| error.to_string())?;
    let Some(manifest) = reference.digest() else {
        return Err(format!(
            "`{reference}` names a tag, which can be moved, so that two gateways would differ; name \
             the version by its digest, `oci://…@sha256:…`, as `gapura plugin publish` prints it"
        ));
    };
    match canary {
        Some(percent) if !(1..=100).contains(&percent) => Err(format!(
            "`canary` is {percent}; a canary answers 1 to 100 of a hundred requests"
        )),
        canary => Ok(SourceConfig {
            reference,
            manifest,
            canary,
        }),
    }
}

/// The sources that [`check`] has seen.
pub(super) fn resolve(sources: &BTreeMap<String, SourceSection>) -> BTreeMap<String, SourceConfig> {
    sources
        .iter()
        .map(|(name, source)| {
            let source = read(source).expect("check has read every source");
            (name.clone(), source)
        })
        .collect()
}

/// The registries, with the passwords that `environment` has for them.
pub(super) fn registries(
    sections: &BTreeMap<String, RegistrySection>,
    environment: &Environment,
    document: &Document<'_>,
) -> Result<Registries, ConfigError> {
    let mut registries = Registries::new();
    for (name, section) in sections {
        let key = format!("registries.{name}");
        if !is_registry(name) {
            let message = format!(
                "`{name}` is not a registry such as `registry.example.com` or `127.0.0.1:5000`"
            );
            return Err(document.invalid(&key, message));
        }
        let login = match (&section.username, &section.password_env) {
            (None, None) => None,
            (Some(username), Some(variable)) => {
                let password = environment.text(variable).ok_or_else(|| {
                    let message = format!(
                        "the environment variable `{variable}` is not set; it is to hold the \
                         password of `{username}`"
                    );
                    document.invalid(&format!("{key}.password_env"), message)
                })?;
                Some(Login {
                    username: username.clone(),
                    password: Secret::new(password),
                })
            }
            _ => {
                let message = "`username` and `password_env` belong together; say both, or neither";
                return Err(document.invalid(&key, message));
            }
        };
        let registry = Registry {
            plain_http: section.plain_http,
            login,
        };
        registries.insert(name.clone(), registry);
    }
    Ok(registries)
}
