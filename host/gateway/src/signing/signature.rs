//! A signature as it stands in a file, a header and the state of the controller.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::PublicKey;
use crate::config::Digest;

/// The first word, which names format and version.
const FORMAT: &str = "gapura-signature-v1";
/// Longest text that is looked at; a signature takes 161 bytes.
pub const MAX_TEXT_BYTES: usize = 1024;

/// Why a component does not count as signed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// There is none.
    #[error("it has no signature; `gapura plugin sign` makes one")]
    Missing,
    /// The text is no signature.
    #[error("its signature is not a line `{FORMAT} KEY SIGNATURE`: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The signature was made for other bytes, by another key, or is damaged.
    #[error("the signature by {key} is not one of this component")]
    Invalid {
        /// Whose it claims to be.
        key: PublicKey,
    },
    /// The signature is right, but its key is none of those that count.
    #[error("it is signed by {key}, which is none of these")]
    Untrusted {
        /// Whose it is.
        key: PublicKey,
    },
}

impl SignatureError {
    /// Stable and machine-readable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "signature_missing",
            Self::Malformed { .. } | Self::Invalid { .. } => "signature_invalid",
            Self::Untrusted { .. } => "signature_untrusted",
        }
    }
}

/// Who vouches, and the proof. For which bytes shows only [`check`](Self::check).
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    key: PublicKey,
    proof: ed25519_dalek::Signature,
}

impl Signature {
    pub(super) fn new(key: PublicKey, proof: ed25519_dalek::Signature) -> Self {
        Self { key, proof }
    }

    /// Reads `gapura-signature-v1 KEY SIGNATURE`, which a line break may follow.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        let malformed = |reason| SignatureError::Malformed { reason };
        if text.len() > MAX_TEXT_BYTES {
            return Err(malformed("it is too long"));
        }
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let words: Vec<&str> = line.split(' ').collect();
        if words[0] != FORMAT {
            return Err(malformed("it begins with another word"));
        }
        let &[_, key, proof] = words.as_slice() else {
            return Err(malformed("it has not three words"));
        };
        let key = key
            .parse()
            .map_err(|_| malformed("the second word is not a public key `ed25519:…`"))?;
        let proof = BASE64
            .decode(proof)
            .ok()
            .and_then(|bytes| <[u8; 64]>::try_from(bytes).ok())
            .ok_or_else(|| malformed("the third word is not 64 bytes in base64"))?;
        Ok(Self {
            key,
            proof: ed25519_dalek::Signature::from_bytes(&proof),
        })
    }

    /// Whose it claims to be.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// Whether it is one of the component with this SHA-256. Says nothing of trust.
    ///
    /// # Errors
    /// [`SignatureError::Invalid`].
    pub fn check(&self, digest: Digest) -> Result<(), SignatureError> {
        match self.key.fits(digest, &self.proof) {
            true => Ok(()),
            false => Err(SignatureError::Invalid { key: self.key }),
        }
    }
}

impl fmt::Display for Signature {
    /// The line, without a line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proof = BASE64.encode(self.proof.to_bytes());
        write!(f, "{FORMAT} {} {proof}", self.key)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature(by {})", self.key)
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
