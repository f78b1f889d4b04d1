//! One file from the hub: resumed, tried again, its size and checksum compared.

use std::{
    fs::{self, File},
    io,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    time::Duration,
};

use hf_hub::{
    Cache, Repo,
    api::{
        Progress,
        sync::{Api, ApiError, Metadata},
    },
};
use sha2::{Digest, Sha256};

use super::PullProgress;
use crate::error::LoadError;

/// Attempts that bring nothing before a transfer is given up.
const MAX_FRUITLESS_ATTEMPTS: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// What it takes to fetch a file of one commit.
pub(super) struct Downloader<'a> {
    pub(super) api: &'a Api,
    pub(super) cache: &'a Cache,
    pub(super) repo: &'a Repo,
    pub(super) endpoint: &'a str,
    /// Model and file, for messages.
    pub(super) what: String,
    pub(super) progress: &'a mut dyn FnMut(PullProgress<'_>),
}

impl Downloader<'_> {
    /// Fetches `file` and returns where it lies in the snapshot's folder.
    pub(super) fn download(&mut self, file: &str) -> Result<PathBuf, LoadError> {
        let url = self.api.repo(self.repo.clone()).url(file);
        let mut wait = FIRST_WAIT;
        let mut fruitless = 0;
        let metadata = loop {
            match self.guarded(|| self.api.metadata(&url)) {
                Ok(metadata) => break metadata,
                Err(error) if !is_passing(&error) || fruitless + 1 >= MAX_FRUITLESS_ATTEMPTS => {
                    return Err(error);
                }
                Err(_) => fruitless += 1,
            }
            std::thread::sleep(wait);
            wait *= 2;
        };
        // They become names in the cache.
        if !is_plain_hash(metadata.etag()) || !is_plain_hash(metadata.commit_hash()) {
            let reason = format!("`{}` is no content hash", metadata.etag());
            return Err(self.failed(reason));
        }
        let blob = self
            .cache
            .repo(self.repo.clone())
            .blob_path(metadata.etag());
        let part = blob.with_extension("part");
        let total = metadata.size() as u64;
        // The whole, or more, is no part: a hub answers 416 to a request for what follows it.
        if fs::metadata(&part).is_ok_and(|part| part.len() >= total) {
            self.remove(&part)?;
        }

        let (mut wait, mut fruitless) = (FIRST_WAIT, 0);
        loop {
            let before = len(&part);
            match self
                .attempt(file, total)
                .and_then(|path| self.verify(&metadata, &blob, path))
            {
                Ok(path) => return Ok(path),
                Err(error) if !is_passing(&error) => return Err(error),
                Err(error) => {
                    fruitless = if len(&part) > before {
                        0
                    } else {
                        fruitless + 1
                    };
                    if fruitless >= MAX_FRUITLESS_ATTEMPTS {
                        return Err(error);
                    }
                    tracing::warn!(what = self.what, %error, "transfer interrupted; going on");
                }
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(Duration::from_secs(10));
        }
    }

    fn attempt(&mut self, file: &str, total_bytes: u64) -> Result<PathBuf, LoadError> {
        let (api, repo) = (self.api, self.repo.clone());
        let (what, endpoint, cache) = (self.what.clone(), self.endpoint, self.cache.path());
        let report = Report {
            report: &mut *self.progress,
            file,
            done_bytes: 0,
            total_bytes,
        };
        guarded(&what, endpoint, cache, move || {
            api.repo(repo).download_with_progress(file, report)
        })
    }

    /// Large files are named by their SHA-256 on the hub; of the others the size is compared.
    fn verify(
        &self,
        metadata: &Metadata,
        blob: &Path,
        path: PathBuf,
    ) -> Result<PathBuf, LoadError> {
        let (found, expected) = (len(blob), metadata.size() as u64);
        if found != expected {
            self.remove(blob)?;
            return Err(self.failed(format!("{found} bytes came, {expected} were promised")));
        }
        let expected = metadata.etag();
        if expected.len() != 64 || !expected.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(path);
        }
        let found = sha256(blob).map_err(|source| LoadError::Read {
            path: blob.to_path_buf(),
            source,
        })?;
        if found.eq_ignore_ascii_case(expected) {
            return Ok(path);
        }
        self.remove(blob)?;
        Err(LoadError::Checksum {
            what: self.what.clone(),
            expected: expected.to_owned(),
            found,
        })
    }

    fn remove(&self, path: &Path) -> Result<(), LoadError> {
        fs::remove_file(path).map_err(|source| LoadError::Write {
            path: path.to_path_buf(),
            source,
        })
    }

    fn failed(&self, reason: String) -> LoadError {
        LoadError::Fetch {
            what: self.what.clone(),
            endpoint: self.endpoint.to_owned(),
            reason,
        }
    }

    fn guarded<T>(&self, call: impl FnOnce() -> Result<T, ApiError>) -> Result<T, LoadError> {
        guarded(&self.what, self.endpoint, self.cache.path(), call)
    }
}

/// Calls `hf-hub`, names its errors, and keeps in what it panics on: answers that break the
/// hub's protocol, such as a redirect to nowhere.
pub(super) fn guarded<T>(
    what: &str,
    endpoint: &str,
    cache: &Path,
    call: impl FnOnce() -> Result<T, ApiError>,
) -> Result<T, LoadError> {
    match std::panic::catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| named(error, what, endpoint, cache)),
        Err(_) => Err(LoadError::Fetch {
            what: what.to_owned(),
            endpoint: endpoint.to_owned(),
            reason: "the answer is not that of a hub".to_owned(),
        }),
    }
}

fn named(error: ApiError, what: &str, endpoint: &str, cache: &Path) -> LoadError {
    let (what, endpoint) = (what.to_owned(), endpoint.to_owned());
    let reason = match error {
        ApiError::RequestError(error) => match *error {
            ureq::Error::StatusCode(status @ (401 | 403)) => {
                return LoadError::HubUnauthorized {
                    what,
                    endpoint,
                    status,
                };
            }
            ureq::Error::StatusCode(404) => return LoadError::NotOnHub { what, endpoint },
            ureq::Error::StatusCode(status) => format!("the hub answered {status}"),
            other => other.to_string(),
        },
        ApiError::IoError(source) if is_local(&source) => {
            return LoadError::Write {
                path: cache.to_path_buf(),
                source,
            };
        }
        ApiError::LockAcquisition(path) => {
            format!(
                "another process is fetching it (it holds {})",
                path.display()
            )
        }
        other => other.to_string(),
    };
    LoadError::Fetch {
        what,
        endpoint,
        reason,
    }
}

/// Whether an I/O error is about the cache's files; the network has its own kinds.
fn is_local(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::AlreadyExists
    )
}

/// Whether trying again may help.
fn is_passing(error: &LoadError) -> bool {
    matches!(error, LoadError::Fetch { .. })
}

/// Letters, digits and dashes, as in every hash and tag: nothing that could lead out of a folder.
pub(super) fn is_plain_hash(text: &str) -> bool {
    (8..=128).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut HashWriter(&mut hasher))?;
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes `hf-hub`'s counts on as totals.
struct Report<'a> {
    report: &'a mut dyn FnMut(PullProgress<'_>),
    file: &'a str,
    done_bytes: u64,
    total_bytes: u64,
}

impl Progress for Report<'_> {
    fn init(&mut self, _size: usize, _file: &str) {
        self.done_bytes = 0;
    }

    fn update(&mut self, size: usize) {
        self.done_bytes += size as u64;
        (self.report)(PullProgress {
            file: self.file,
            done_bytes: self.done_bytes,
            total_bytes: self.total_bytes,
        });
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_broken_line() {
        let named = |kind: io::ErrorKind| {
            named(
                ApiError::IoError(kind.into()),
                "a/b: x",
                "http://hub",
                Path::new("/cache"),
            )
        };
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::PermissionDenied] {
            let error = named(kind);
            assert!(matches!(&error, LoadError::Write { path, .. } if path == Path::new("/cache")));
            assert!(!is_passing(&error));
        }
        for kind in [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset] {
            assert!(is_passing(&named(kind)));
        }
    }

    #[test]
    fn hashes_cannot_be_paths() {
        assert!(is_plain_hash("0123456789abcdef"));
        for bad in [
            "",
            "short",
            "../../../etc/passwd",
            "/etc/passwd",
            "a.b.c.d.e",
            "W/012345678",
        ] {
            assert!(!is_plain_hash(bad), "{bad}");
        }
    }
}
