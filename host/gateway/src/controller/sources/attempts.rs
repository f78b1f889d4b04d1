//! Which sources are being pulled, which have failed, and when each may be tried again.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::{ControlError, Controller, release::Role},
    Source, Wanted,
};
use crate::config::Digest;

/// After the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The versions that were tried.
#[derive(Debug, Default)]
pub(in super::super) struct Attempts {
    /// By plugin and manifest: a version that is slow to come holds up no other.
    by_version: BTreeMap<(String, Digest), Attempt>,
    /// What a changed file needs before it can take effect.
    awaited: BTreeMap<String, Arc<Source>>,
    /// What the metrics show.
    shown: Vec<[String; 3]>,
}

#[derive(Debug)]
struct Attempt {
    /// What it was tried for.
    role: Role,
    is_running: bool,
    failures: u32,
    reason: Option<String>,
    next_try: Instant,
}

impl Attempts {
    /// What a changed file needs before it can take effect.
    pub(super) fn awaited(&self) -> &BTreeMap<String, Arc<Source>> {
        &self.awaited
    }

    /// From here on it is `sources` that a changed file needs.
    pub(super) fn wait_for(&mut self, sources: BTreeMap<String, Arc<Source>>) {
        self.awaited = sources;
    }

    /// Forgets what is not wanted any more. What still runs is forgotten when it has ended.
    pub(super) fn keep(&mut self, is_wanted: impl Fn(&str, Digest) -> bool) {
        self.by_version
            .retain(|(name, manifest), attempt| attempt.is_running || is_wanted(name, *manifest));
    }

    /// Whether `wanted` may be tried now; if so, it is.
    pub(super) fn begin(&mut self, name: &str, wanted: &Wanted) -> bool {
        let now = Instant::now();
        let key = (name.to_owned(), wanted.version.manifest);
        let new = || Attempt {
            role: wanted.role,
            is_running: false,
            failures: 0,
            reason: None,
            next_try: now,
        };
        let attempt = self.by_version.entry(key).or_insert_with(new);
        if attempt.is_running {
            return false;
        }
        if attempt.role != wanted.role {
            *attempt = new();
        }
        attempt.is_running = attempt.next_try <= now;
        attempt.is_running
    }

    /// Forgets that `wanted` has failed: somebody asks for it.
    pub(super) fn forgive(&mut self, name: &str, wanted: &Wanted) {
        let key = (name.to_owned(), wanted.version.manifest);
        if let Some(attempt) = self.by_version.get_mut(&key) {
            attempt.failures = 0;
            attempt.reason = None;
            attempt.next_try = Instant::now();
        }
    }

    /// Whether `states` are other than what was shown last; if so, they are from now on.
    pub(super) fn show(&mut self, states: &[[String; 3]]) -> bool {
        let is_news = self.shown != states;
        if is_news {
            self.shown = states.to_vec();
        }
        is_news
    }

    /// Notes how the attempt that runs has ended; after a failure, how long the next one waits.
    pub(super) fn end(
        &mut self,
        name: &str,
        wanted: &Wanted,
        failure: Option<String>,
    ) -> Option<Duration> {
        let key = (name.to_owned(), wanted.version.manifest);
        let attempt = self.by_version.get_mut(&key)?;
        attempt.is_running = false;
        attempt.failures = match &failure {
            Some(_) => attempt.failures.saturating_add(1),
            None => 0,
        };
        attempt.reason = failure;
        attempt.reason.as_ref()?;
        let pause = pause(attempt.failures);
        attempt.next_try = Instant::now() + pause;
        Some(pause)
    }

    /// Why `wanted` has failed, and until when it waits; nothing while it is being tried for the
    /// first time.
    pub(super) fn failure(
        &self,
        name: &str,
        wanted: &Wanted,
    ) -> (Option<String>, Option<Duration>) {
        let key = (name.to_owned(), wanted.version.manifest);
        let attempt = self.by_version.get(&key);
        match attempt.filter(|attempt| attempt.role == wanted.role) {
            None => (None, None),
            Some(attempt) => (
                attempt.reason.clone(),
                (!attempt.is_running)
                    .then(|| attempt.next_try.saturating_duration_since(Instant::now())),
            ),
        }
    }
}

/// Before the next attempt, after so many failures.
pub(in super::super) fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
}

/// An attempt under way. Dropped without an end, it has failed.
pub(super) struct Running<'a> {
    controller: &'a Controller,
    name: &'a str,
    wanted: &'a Wanted,
    result: Result<(), String>,
}

impl<'a> Running<'a> {
    pub(super) fn new(controller: &'a Controller, name: &'a str, wanted: &'a Wanted) -> Self {
        Self {
            controller,
            name,
            wanted,
            result: Err("it could not be tried; the log says why".to_owned()),
        }
    }

    pub(super) fn ended(mut self, result: Result<(), ControlError>) {
        self.result = result.map_err(|error| error.to_string());
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let failure = std::mem::replace(&mut self.result, Ok(())).err();
        let mut attempts = self.controller.attempts();
        let pause = attempts.end(self.name, self.wanted, failure.clone());
        drop(attempts);
        self.controller.show_sources();
        if let (Some(reason), Some(pause)) = (failure, pause) {
            tracing::warn!(
                plugin = self.name,
                reference = %self.wanted.version.reference,
                reason,
                next_try_s = pause.as_secs(),
                "a plugin from a registry does not serve"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Pinned;

    fn wanted(digit: char) -> Wanted {
        let digest = digit.to_string().repeat(64);
        let text = format!("oci://registry.example.com/persona@sha256:{digest}");
        Wanted {
            version: Pinned {
                reference: text.parse().expect("a reference"),
                manifest: Digest::from_hex(&digest).expect("a digest"),
            },
            role: Role::Live,
        }
    }

    #[test]
    fn pauses_grow_and_have_an_end() {
        let seconds: Vec<u64> = [1, 2, 3, 8, 9, 1000]
            .iter()
            .map(|failures| pause(*failures).as_secs())
            .collect();
        assert_eq!(seconds, [2, 4, 8, 256, 300, 300]);
    }

    #[test]
    fn a_version_is_tried_once_at_a_time_and_a_failure_waits() {
        let mut attempts = Attempts::default();
        let (a, b) = (wanted('a'), wanted('b'));
        assert!(attempts.begin("persona", &a));
        assert!(!attempts.begin("persona", &a));
        // The one before may take its time.
        assert!(attempts.begin("persona", &b));
        attempts.end("persona", &b, None);
        assert_eq!(attempts.failure("persona", &a), (None, None));
        attempts.end("persona", &a, Some("down".to_owned()));
        assert!(!attempts.begin("persona", &a));
        let (reason, pause) = attempts.failure("persona", &a);
        assert_eq!(reason.as_deref(), Some("down"));
        assert!(pause.is_some_and(|pause| pause <= FIRST_PAUSE));
        assert_eq!(attempts.failure("persona", &b).0, None);
        // What it is wanted for now has not failed; nor has what somebody asks for.
        let canary = Wanted {
            role: Role::Canary(10),
            ..a.clone()
        };
        assert_eq!(attempts.failure("persona", &canary), (None, None));
        attempts.forgive("persona", &a);
        assert_eq!(attempts.failure("persona", &a).0, None);
        assert!(attempts.begin("persona", &a));
        attempts.end("persona", &a, Some("down".to_owned()));
        assert!(attempts.begin("persona", &canary));
    }

    #[test]
    fn what_is_wanted_no_more_is_forgotten_once_it_has_ended() {
        let mut attempts = Attempts::default();
        let a = wanted('a');
        assert!(attempts.begin("persona", &a));
        attempts.keep(|_, _| false);
        assert!(!attempts.begin("persona", &a));
        attempts.end("persona", &a, Some("down".to_owned()));
        attempts.keep(|_, _| false);
        assert_eq!(attempts.failure("persona", &a), (None, None));
    }
}
