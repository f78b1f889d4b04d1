//! `[plugins.sources]` and `[registries]`: what is to be pulled, and how registries are reached.

use std::collections::BTreeMap;

use super::{
    CanaryConfig, ConfigError, Environment, Pinned, Secret, SourceConfig,
    check::is_name,
    file::{CanarySection, RegistrySection, SourceSection},
    location::Document,
};
use crate::{
    builtin,
    oci::{Login, Reference, Registries, Registry, is_registry},
};

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
    let (live, canary) = match source {
        SourceSection::Live(oci) => (oci, None),
        SourceSection::Tried { oci, canary } => (oci, canary.as_ref()),
    };
    let live = pinned(live)?;
    let canary = canary.map(|canary| read_canary(canary, &live));
    Ok(SourceConfig {
        canary: canary.transpose()?,
        live,
    })
}

fn read_canary(canary: &CanarySection, live: &Pinned) -> Result<CanaryConfig, String> {
    let (oci, percent) = match canary {
        CanarySection::Version { oci, percent } => (oci, *percent),
        CanarySection::Share(percent) => {
            return Err(format!(
                "`canary = {percent}` does not say what answers the other requests; name the live \
                 version and the canary, `{{ oci = \"oci://…\", canary = {{ oci = \"{}\", percent = \
                 {percent} }} }}`",
                live.reference
            ));
        }
    };
    let version = pinned(oci)?;
    if version.manifest == live.manifest {
        return Err(format!(
            "`{}` is the live version and its own canary; name two versions, or leave `canary` out",
            version.reference
        ));
    }
    let share = u8::try_from(percent)
        .ok()
        .filter(|share| (1..=100).contains(share));
    let percent = share.ok_or_else(|| {
        format!("`percent` is {percent}; a canary answers 1 to 100 of a hundred requests")
    })?;
    Ok(CanaryConfig { version, percent })
}

fn pinned(text: &str) -> Result<Pinned, String> {
    let reference: Reference = text
        .parse()
        .map_err(|error: crate::oci::ReferenceError| error.to_string())?;
    match reference.digest() {
        Some(manifest) => Ok(Pinned {
            reference,
            manifest,
        }),
        None => Err(format!(
            "`{reference}` names a tag, which can be moved, so that two gateways would differ; name \
             the version by its digest, `oci://…@sha256:…`, as `gapura plugin publish` prints it"
        )),
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
