//! The randomness that guests are lent.

use std::io;

use rand::TryRngCore as _;
use rand::rngs::OsRng;

/// Makes random bytes for guests that are granted them.
pub trait Random: Send + Sync {
    /// Fills `bytes`; good enough for secrets.
    ///
    /// # Errors
    /// The source has none; the guest's call fails.
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()>;

    /// Fills what the random numbers of WASI, which every instance has, are made of; as [`fill`]
    /// unless a host keeps them apart.
    ///
    /// [`fill`]: Self::fill
    ///
    /// # Errors
    /// As of `fill`; the instance then has numbers of its own.
    fn seed(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.fill(bytes)
    }
}

/// The operating system's random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        OsRng.try_fill_bytes(bytes).map_err(io::Error::other)
    }
}
