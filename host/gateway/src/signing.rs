//! Detached ed25519 signatures over components: who vouches for which bytes. Nothing here touches
//! files, configuration or routes; `docs/signatures.md` has the formats.

mod key;
mod signature;
mod trust;

pub use key::{KeyError, PublicKey, SigningKey};
pub use signature::{MAX_TEXT_BYTES, Signature, SignatureError};
pub use trust::TrustedKeys;

use crate::config::Digest;

/// The header of a push that has the signature.
pub const HEADER: &str = "x-gapura-signature";

/// What is signed: text, so that any tool that signs can make it. The words before the digest keep
/// a signature made for something else from counting here.
fn message(digest: Digest) -> Vec<u8> {
    format!("gapura-component-v1 {digest}").into_bytes()
}

#[cfg(test)]
mod tests;
