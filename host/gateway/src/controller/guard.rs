//! Takes versions back that do worse than the one that they are to replace: those on trial, and
//! those that went live a short while ago. It never lets one go further by itself.

mod troubles;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{ControlError, Controller, Origin};
use crate::{config::GuardConfig, telemetry::ledger::Totals, trial::rate};
use troubles::{Condemned, Troubles};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(250);
/// So many failures may happen to anyone.
const MIN_FAILURES: u64 = 3;
/// Where all of so many requests fail, nobody waits for more.
const FEW_REQUESTS: u64 = 5;

/// Looks at what is watched until it is dropped.
pub struct Guard {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    /// Watches the versions of `controller`.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn start(controller: &Arc<Controller>) -> std::io::Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let (stopped, controller) = (Arc::clone(&stop), Arc::clone(controller));
        let thread = thread::Builder::new()
            .name("gapura-guard".to_owned())
            .spawn(move || {
                let mut troubles = Troubles::default();
                while !stopped.load(Ordering::Relaxed) {
                    controller.look_after(&mut troubles);
                    controller.write_down();
                    thread::park_timeout(INTERVAL);
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the thread has been printed; there is nothing left to do about it.
            let _ = thread.join();
        }
    }
}

impl Controller {
    /// Rolls back whatever does too badly. What cannot be rolled back is tried again after growing
    /// pauses, which `troubles` keeps.
    fn look_after(&self, troubles: &mut Troubles) {
        let config = self.config();
        let guard = &config.plugins.guard;
        if !guard.enabled {
            return;
        }
        let condemned = self.condemned(guard);
        troubles.keep(&condemned);
        for (version, reason) in condemned {
            let now = Instant::now();
            if !troubles.may_try(&version, now) {
                continue;
            }
            let (name, digest) = (&version.name, &version.digest);
            let back = self.roll_back(name, Origin::Guard, Some(digest), Some(reason.clone()));
            match back {
                Ok(_) => tracing::warn!(plugin = name, digest, reason, "rolled back"),
                // Somebody was faster.
                Err(ControlError::Move(_)) => {}
                Err(error) => {
                    if troubles.failed(version.clone(), error.to_string(), now) {
                        tracing::error!(plugin = name, digest, reason, %error, "cannot roll back");
                    }
                }
            }
        }
    }

    /// The versions that do too badly, and why. Whose probation is over is forgotten.
    fn condemned(&self, guard: &GuardConfig) -> Vec<(Condemned, String)> {
        let ledger = self.metrics.ledger();
        let mut condemned = Vec::new();
        let mut judged = |name: &str, digest: &str, reason: Option<String>| {
            let version = Condemned {
                name: name.to_owned(),
                digest: digest.to_owned(),
            };
            condemned.extend(reason.map(|reason| (version, reason)));
        };
        for (name, serving) in &mut self.state().serving {
            if let Some(trial) = &serving.trial {
                let [live, candidate] = trial.watched.totals(ledger);
                let digest = &trial.watched.candidate().digest;
                judged(name, digest, judge(&live, &candidate, guard));
            }
            if let Some(watched) = &serving.probation {
                let [_, candidate] = watched.totals(ledger);
                let digest = &watched.candidate().digest;
                judged(
                    name,
                    digest,
                    judge(watched.before_live(), &candidate, guard),
                );
                if watched.elapsed() > guard.probation {
                    serving.probation = None;
                }
            }
        }
        condemned
    }
}

/// Why `candidate` does worse than `live` may allow; `None` where it does not, or where too little
/// is known.
fn judge(live: &Totals, candidate: &Totals, guard: &GuardConfig) -> Option<String> {
    let enough = candidate.requests >= guard.min_requests
        || candidate.requests >= FEW_REQUESTS && candidate.failed == candidate.requests;
    if !enough {
        return None;
    }
    for (what, some, of_live, limit) in [
        (
            "ran out of time in",
            candidate.deadlines,
            live.deadlines,
            guard.max_deadline_rate,
        ),
        (
            "failed in",
            candidate.failed,
            live.failed,
            guard.max_failure_rate,
        ),
    ] {
        let (share, live_share) = (rate(some, candidate.requests), rate(of_live, live.requests));
        // What fails for both of them is not the new one's fault.
        if some >= MIN_FAILURES && share > limit && share > 2.0 * live_share {
            return Some(format!(
                "it {what} {some} of {} requests ({:.1} %), the version before in {of_live} of {} \
                 ({:.1} %); the limit is {:.1} %",
                candidate.requests,
                100.0 * share,
                live.requests,
                100.0 * live_share,
                100.0 * limit
            ));
        }
    }
    if live.requests < guard.min_requests {
        return None;
    }
    let p95 = |totals: &Totals| totals.latency.quantile(0.95).unwrap_or_default();
    let (new, old) = (p95(candidate), p95(live));
    let is_slow = new.as_secs_f64() > old.as_secs_f64() * guard.max_latency_ratio;
    (is_slow && new.saturating_sub(old) > guard.min_latency).then(|| {
        format!(
            "one in twenty requests takes it more than {:.0} us, the version before {:.0} us; the \
             limit is {} times as much",
            new.as_secs_f64() * 1e6,
            old.as_secs_f64() * 1e6,
            guard.max_latency_ratio
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::ledger::Histogram;

    const GUARD: GuardConfig = GuardConfig {
        enabled: true,
        min_requests: 20,
        max_failure_rate: 0.02,
        max_deadline_rate: 0.01,
        max_latency_ratio: 2.0,
        min_latency: Duration::from_micros(200),
        probation: Duration::from_secs(300),
    };

    /// Requests of which some failed and ran out of time, each taking so many microseconds.
    fn totals(requests: u64, failed: u64, deadlines: u64, us: u64) -> Totals {
        let histogram = Histogram::default();
        (0..requests).for_each(|_| histogram.record(us * 1000));
        Totals {
            requests,
            failed,
            deadlines,
            latency: histogram.snapshot(),
        }
    }

    fn verdict(live: [u64; 4], candidate: [u64; 4]) -> Option<String> {
        let of =
            |[requests, failed, deadlines, us]: [u64; 4]| totals(requests, failed, deadlines, us);
        judge(&of(live), &of(candidate), &GUARD)
    }

    #[test]
    fn one_that_does_as_well_stays() {
        for candidate in [
            [0, 0, 0, 0],
            [19, 3, 0, 10],
            [20, 0, 0, 10],
            [1000, 20, 0, 10],
            [1000, 2, 2, 10],
            // Slower, but by nothing that anyone notices.
            [100, 0, 0, 150],
        ] {
            assert_eq!(verdict([1000, 0, 0, 10], candidate), None, "{candidate:?}");
        }
    }

    #[test]
    fn failures_count_with_their_numbers() {
        let reason = verdict([450, 0, 0, 10], [50, 7, 0, 10]).unwrap();
        assert_eq!(
            reason,
            "it failed in 7 of 50 requests (14.0 %), the version before in 0 of 450 (0.0 %); the \
             limit is 2.0 %"
        );
        let reason = verdict([0, 0, 0, 0], [50, 5, 5, 10]).unwrap();
        assert!(
            reason.starts_with("it ran out of time in 5 of 50"),
            "{reason}"
        );
    }

    #[test]
    fn what_fails_for_both_is_nobodys_fault() {
        assert_eq!(verdict([1000, 100, 0, 10], [100, 12, 0, 10]), None);
        assert!(verdict([1000, 100, 0, 10], [100, 25, 0, 10]).is_some());
    }

    #[test]
    fn one_that_fails_always_is_taken_back_at_once() {
        assert_eq!(verdict([0, 0, 0, 0], [4, 4, 0, 10]), None);
        assert!(verdict([0, 0, 0, 0], [5, 5, 0, 10]).is_some());
    }

    #[test]
    fn a_slow_one_is_held_against_the_live_one() {
        let reason = verdict([1000, 0, 0, 100], [100, 0, 0, 900]).unwrap();
        assert!(
            reason.starts_with("one in twenty requests takes it more than"),
            "{reason}"
        );
        // There is nothing to hold it against.
        assert_eq!(verdict([19, 0, 0, 100], [100, 0, 0, 900]), None);
    }
}
