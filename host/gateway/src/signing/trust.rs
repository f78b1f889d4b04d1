//! Whose signatures count.

use std::fmt;

use super::{PublicKey, Signature, SignatureError};
use crate::config::Digest;

/// Keys and what the configuration calls them, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedKeys(Vec<(String, PublicKey)>);

impl TrustedKeys {
    /// Those of these keys that are called by one of `names`.
    pub fn only(&self, names: &[String]) -> Self {
        let mut keys = self.0.clone();
        keys.retain(|(name, _)| names.contains(name));
        Self(keys)
    }

    /// What the keys are called.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// What the key is called here.
    pub fn name(&self, key: PublicKey) -> Option<&str> {
        let mut keys = self.0.iter();
        let (name, _) = keys.find(|(_, known)| *known == key)?;
        Some(name)
    }

    /// The name of the key by which the component with this SHA-256 is signed.
    ///
    /// # Errors
    /// [`SignatureError::Invalid`] before [`SignatureError::Untrusted`]: whose a signature is
    /// matters only where it is one.
    pub fn verify(&self, digest: Digest, signature: &Signature) -> Result<&str, SignatureError> {
        signature.check(digest)?;
        let key = signature.key();
        self.name(key).ok_or(SignatureError::Untrusted { key })
    }

    /// [`verify`](Self::verify) for a component that may have several signatures: one that counts
    /// is enough.
    ///
    /// # Errors
    /// What is wrong with the last; [`SignatureError::Missing`] where there is none.
    pub fn verify_any(
        &self,
        digest: Digest,
        signatures: &[Signature],
    ) -> Result<&str, SignatureError> {
        let mut error = SignatureError::Missing;
        for signature in signatures {
            match self.verify(digest, signature) {
                Ok(name) => return Ok(name),
                Err(wrong) => error = wrong,
            }
        }
        Err(error)
    }
}

impl FromIterator<(String, PublicKey)> for TrustedKeys {
    fn from_iter<I: IntoIterator<Item = (String, PublicKey)>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

impl fmt::Display for TrustedKeys {
    /// The names, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.names().collect();
        f.write_str(&names.join(" or "))
    }
}
