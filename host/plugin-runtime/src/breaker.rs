//! Circuit breakers: a plugin that keeps failing is left alone for a while, so that requests
//! neither wait for it nor pay for it.
//!
//! Each stage of a binding has one. A failure counts [`FAILURE`] and a success takes one away: it
//! opens after so many failures in a row, and later where more than every third call fails. A plugin
//! that fails on few requests, say for what one client sends, stays for the others. While it is open
//! the binding's failure policy decides at once. After the back-off one request goes through
//! (half-open): if that succeeds the breaker closes, else it waits twice as long. So it does if the
//! next failure comes before as many successes as have to make up for what opened it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::Clock;
use crate::error::FailureKind;
use crate::guest::Failure;
use crate::plugin::Stage;
use crate::state::{Profile, RequestScope};

/// When the breaker of a binding opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open it; 0 turns it off. A success of the same stage takes half of a
    /// failure back, so that it opens after four times as many calls where every second one fails,
    /// and not where less than a third do; a missing free instance is no failure of the plugin.
    /// Default 10.
    pub failures: u32,
    /// How long it stays open the first time. Default 1 s.
    pub backoff: Duration,
    /// The longest that it stays open; it doubles up to this while the request that tries again
    /// fails, or what comes soon after it. Default 60 s.
    pub max_backoff: Duration,
}

impl BreakerConfig {
    /// A breaker that never opens.
    pub const OFF: Self = Self {
        failures: 0,
        backoff: Duration::ZERO,
        max_backoff: Duration::ZERO,
    };
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 10,
            backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
        }
    }
}

/// What a failure counts, where a success takes one away.
const FAILURE: u32 = 2;

/// Whether a breaker lets calls through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakerState {
    /// All of them.
    Closed,
    /// One is trying; the others are not made.
    HalfOpen,
    /// None before this time has passed; then one.
    Open {
        /// Zero where the next request tries.
        retry_in: Duration,
    },
}

impl BreakerState {
    /// The state as the administration API says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open { .. } => "open",
        }
    }
}

/// The breaker of one stage of a binding. Times are those of its clock since whenever that began.
pub(crate) struct Breaker {
    config: BreakerConfig,
    stage: Stage,
    profile: Arc<Profile>,
    clock: Arc<dyn Clock>,
    /// Closed and nothing to make up for, as it is most of the time: no lock is needed to know.
    is_calm: AtomicBool,
    circuit: Mutex<Circuit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Circuit {
    Closed {
        /// What failures count, less the successes since.
        score: u32,
        /// How long it was open before, until that is made up for.
        backoff: Option<Duration>,
    },
    Open {
        until: Duration,
        backoff: Duration,
    },
    HalfOpen {
        backoff: Duration,
    },
}

/// Leave to make one call, or to work on one answer. One that is dropped before the outcome is
/// known, since its request is gone, says nothing about the plugin.
pub(crate) struct Permit {
    breaker: Arc<Breaker>,
    is_probe: bool,
}

impl Breaker {
    pub(crate) fn new(
        config: BreakerConfig,
        stage: Stage,
        profile: Arc<Profile>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            config,
            stage,
            profile,
            clock,
            is_calm: AtomicBool::new(true),
            circuit: Mutex::new(Circuit::Closed {
                score: 0,
                backoff: None,
            }),
        }
    }

    /// Fails where the next call would not be made.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.is_calm.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.state() {
            BreakerState::Open { retry_in } if retry_in > Duration::ZERO => {
                Err(refused(Some(retry_in)))
            }
            BreakerState::HalfOpen => Err(refused(None)),
            BreakerState::Open { .. } | BreakerState::Closed => Ok(()),
        }
    }

    /// Lets a call through, or fails at once.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Permit, Failure> {
        let permit = |is_probe| Permit {
            breaker: Arc::clone(self),
            is_probe,
        };
        if self.is_calm.load(Ordering::Acquire) {
            return Ok(permit(false));
        }
        let mut circuit = self.locked();
        match *circuit {
            Circuit::Closed { .. } => Ok(permit(false)),
            Circuit::HalfOpen { .. } => Err(refused(None)),
            Circuit::Open { until, backoff } => {
                let left = until.saturating_sub(self.now());
                if left > Duration::ZERO {
                    return Err(refused(Some(left)));
                }
                *circuit = Circuit::HalfOpen { backoff };
                drop(circuit);
                info!(
                    plugin = self.profile.id.label(),
                    route = &*self.profile.route,
                    stage = %self.stage,
                    "circuit breaker is half-open: one request tries the plugin"
                );
                Ok(permit(true))
            }
        }
    }

    pub(crate) fn state(&self) -> BreakerState {
        match *self.locked() {
            Circuit::Closed { .. } => BreakerState::Closed,
            Circuit::HalfOpen { .. } => BreakerState::HalfOpen,
            Circuit::Open { until, .. } => BreakerState::Open {
                retry_in: until.saturating_sub(self.now()),
            },
        }
    }

    fn succeeded(&self, is_probe: bool) {
        if self.is_calm.load(Ordering::Acquire) {
            return;
        }
        let mut circuit = self.locked();
        let (score, backoff, is_open) = match *circuit {
            Circuit::Closed { score, backoff } => (score.saturating_sub(1), backoff, false),
            // The next failure opens it again.
            Circuit::HalfOpen { backoff } if is_probe => {
                (self.most().saturating_sub(FAILURE), Some(backoff), true)
            }
            // It was let through before the breaker opened; what has failed since counts for more.
            Circuit::Open { .. } | Circuit::HalfOpen { .. } => return,
        };
        let is_calm = score == 0;
        let backoff = backoff.filter(|_| !is_calm);
        *circuit = Circuit::Closed { score, backoff };
        self.is_calm.store(is_calm, Ordering::Release);
        drop(circuit);
        if is_open {
            info!(
                plugin = self.profile.id.label(),
                route = &*self.profile.route,
                stage = %self.stage,
                "circuit breaker is closed: the plugin works again"
            );
        }
    }

    /// Whether it opened.
    fn failed(&self, is_probe: bool) -> bool {
        let BreakerConfig {
            failures,
            backoff: first,
            max_backoff,
        } = self.config;
        if failures == 0 {
            return false;
        }
        let mut circuit = self.locked();
        let before = match *circuit {
            Circuit::Closed { score, backoff } => {
                let score = score.saturating_add(FAILURE);
                if score < self.most() {
                    *circuit = Circuit::Closed { score, backoff };
                    self.is_calm.store(false, Ordering::Release);
                    return false;
                }
                backoff
            }
            Circuit::HalfOpen { backoff } if is_probe => Some(backoff),
            // It was let through before the breaker opened.
            Circuit::Open { .. } | Circuit::HalfOpen { .. } => return false,
        };
        let backoff = before.map_or(first, |before| {
            before.saturating_mul(2).min(max_backoff).max(first)
        });
        *circuit = Circuit::Open {
            until: self.now() + backoff,
            backoff,
        };
        self.is_calm.store(false, Ordering::Release);
        drop(circuit);
        warn!(
            plugin = self.profile.id.label(),
            route = &*self.profile.route,
            stage = %self.stage,
            retry_in_ms = backoff.as_millis(),
            "circuit breaker is open: the plugin keeps failing and is not called"
        );
        true
    }

    /// The request that tried is gone: the next one tries.
    fn given_up(&self) {
        let mut circuit = self.locked();
        if let Circuit::HalfOpen { backoff } = *circuit {
            let until = self.now();
            *circuit = Circuit::Open { until, backoff };
        }
    }

    /// The score that opens it.
    fn most(&self) -> u32 {
        self.config.failures.saturating_mul(FAILURE)
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.monotonic_ns())
    }

    fn locked(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// How the call, or the answer, ended.
    pub(crate) fn conclude(mut self, scope: &RequestScope, failure: Option<&Failure>) {
        let is_probe = self.is_probe;
        match failure.map(|failure| failure.kind) {
            None => self.breaker.succeeded(is_probe),
            // Others have taken the instances: nothing was learned.
            Some(FailureKind::Exhausted) => return,
            Some(_) => {
                if self.breaker.failed(is_probe) {
                    let id = &self.breaker.profile.id;
                    let observer = &scope.services.observer;
                    observer.breaker_opened(id, self.breaker.stage);
                }
            }
        }
        self.is_probe = false;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.given_up();
        }
    }
}

/// `left` is unknown while another request tries.
fn refused(left: Option<Duration>) -> Failure {
    let message = match left {
        Some(left) => format!(
            "not called, for it keeps failing; tried again in {} ms",
            left.as_millis().max(1)
        ),
        None => "not called, for it keeps failing; another request tries it".to_owned(),
    };
    Failure {
        retry_in: Some(left.unwrap_or_default()),
        ..Failure::new(FailureKind::BreakerOpen, message)
    }
}

#[cfg(test)]
mod tests;
