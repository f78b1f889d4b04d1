//! Rollbacks that did not work: each is tried again after growing pauses, and said once for each
//! reason.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// After the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A version that does too badly.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Condemned {
    /// The plugin.
    pub(super) name: String,
    pub(super) digest: String,
}

/// Those that could not be rolled back.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<Condemned, Trouble>);

#[derive(Debug)]
struct Trouble {
    /// What was said of it last.
    error: String,
    pause: Duration,
    next_try: Instant,
}

impl Troubles {
    /// Forgets those that are no longer condemned.
    pub(super) fn keep(&mut self, condemned: &[(Condemned, String)]) {
        self.0
            .retain(|known, _| condemned.iter().any(|(version, _)| version == known));
    }

    pub(super) fn may_try(&self, version: &Condemned, now: Instant) -> bool {
        let trouble = self.0.get(version);
        trouble.is_none_or(|trouble| trouble.next_try <= now)
    }

    /// Notes that `version` could not be rolled back; whether that is news.
    pub(super) fn failed(&mut self, version: Condemned, error: String, now: Instant) -> bool {
        let known = self.0.get(&version);
        let is_news = known.is_none_or(|known| known.error != error);
        let pause = known.map_or(FIRST_PAUSE, |known| (known.pause * 2).min(LONGEST_PAUSE));
        let trouble = Trouble {
            error,
            pause,
            next_try: now + pause,
        };
        self.0.insert(version, trouble);
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(name: &str) -> Condemned {
        Condemned {
            name: name.to_owned(),
            digest: "ab".repeat(32),
        }
    }

    #[test]
    fn what_cannot_be_done_is_said_once_for_each_reason_and_tried_ever_more_seldom() {
        let start = Instant::now();
        let mut troubles = Troubles::default();
        let (mut tries, mut said) = (0, 0);
        // Looks four times a second, for ten minutes.
        for look in 0..4 * 600 {
            let now = start + Duration::from_millis(250) * look;
            troubles.keep(&[(version("guard"), "it fails".to_owned())]);
            if !troubles.may_try(&version("guard"), now) {
                continue;
            }
            tries += 1;
            let error = if look < 1000 { "pinned" } else { "not signed" };
            said += u32::from(troubles.failed(version("guard"), error.to_owned(), now));
        }
        assert_eq!(said, 2);
        assert!((20..40).contains(&tries), "{tries}");
    }

    #[test]
    fn who_is_no_longer_condemned_begins_anew() {
        let now = Instant::now();
        let mut troubles = Troubles::default();
        assert!(troubles.failed(version("a"), "pinned".to_owned(), now));
        assert!(troubles.may_try(&version("b"), now));
        assert!(!troubles.may_try(&version("a"), now));
        troubles.keep(&[(version("b"), String::new())]);
        assert!(troubles.may_try(&version("a"), now));
    }
}
