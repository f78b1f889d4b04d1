//! Where versions, their states and the history are kept. A folder:
//!
//! ```text
//! artefacts/sha256-….wasm   components, never changed
//! history.jsonl             one line for each change, in order
//! state.json                the committed state, replaced whole
//! lock                      held by the server that uses the folder
//! ```
//!
//! A change is there once `state.json` is: artefacts and lines of history that were written
//! for a change which then did not happen are dropped at the next start. So a process that is
//! killed at any point comes back with the last committed state.

mod files;
mod lines;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{
    Change, ControlError,
    history::{History, MAX_CHANGES},
    release::Releases,
};
use crate::config::Digest;
use files::Files;
use lines::Lines;

/// One line for each change.
const HISTORY: &str = "history.jsonl";
/// The layout of `state.json`. A later one is refused, not guessed at.
const FORMAT: u32 = 1;
/// Lines of history that are kept on disk, at most; then the newest [`MAX_CHANGES`] stay.
const MAX_LINES: usize = 4 * MAX_CHANGES;

/// Keeps artefacts and states.
#[derive(Debug)]
pub(super) enum Store {
    /// A folder of this server alone.
    Folder(Mutex<Folder>),
    /// Until the process ends, over a folder that is only read, where there is one.
    Memory {
        /// Components by digest.
        artefacts: Mutex<HashMap<String, Arc<[u8]>>>,
        beneath: Option<PathBuf>,
    },
}

/// What was kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) releases: Releases,
    pub(super) history: History,
}

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    files: Files,
    /// Bytes and lines of the history that belong to committed changes.
    history_bytes: u64,
    history_lines: usize,
    /// Holds the lock.
    _lock: fs::File,
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    format: u32,
    #[serde(flatten)]
    releases: Releases,
}

impl Store {
    /// Nothing outlives the process.
    pub(super) fn in_memory() -> Self {
        Self::Memory {
            artefacts: Mutex::default(),
            beneath: None,
        }
    }

    /// What `dir` keeps, without changing anything in it.
    ///
    /// # Errors
    /// [`ControlError`] if the state cannot be read.
    pub(super) fn look(dir: &Path) -> Result<(Self, Kept), ControlError> {
        let releases = read_state(dir)?;
        let lines = Lines::read(&dir.join(HISTORY), releases.sequence)?;
        let store = Self::Memory {
            artefacts: Mutex::default(),
            beneath: Some(dir.to_owned()),
        };
        let history = lines.history;
        Ok((store, Kept { releases, history }))
    }

    /// Takes `dir`, which is made if it is missing, for this process alone.
    ///
    /// # Errors
    /// [`ControlError`] if another server has it, it cannot be written, or its state cannot be
    /// read.
    pub(super) fn open(dir: &Path) -> Result<(Self, Kept), ControlError> {
        let artefacts = dir.join("artefacts");
        fs::create_dir_all(&artefacts).map_err(ControlError::store("make", &artefacts))?;
        let lock = lock(dir)?;
        let releases = read_state(dir)?;
        let Lines {
            history,
            bytes,
            count,
        } = Lines::read(&dir.join(HISTORY), releases.sequence)?;
        let folder = Folder {
            dir: dir.to_owned(),
            files: Files::default(),
            history_bytes: bytes,
            history_lines: count,
            _lock: lock,
        };
        Ok((Self::Folder(Mutex::new(folder)), Kept { releases, history }))
    }

    /// Keeps `component`, whose SHA-256 is `digest`. Mends a file of it that is damaged.
    ///
    /// # Errors
    /// [`ControlError::Store`]; the folder is as before.
    pub(super) fn put(&self, digest: &str, component: &[u8]) -> Result<(), ControlError> {
        match self {
            Self::Folder(folder) => {
                let folder = locked(folder);
                let path = artefact_path(&folder.dir, digest);
                if fs::read(&path).is_ok_and(|kept| kept == component) {
                    return Ok(());
                }
                let written = folder.files.replace(&path, component);
                written.map_err(ControlError::store("write", &path))
            }
            Self::Memory { artefacts, .. } => {
                locked(artefacts).insert(digest.to_owned(), component.into());
                Ok(())
            }
        }
    }

    /// The component whose SHA-256 is `digest`.
    ///
    /// # Errors
    /// [`ControlError`] if it is missing, or no longer what it was.
    pub(super) fn get(&self, digest: &str) -> Result<Arc<[u8]>, ControlError> {
        let dir = match self {
            Self::Folder(folder) => locked(folder).dir.clone(),
            Self::Memory { artefacts, beneath } => {
                let found = locked(artefacts).get(digest).cloned();
                match (found, beneath) {
                    (Some(found), _) => return Ok(found),
                    (None, Some(dir)) => dir.clone(),
                    (None, None) => PathBuf::new(),
                }
            }
        };
        let path = artefact_path(&dir, digest);
        let component = fs::read(&path).map_err(ControlError::store("read", &path))?;
        if Digest::of(&component).to_hex() != digest {
            return Err(ControlError::Damaged {
                path,
                reason: "its content is not what its name says".to_owned(),
            });
        }
        Ok(component.into())
    }

    /// From now on every step of a change fails after so many that succeed; none does without a
    /// number.
    #[cfg(test)]
    pub(super) fn fail_after(&self, steps: Option<u32>) {
        if let Self::Folder(folder) = self {
            let folder = locked(folder);
            folder.files.fault.after.set(steps);
            folder.files.fault.is_final.set(true);
        }
    }

    /// Commits `releases`, with what led to them. Artefacts that nothing names any more go.
    ///
    /// # Errors
    /// [`ControlError::Store`]; what was committed before stays so.
    pub(super) fn commit(
        &self,
        releases: &Releases,
        changes: &[Change],
    ) -> Result<(), ControlError> {
        match self {
            Self::Folder(folder) => locked(folder).commit(releases, changes),
            Self::Memory { artefacts, .. } => {
                locked(artefacts).retain(|digest, _| is_named(releases, digest));
                Ok(())
            }
        }
    }
}

impl Folder {
    fn commit(&mut self, releases: &Releases, changes: &[Change]) -> Result<(), ControlError> {
        let history = self.dir.join(HISTORY);
        let mut lines = Vec::new();
        for change in changes {
            serde_json::to_writer(&mut lines, change).map_err(invalid(&history))?;
            lines.push(b'\n');
        }
        let appended = self.files.append(&history, self.history_bytes, &lines);
        appended.map_err(ControlError::store("write", &history))?;

        let path = self.dir.join("state.json");
        let state = StateFile {
            format: FORMAT,
            releases: releases.clone(),
        };
        let text = serde_json::to_vec_pretty(&state).map_err(invalid(&path))?;
        let written = self.files.replace(&path, &text);
        written.map_err(ControlError::store("write", &path))?;

        // Committed. What follows tidies up; the next change does what fails now.
        self.history_bytes += lines.len() as u64;
        self.history_lines += changes.len();
        if self.history_lines > MAX_LINES
            && let Err(error) = self.shorten_history(&history)
        {
            tracing::warn!(%error, "cannot shorten the history of plugins");
        }
        self.sweep(releases);
        Ok(())
    }

    fn shorten_history(&mut self, path: &Path) -> Result<(), ControlError> {
        let text = fs::read(path).map_err(ControlError::store("read", path))?;
        let (newest, count) = lines::newest(&text, MAX_CHANGES);
        let written = self.files.replace(path, newest);
        written.map_err(ControlError::store("write", path))?;
        self.history_bytes = newest.len() as u64;
        self.history_lines = count;
        Ok(())
    }

    /// Removes what no version names: artefacts that are forgotten, and files half written.
    fn sweep(&self, releases: &Releases) {
        let artefacts = self.dir.join("artefacts");
        let entries = match fs::read_dir(&artefacts) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(dir = %artefacts.display(), %error, "cannot tidy up");
                return;
            }
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str());
            let digest = name
                .and_then(|name| name.strip_prefix("sha256-"))
                .and_then(|name| name.split('.').next());
            if digest.is_none_or(|digest| !is_named(releases, digest))
                && let Err(error) = self.files.remove(&path)
            {
                tracing::warn!(file = %path.display(), %error, "cannot tidy up");
            }
        }
    }
}

fn is_named(releases: &Releases, digest: &str) -> bool {
    let mut all = releases.plugins.values();
    all.any(|release| release.version(digest).is_some())
}

fn artefact_path(dir: &Path, digest: &str) -> PathBuf {
    dir.join("artefacts").join(format!("sha256-{digest}.wasm"))
}

fn lock(dir: &Path) -> Result<fs::File, ControlError> {
    let path = dir.join("lock");
    let file = fs::File::create(&path).map_err(ControlError::store("write", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(ControlError::InUse {
            dir: dir.to_owned(),
        }),
        Err(fs::TryLockError::Error(source)) => Err(ControlError::store("lock", &path)(source)),
    }
}

/// The committed state; that of a folder without any is empty.
fn read_state(dir: &Path) -> Result<Releases, ControlError> {
    let path = dir.join("state.json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Releases::default()),
        Err(source) => return Err(ControlError::store("read", &path)(source)),
    };
    let state: StateFile = serde_json::from_slice(&text).map_err(invalid(&path))?;
    if state.format != FORMAT {
        let found = state.format;
        return Err(ControlError::Damaged {
            path,
            reason: format!("it has format {found}, this version reads {FORMAT}"),
        });
    }
    Ok(state.releases)
}

fn invalid(path: &Path) -> impl FnOnce(serde_json::Error) -> ControlError {
    let path = path.to_owned();
    move |error| ControlError::Damaged {
        path,
        reason: error.to_string(),
    }
}

/// A panic while something was written left memory whole: fields change after the files.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
