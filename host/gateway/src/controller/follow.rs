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
    /// Reloads of the same content that the disk has made fail, and when to try again.
    failures: u32,
    next_try: Option<Instant>,
    /// What it was last noted to wait for.
    awaited: Option<String>,
}

impl FileChanges {
    fn look(&mut self, controller: &Arc<Controller>, path: &Path) {
        let Ok(digest) = digest(path) else {
            // Gone for a moment, or for good: what was read stays in force.
            return;
        };
        let is_settled = self.last.replace(digest) == Some(digest);
        if !is_settled {
            *self = Self {
                last: self.last,
                ..Self::default()
            };
            return;
        }
        let is_new = controller.config_file() != Some(digest);
        let is_due = self.next_try.is_none_or(|at| at <= Instant::now());
        if !is_due || !is_new && self.next_try.is_none() {
            return;
        }
        self.next_try = None;
        let reason = match controller.reload(Origin::File) {
            // It is read again at the next look, and said once.
            Err(error) if error.is_awaited() => {
                let reason = Some(error.to_string());
                if self.awaited != reason {
                    let _changing = controller.begin();
                    controller.note_reload(Origin::File, Err(&error));
                }
                reason
            }
            // The disk that the change is to be written to may have room soon.
            Err(ControlError::Store { .. }) => {
                self.failures += 1;
                self.next_try = Some(Instant::now() + sources::pause(self.failures));
                None
            }
            // The history and the log say how it went.
            Ok(()) | Err(_) => None,
        };
        self.awaited = reason;
    }
}

/// The digest of what is in `path`.
pub(super) fn digest(path: &Path) -> io::Result<Digest> {
    fs::read(path).map(|text| Digest::of(&text))
}
