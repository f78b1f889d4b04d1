//! Which sources are being pulled, which have failed, and when each may be tried again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::super::{ControlError, Controller};
use crate::config::{Digest, SourceConfig};

/// After the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The sources that were tried.
#[derive(Debug, Default)]
pub(in super::super) struct Attempts {
    by_plugin: BTreeMap<String, Attempt>,
    /// What the metrics show: plugin, state.
    shown: Vec<(String, &'static str)>,
}

#[derive(Debug)]
struct Attempt {
    /// What was tried.
    manifest: Digest,
    is_running: bool,
    failures: u32,
    reason: Option<String>,
    next_try: Instant,
}

impl Attempts {
    /// Forgets what `sources` no longer have.
    pub(super) fn keep(&mut self, sources: &BTreeMap<String, SourceConfig>) {
        self.by_plugin
            .retain(|name, attempt| attempt.is_running || sources.contains_key(name));
    }

    /// Whether `source` may be tried now; if so, it is.
    pub(super) fn begin(&mut self, name: &str, source: &SourceConfig) -> bool {
        let now = Instant::now();
        let attempt = self.by_plugin.entry(name.to_owned()).or_insert(Attempt {
            manifest: source.manifest,
            is_running: false,
            failures: 0,
            reason: None,
            next_try: now,
        });
        if attempt.is_running {
            return false;
        }
        if attempt.manifest != source.manifest {
            attempt.manifest = source.manifest;
            attempt.failures = 0;
            attempt.reason = None;
            attempt.next_try = now;
        }
        attempt.is_running = attempt.next_try <= now;
        attempt.is_running
    }

    /// Whether `states` are other than what was shown last; if so, they are from now on.
    pub(super) fn show(&mut self, states: &[(String, &'static str)]) -> bool {
        let is_news = self.shown != states;
        if is_news {
            self.shown = states.to_vec();
        }
        is_news
    }

    /// Notes how the attempt that runs has ended; after a failure, how long the next one waits.
    pub(super) fn end(&mut self, name: &str, failure: Option<String>) -> Option<Duration> {
        let attempt = self.by_plugin.get_mut(name)?;
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

    /// Why `source` has failed, and until when it waits; nothing while it is being tried for the
    /// first time.
    pub(super) fn failure(
        &self,
        name: &str,
        source: &SourceConfig,
    ) -> (Option<String>, Option<Duration>) {
        let attempt = self.by_plugin.get(name);
        match attempt.filter(|attempt| attempt.manifest == source.manifest) {
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
    source: &'a SourceConfig,
    result: Result<(), String>,
}

impl<'a> Running<'a> {
    pub(super) fn new(controller: &'a Controller, name: &'a str, source: &'a SourceConfig) -> Self {
        Self {
            controller,
            name,
            source,
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
        let pause = self.controller.attempts().end(self.name, failure.clone());
        self.controller.show_sources();
        if let (Some(reason), Some(pause)) = (failure, pause) {
            tracing::warn!(
                plugin = self.name,
                reference = %self.source.reference,
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

    fn source(digit: char) -> SourceConfig {
        let digest = digit.to_string().repeat(64);
        let text = format!("oci://registry.example.com/persona@sha256:{digest}");
        SourceConfig {
            reference: text.parse().expect("a reference"),
            manifest: Digest::from_hex(&digest).expect("a digest"),
            canary: None,
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
    fn one_attempt_runs_at_a_time_and_a_failure_waits() {
        let mut attempts = Attempts::default();
        assert!(attempts.begin("persona", &source('a')));
        assert!(!attempts.begin("persona", &source('a')));
        assert!(!attempts.begin("persona", &source('b')));
        assert_eq!(attempts.failure("persona", &source('a')), (None, None));
        attempts.end("persona", Some("down".to_owned()));
        assert!(!attempts.begin("persona", &source('a')));
        let (reason, pause) = attempts.failure("persona", &source('a'));
        assert_eq!(reason.as_deref(), Some("down"));
        assert!(pause.is_some_and(|pause| pause <= FIRST_PAUSE));
        // What was asked for since then has not failed.
        assert_eq!(attempts.failure("persona", &source('b')), (None, None));
        assert!(attempts.begin("persona", &source('b')));
        attempts.end("persona", None);
        assert_eq!(attempts.failure("persona", &source('b')).0, None);
    }
}
