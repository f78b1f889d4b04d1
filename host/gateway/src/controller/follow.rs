//! The configuration, followed while the server runs: its file, read again when it has changed,
//! and the registries that it names.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use super::{ControlError, Controller, Origin, sources};
use crate::config::Digest;

/// Between looks. A file is read again once two looks have found the same in it: who writes
/// slowly, or not by renaming, has finished by then.
const INTERVAL: Duration = Duration::from_secs(1);

/// Follows until it is dropped.
pub(super) struct Follower {
    _end: mpsc::Sender<()>,
}

impl Follower {
    /// Follows the configuration of `controller`, if it has come from a file.
    pub(super) fn start(controller: &Arc<Controller>) -> Result<Option<Self>, ControlError> {
        let config = controller.config();
        let Some(path) = config.path.clone() else {
            return Ok(None);
        };
        let (sender, end) = mpsc::channel();
        let controller = Arc::clone(controller);
        let mut file = config.plugins.watch.then(FileChanges::default);
        let look = move || {
            while end.recv_timeout(INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                if let Some(file) = &mut file {
                    file.look(&controller, &path);
                }
                controller.follow_sources();
            }
        };
        // Never joined: an exchange with a registry must not hold up the end of the process.
        std::thread::Builder::new()
            .name("gapura-follow".to_owned())
            .spawn(look)
            .map_err(|source| ControlError::Store {
                action: "follow",
                path: config.path.clone().unwrap_or_default(),
                source,
            })?;
        Ok(Some(Self { _end: sender }))
    }
}

/// What was seen of the file.
#[derive(Default)]
struct FileChanges {
    last: Option<Digest>,
    /// Reloads of the same content that a registry or the disk has made fail, and when to try again.
    failures: u32,
    next_try: Option<Instant>,
}

impl FileChanges {
    fn look(&mut self, controller: &Controller, path: &Path) {
        let Ok(digest) = digest(path) else {
            // Gone for a moment, or for good: what was read stays in force.
            return;
        };
        let is_settled = self.last.replace(digest) == Some(digest);
        if !is_settled {
            self.failures = 0;
            self.next_try = None;
            return;
        }
        let is_new = controller.config_file() != Some(digest);
        let is_due = self.next_try.is_some_and(|at| at <= Instant::now());
        if !is_new && !is_due {
            return;
        }
        self.next_try = match controller.reload(Origin::File) {
            // The registry, or the disk that the change is to be written to, may be back soon.
            Err(ControlError::Registry { .. } | ControlError::Store { .. }) => {
                self.failures += 1;
                Some(Instant::now() + sources::pause(self.failures))
            }
            // The history and the log say how it went.
            Ok(()) | Err(_) => None,
        };
    }
}

/// The digest of what is in `path`.
pub(super) fn digest(path: &Path) -> io::Result<Digest> {
    fs::read(path).map(|text| Digest::of(&text))
}
