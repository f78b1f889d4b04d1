//! Keys as people and files hold them.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signer as _, VerifyingKey};
use rand::{TryRngCore as _, rngs::OsRng};
use thiserror::Error;

use super::{Signature, message};
use crate::config::Digest;

const PUBLIC_PREFIX: &str = "ed25519:";
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";
/// What stands before the 32 bytes of an ed25519 key in PKCS #8 (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A text that is no key. Says nothing of its content, which may be secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not `ed25519:` and 32 bytes in base64.
    #[error(
        "this is not a public key, which is `ed25519:` and 44 characters of base64; \
         `gapura key new --signing FILE` prints one"
    )]
    Public,
    /// A private key stands where a public one belongs.
    #[error(
        "this is a private key, and only the public one belongs here; what others can read by now \
         needs to be replaced"
    )]
    PrivateForPublic,
    /// 32 bytes that verify what nobody has signed.
    #[error("this public key is one of the few that fit signatures of anybody")]
    Weak,
    /// Not an ed25519 key in PKCS #8 PEM.
    #[error(
        "this is not a private ed25519 key in PKCS #8 PEM, as `gapura key new --signing FILE` and \
         `openssl genpkey -algorithm ed25519` write it"
    )]
    Private,
}

/// The key that a signature is checked with, and the name by which signatures call their signer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub(super) fn fits(&self, digest: Digest, signature: &ed25519_dalek::Signature) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(&message(digest), signature).is_ok())
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    /// From `ed25519:BASE64`.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.contains("PRIVATE KEY") {
            return Err(KeyError::PrivateForPublic);
        }
        let bytes = text
            .strip_prefix(PUBLIC_PREFIX)
            .and_then(|text| BASE64.decode(text).ok())
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or(KeyError::Public)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Public)?;
        match key.is_weak() {
            true => Err(KeyError::Weak),
            false => Ok(Self(bytes)),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The private key. No log, error or debug output shows it.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// From the operating system's random numbers.
    ///
    /// # Errors
    /// The system has none.
    pub fn generate() -> Result<Self, rand::rand_core::OsError> {
        let mut seed = [0; 32];
        OsRng.try_fill_bytes(&mut seed)?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// The text of a key file.
    pub fn to_pem(&self) -> String {
        let der = [&PKCS8_PREFIX[..], self.0.as_bytes()].concat();
        format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", BASE64.encode(der))
    }

    /// From the text of a key file.
    ///
    /// # Errors
    /// [`KeyError::Private`].
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let lines: Vec<&str> = text.trim().lines().map(str::trim_end).collect();
        let &[PEM_BEGIN, body, PEM_END] = lines.as_slice() else {
            return Err(KeyError::Private);
        };
        let der = BASE64.decode(body).map_err(|_| KeyError::Private)?;
        let seed = der
            .strip_prefix(&PKCS8_PREFIX)
            .and_then(|seed| <[u8; 32]>::try_from(seed).ok())
            .ok_or(KeyError::Private)?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// The key that others check with.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Vouches for the component with this SHA-256.
    pub fn sign(&self, digest: Digest) -> Signature {
        Signature::new(self.public(), self.0.sign(&message(digest)))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}
