//! Whether a component may serve where a route is particular about whose it is, or which.

use super::ControlError;
use crate::{
    builtin,
    config::{BindingConfig, Digest, RouteConfig},
    signing::{Signature, SignatureError},
};

/// Reads the signature that came with the component `digest`, if one did.
///
/// # Errors
/// [`ControlError::Signature`] if it is not one of this component, whatever the routes ask for: who
/// sends one wants it to hold.
pub(super) fn read(
    name: &str,
    digest: &str,
    text: Option<&str>,
) -> Result<Option<Signature>, ControlError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let checked = |text| -> Result<Signature, SignatureError> {
        let signature = Signature::parse(text)?;
        signature.check(parsed(digest))?;
        Ok(signature)
    };
    let signature = checked(text).map_err(|source| ControlError::Signature {
        name: name.to_owned(),
        digest: digest.to_owned(),
        source,
    })?;
    Ok(Some(signature))
}

/// Whether `binding` of `route` may be the component `digest`, which has `signatures`.
///
/// # Errors
/// [`ControlError::NotPinned`], [`ControlError::NotSigned`].
pub(super) fn check(
    route: &RouteConfig,
    binding: &BindingConfig,
    digest: &str,
    signatures: &[Signature],
) -> Result<(), ControlError> {
    let is = parsed(digest);
    if !binding.digests.is_empty() && !binding.digests.contains(&is) {
        let pinned: Vec<String> = binding.digests.iter().map(Digest::to_string).collect();
        return Err(ControlError::NotPinned {
            route: route.name.clone(),
            plugin: binding.plugin.clone(),
            digest: digest.to_owned(),
            pinned: pinned.join(" or "),
        });
    }
    // Whoever trusts the binary trusts what is in it.
    let signers = route.signers.as_ref().filter(|_| !builtin::is_one(digest));
    let Some(signers) = signers else {
        return Ok(());
    };
    let signed = signers.verify_any(is, signatures);
    signed.map(drop).map_err(|source| ControlError::NotSigned {
        route: route.name.clone(),
        plugin: binding.plugin.clone(),
        digest: digest.to_owned(),
        keys: signers.to_string(),
        source: Box::new(source),
    })
}

fn parsed(digest: &str) -> Digest {
    Digest::from_hex(digest).expect("versions are called by the SHA-256 of their component")
}
