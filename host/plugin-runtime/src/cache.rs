//! Compiled code on disk. An entry is a SHA-256 of the code, then the code; an entry that does not
//! match its sum is no entry. Keyed by the component's digest and the engine's compatibility hash,
//! so that another wasmtime, another CPU or other settings never see it.
//!
//! Compiled code is executed as it is: whoever can write to the directory can run code in the
//! process. It is made for its owner alone.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use tracing::warn;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::error::RuntimeError;

const SUM_BYTES: usize = 32;

/// The directory of compiled components.
pub(crate) struct Cache {
    directory: PathBuf,
    compatibility: u64,
}

impl Cache {
    /// Makes the directory and proves that files can be written to it.
    pub(crate) fn open(directory: &Path, engine: &Engine) -> Result<Self, RuntimeError> {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let cache = Self {
            directory: directory.to_owned(),
            compatibility: hasher.finish(),
        };
        let probe = cache.temporary("probe");
        create_private(directory)
            .and_then(|()| std::fs::write(&probe, b"gapura"))
            .and_then(|()| std::fs::remove_file(&probe))
            .map_err(|source| RuntimeError::Cache {
                path: directory.to_owned(),
                source,
            })?;
        Ok(cache)
    }

    /// The compiled component of `digest`, or `None`: no entry, a damaged one, one of another
    /// engine.
    pub(crate) fn load(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let path = self.entry(digest);
        let bytes = std::fs::read(&path).ok()?;
        let Some((sum, code)) = bytes.split_at_checked(SUM_BYTES) else {
            warn!(path = %path.display(), "damaged entry in the plugin cache: compiling again");
            return None;
        };
        if Sha256::digest(code).as_slice() != sum {
            warn!(path = %path.display(), "damaged entry in the plugin cache: compiling again");
            return None;
        }
        #[expect(
            unsafe_code,
            reason = "compiled code can only be taken back by an unsafe call"
        )]
        // SAFETY: `deserialize` demands bytes that `serialize` of a compatible wasmtime made.
        // `store` is the only writer of these files, puts nothing but the result of `serialize`
        // behind the sum that was just compared, and the name holds the engine's compatibility
        // hash; wasmtime checks its version and settings once more.
        let component = unsafe { Component::deserialize(engine, code) };
        component
            .inspect_err(|error| {
                warn!(path = %path.display(), %error, "foreign entry in the plugin cache");
            })
            .ok()
    }

    /// Keeps `component` for the next start. A full disk costs speed, not service, so it is only
    /// logged.
    pub(crate) fn store(&self, digest: &str, component: &Component) {
        if let Err(error) = self.try_store(digest, component) {
            let directory = self.directory.display();
            warn!(%directory, %error, "cannot keep compiled plugin");
        }
    }

    fn try_store(&self, digest: &str, component: &Component) -> wasmtime::Result<()> {
        let code = component.serialize()?;
        let temporary = self.temporary(digest);
        let written = (|| -> io::Result<()> {
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(&Sha256::digest(&code))?;
            file.write_all(&code)?;
            drop(file);
            std::fs::rename(&temporary, self.entry(digest))
        })();
        if written.is_err() {
            // Whatever was written of it is worthless; if it cannot be removed either, so be it.
            let _ = std::fs::remove_file(&temporary);
        }
        Ok(written?)
    }

    fn entry(&self, digest: &str) -> PathBuf {
        self.directory
            .join(format!("{digest}-{:016x}.cwasm", self.compatibility))
    }

    /// A name that no other writer, thread or process, uses.
    fn temporary(&self, stem: &str) -> PathBuf {
        // Of the process: several runtimes in it may share a directory.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        self.directory
            .join(format!(".{stem}-{}-{count}.tmp", std::process::id()))
    }
}

#[cfg(unix)]
fn create_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

#[cfg(not(unix))]
fn create_private(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_may_be_opened_by_many_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        Cache::open(directory.path(), &engine).unwrap();
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
