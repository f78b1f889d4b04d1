//! Which components a route may bind: those that a trusted key has signed, those with a certain
//! digest.

use std::collections::HashSet;

use super::{
    ConfigError, Digest,
    check::is_name,
    error::nearest,
    file::{
        BindingSection, ConfigFile, DigestPin, RequireSignature, RouteSection, TrustedKeySection,
    },
    location::Document,
};
use crate::{
    builtin,
    signing::{PublicKey, TrustedKeys},
};

/// Checks trusted keys, and what routes and bindings ask for.
pub(super) fn check(tree: &ConfigFile, document: &Document<'_>) -> Result<(), ConfigError> {
    check_keys(&tree.plugins.trusted_keys, document)?;
    for (index, route) in tree.routes.iter().enumerate() {
        let key = format!("routes.{index}");
        check_signers(route, &key, &tree.plugins.trusted_keys, document)?;
        for (index, binding) in route.plugins.iter().enumerate() {
            check_pin(binding, &format!("{key}.plugins.{index}.digest"), document)?;
        }
    }
    Ok(())
}

fn check_keys(keys: &[TrustedKeySection], document: &Document<'_>) -> Result<(), ConfigError> {
    let mut seen: Vec<(&str, PublicKey)> = Vec::new();
    for (index, section) in keys.iter().enumerate() {
        let key = format!("plugins.trusted_keys.{index}");
        let name = section.name.as_str();
        if !is_name(name) {
            let message =
                format!("key name `{name}` must be 1 to 64 letters, digits, `-`, `_` or `.`");
            return Err(document.invalid(&format!("{key}.name"), message));
        }
        if seen.iter().any(|(other, _)| *other == name) {
            let message = format!("two trusted keys have the name `{name}`");
            return Err(document.invalid(&format!("{key}.name"), message));
        }
        let place = format!("{key}.public_key");
        let public: PublicKey = section
            .public_key
            .parse()
            .map_err(|error| document.invalid(&place, format!("key `{name}`: {error}")))?;
        if let Some((other, _)) = seen.iter().find(|(_, known)| *known == public) {
            let message = format!("`{name}` is the same key as `{other}`");
            return Err(document.invalid(&place, message));
        }
        seen.push((name, public));
    }
    Ok(())
}

fn check_signers(
    route: &RouteSection,
    key: &str,
    keys: &[TrustedKeySection],
    document: &Document<'_>,
) -> Result<(), ConfigError> {
    let place = format!("{key}.require_signature");
    let known = || keys.iter().map(|key| key.name.as_str());
    let asked: &[String] = match &route.require_signature {
        RequireSignature::Any(false) => return Ok(()),
        RequireSignature::Any(true) if keys.is_empty() => {
            let message = "no signature could count without [[plugins.trusted_keys]]";
            return Err(document.invalid(&place, message));
        }
        RequireSignature::Any(true) => return Ok(()),
        RequireSignature::By(names) => names,
    };
    if asked.is_empty() {
        let message = "the list is empty, so that no signature could count; say `false` to ask for \
                       none";
        return Err(document.invalid(&place, message));
    }
    for name in asked {
        if known().any(|known| known == name) {
            continue;
        }
        let mut message = format!("there is no key `{name}` in [[plugins.trusted_keys]]");
        if let Some(near) = nearest(name, known()) {
            message.push_str(&format!(", did you mean `{near}`?"));
        }
        return Err(document.invalid(&place, message));
    }
    Ok(())
}

fn check_pin(
    binding: &BindingSection,
    place: &str,
    document: &Document<'_>,
) -> Result<(), ConfigError> {
    let Some(pin) = &binding.digest else {
        return Ok(());
    };
    if binding.plugin == builtin::TEMPLATE {
        let message = "which plugin `template` stands for depends on the model; bind the plugin by \
                       its own name to pin its digest";
        return Err(document.invalid(place, message));
    }
    if pin.digests().is_empty() {
        let message = "the list is empty, so that nothing could be bound; leave `digest` out to \
                       bind whatever is live";
        return Err(document.invalid(place, message));
    }
    let mut seen = HashSet::new();
    for text in pin.digests() {
        let Some(digest) = Digest::from_hex(text) else {
            let message = format!(
                "`{text}` is not a SHA-256 of 64 hexadecimal digits; `gapura plugin inspect` shows \
                 that of a component"
            );
            return Err(document.invalid(place, message));
        };
        if !seen.insert(digest) {
            return Err(document.invalid(place, format!("{digest} stands there twice")));
        }
    }
    Ok(())
}

/// Expects what [`check`] has seen.
pub(super) fn trusted_keys(sections: &[TrustedKeySection]) -> TrustedKeys {
    let keys = sections.iter().map(|section| {
        let key = section.public_key.parse();
        let key = key.expect("check has parsed every trusted key");
        (section.name.clone(), key)
    });
    keys.collect()
}

/// Those of `keys` that `asked` names; `None` where it asks for nothing.
pub(super) fn signers(asked: &RequireSignature, keys: &TrustedKeys) -> Option<TrustedKeys> {
    match asked {
        RequireSignature::Any(false) => None,
        RequireSignature::Any(true) => Some(keys.clone()),
        RequireSignature::By(names) => Some(keys.only(names)),
    }
}

/// Expects what [`check`] has seen.
pub(super) fn digests(pin: Option<&DigestPin>) -> Vec<Digest> {
    let texts = pin.map_or(&[][..], DigestPin::digests);
    let digests = texts
        .iter()
        .map(|text| Digest::from_hex(text).expect("check has read every digest"));
    digests.collect()
}
