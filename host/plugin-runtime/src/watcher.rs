//! Watches a directory of plugins: `name.wasm` is the plugin `name`, `name.wasm.sig` its signature.
//! Tells of each finished file once; what is made of it is up to the caller.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecursiveMode, Watcher};
use tracing::warn;

/// How long the directory must be quiet before it is looked at. Where the system tells when a
/// file was closed (Linux), that decides and the quiet only gathers events; elsewhere a writer
/// that pauses for longer is taken to have finished.
const QUIET: Duration = Duration::from_millis(if KNOWS_CLOSE { 50 } else { 500 });
const KNOWS_CLOSE: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// A directory cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The path is not a directory that can be read.
    #[error("plugin directory {} cannot be read: {source}", path.display())]
    Directory {
        /// The directory as configured.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// The operating system refused the watch, such as at its limit of watches.
    #[error("plugin directory {} cannot be watched: {source}", path.display())]
    Watch {
        /// The directory as configured.
        path: PathBuf,
        /// What the system said.
        source: notify::Error,
    },
    /// The operating system refused a thread.
    #[error("cannot start the thread that watches plugins: {0}")]
    Thread(#[source] std::io::Error),
}

/// Watches until it is dropped.
pub struct PluginWatcher {
    watcher: Option<notify::RecommendedWatcher>,
    thread: Option<JoinHandle<()>>,
}

impl PluginWatcher {
    /// Watches `directory` (not its subdirectories). `changed` hears the name and path of every
    /// `*.wasm` file that is written or renamed into it from now on, itself or the signature beside
    /// it, once per finished write, on a thread of the watcher. Hidden files, empty files and files still being written are passed
    /// over; a removed file changes nothing.
    ///
    /// # Errors
    /// [`WatchError`], naming the directory.
    pub fn new(
        directory: &Path,
        changed: impl FnMut(&str, &Path) + Send + 'static,
    ) -> Result<Self, WatchError> {
        let (sender, events) = mpsc::channel();
        let refused = |source| WatchError::Watch {
            path: directory.to_owned(),
            source,
        };
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            match event {
                // The thread is gone only while the watcher is being dropped.
                Ok(event) => drop(sender.send(event)),
                Err(error) => warn!(%error, "watching plugins"),
            }
        })
        .map_err(refused)?;
        // First watch, then look: what comes in between is seen twice and told once at most.
        fs::read_dir(directory).map_err(|source| WatchError::Directory {
            path: directory.to_owned(),
            source,
        })?;
        watcher
            .watch(directory, RecursiveMode::NonRecursive)
            .map_err(refused)?;
        let mut seen = Seen {
            directory: directory.to_owned(),
            ..Seen::default()
        };
        seen.scan();
        let thread = thread::Builder::new()
            .name("plugin-watch".to_owned())
            .spawn(move || watch(&events, seen, changed))
            .map_err(WatchError::Thread)?;
        Ok(Self {
            watcher: Some(watcher),
            thread: Some(thread),
        })
    }
}

impl Drop for PluginWatcher {
    fn drop(&mut self) {
        // Ends the channel, and with it the thread.
        self.watcher = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the caller's function has been printed already.
            let _ = thread.join();
        }
    }
}

fn watch(events: &Receiver<Event>, mut seen: Seen, mut changed: impl FnMut(&str, &Path)) {
    while let Ok(event) = events.recv() {
        seen.note(&event);
        loop {
            match events.recv_timeout(QUIET) {
                Ok(event) => seen.note(&event),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        for (name, path) in seen.scan() {
            changed(&name, &path);
        }
    }
}

/// What is known of the directory.
#[derive(Default)]
struct Seen {
    directory: PathBuf,
    files: HashMap<PathBuf, Prints>,
    /// Files that are being written, where the system tells when they are closed.
    writing: HashSet<PathBuf>,
}

/// A plugin's file, and its signature where there is one.
#[derive(Clone)]
struct Prints {
    component: Print,
    signature: Option<Print>,
}

impl Prints {
    /// A signature that was removed changes nothing.
    fn differ(&self, known: &Self) -> bool {
        let is_signed_anew = self.signature.is_some() && self.signature != known.signature;
        self.component != known.component || is_signed_anew
    }
}

/// What tells one content of a path from the next.
#[derive(Clone, PartialEq, Eq)]
struct Print {
    bytes: u64,
    modified: Option<SystemTime>,
    #[cfg(unix)]
    inode: u64,
}

impl Seen {
    fn note(&mut self, event: &Event) {
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) if KNOWS_CLOSE => {
                self.writing.extend(event.paths.iter().cloned());
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_) => {
                for path in &event.paths {
                    self.writing.remove(path);
                }
            }
            _ => {}
        }
    }

    /// Finished files that are new or have changed since the last scan, by name.
    fn scan(&mut self) -> Vec<(String, PathBuf)> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) => {
                warn!(directory = %self.directory.display(), %error, "watching plugins");
                return Vec::new();
            }
        };
        let mut changed = Vec::new();
        let mut files = HashMap::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let Some(name) = plugin_name(&path) else {
                continue;
            };
            let signature = path.with_added_extension("sig");
            let Some(component) = print(&path) else {
                continue;
            };
            let prints = Prints {
                component,
                signature: print(&signature),
            };
            let known = self.files.get(&path);
            if self.writing.contains(&path) || self.writing.contains(&signature) {
                files.extend(known.map(|known| (path.clone(), known.clone())));
                continue;
            }
            if known.is_none_or(|known| prints.differ(known)) {
                changed.push((name.to_owned(), path.clone()));
            }
            files.insert(path, prints);
        }
        self.files = files;
        changed.sort();
        changed
    }
}

fn plugin_name(path: &Path) -> Option<&str> {
    let name = path.file_stem()?.to_str()?;
    (path.extension() == Some(OsStr::new("wasm")) && !name.starts_with('.')).then_some(name)
}

/// `None` where there is no file, or nothing in it. Follows links.
fn print(path: &Path) -> Option<Print> {
    let metadata = fs::metadata(path)
        .ok()
        .filter(|metadata| metadata.is_file())?;
    if metadata.len() == 0 {
        return None;
    }
    Some(Print {
        bytes: metadata.len(),
        modified: metadata.modified().ok(),
        #[cfg(unix)]
        inode: std::os::unix::fs::MetadataExt::ino(&metadata),
    })
}
