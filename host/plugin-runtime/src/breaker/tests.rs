use std::sync::atomic::AtomicU64;

use super::*;
use crate::http::{HttpError, NoHttp};
use crate::limits::{Grants, Limits};
use crate::model::{ModelError, NoModel};
use crate::plugin::PluginId;
use crate::random::SystemRandom;
use crate::services::{CallObserver, GuestCall, PluginValues, Services, TokenCounter};

/// A clock that a test sets.
#[derive(Default)]
struct Hand(AtomicU64);

impl Hand {
    fn pass(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for Hand {
    fn now_ms(&self) -> u64 {
        panic!("a breaker asks for no date")
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed) * 1_000_000
    }
}

/// Counts openings.
#[derive(Default)]
struct Openings(AtomicU64);

impl CallObserver for Openings {
    fn observe(&self, _call: &GuestCall<'_>) {}

    fn breaker_opened(&self, _plugin: &PluginId, stage: Stage) {
        assert_eq!(stage, Stage::Validate);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Nothing;

impl TokenCounter for Nothing {
    fn count(&self, _text: &str) -> u32 {
        0
    }
}

impl PluginValues for Nothing {
    fn add(&self, _plugin: &PluginId, _route: &str, _name: &str, _by: u64) {}

    fn observe(&self, _plugin: &PluginId, _route: &str, _name: &str, _value: f64) {}
}

struct Bench {
    clock: Arc<Hand>,
    openings: Arc<Openings>,
    scope: Arc<RequestScope>,
    breaker: Arc<Breaker>,
}

impl Bench {
    /// A breaker that opens after `failures`, for 100 ms first and 350 ms at most.
    fn new(failures: u32) -> Self {
        let (clock, openings) = (Arc::<Hand>::default(), Arc::<Openings>::default());
        let config = BreakerConfig {
            failures,
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_millis(350),
        };
        let profile = Profile {
            id: PluginId {
                name: "guard".to_owned(),
                version: "1.0.0".to_owned(),
                digest: "ab".repeat(32),
            },
            route: "route".into(),
            index: 0,
            grants: Grants::default(),
            settings: "{}".into(),
            limits: Limits::default(),
        };
        let scope = RequestScope::new(Services {
            tokens: Arc::new(Nothing),
            observer: Arc::clone(&openings) as _,
            values: Arc::new(Nothing),
            kv: Arc::default(),
            clock: Arc::clone(&clock) as _,
            random: Arc::new(SystemRandom),
            model: Arc::new(NoModel(ModelError::Depth)),
            http: Arc::new(NoHttp(HttpError::Connect("there is none".to_owned()))),
        });
        let injected = Arc::clone(&clock) as _;
        Self {
            breaker: Arc::new(Breaker::new(
                config,
                Stage::Validate,
                Arc::new(profile),
                injected,
            )),
            clock,
            openings,
            scope,
        }
    }

    /// Whether a call went through.
    fn call(&self, outcome: Result<(), FailureKind>) -> bool {
        let admitted = self.breaker.admit();
        let Ok(permit) = admitted else {
            assert!(self.breaker.check().is_err());
            return false;
        };
        let failure = outcome.err().map(|kind| Failure::new(kind, "test"));
        permit.conclude(&self.scope, failure.as_ref());
        true
    }

    fn fails(&self) -> bool {
        self.call(Err(FailureKind::Trap))
    }

    fn works(&self) -> bool {
        self.call(Ok(()))
    }

    /// Milliseconds until the next try, of a breaker that is open.
    fn retry_in_ms(&self) -> u128 {
        match self.breaker.state() {
            BreakerState::Open { retry_in } => retry_in.as_millis(),
            other => panic!("{other:?}"),
        }
    }

    fn openings(&self) -> u64 {
        self.openings.0.load(Ordering::Relaxed)
    }
}

#[test]
fn failures_in_a_row_open_it_and_a_few_among_many_do_not() {
    let bench = Bench::new(3);
    for _ in 0..100 {
        assert!(bench.fails() && bench.works() && bench.works());
        assert_eq!(bench.breaker.state(), BreakerState::Closed);
    }
    assert!(bench.fails() && bench.fails() && bench.fails());
    assert_eq!(bench.retry_in_ms(), 100);
    assert_eq!(bench.openings(), 1);
    assert!(!bench.works(), "none is made while it is open");
    let refused = bench.breaker.admit().err().expect("it is open");
    assert_eq!(refused.kind, FailureKind::BreakerOpen);
    assert_eq!(refused.retry_in, Some(Duration::from_millis(100)));
}

#[test]
fn a_plugin_that_fails_every_second_time_is_left_alone() {
    let bench = Bench::new(10);
    let calls = (0..100).take_while(|count| match count % 2 {
        0 => bench.fails(),
        _ => bench.works(),
    });
    assert_eq!(calls.count(), 37, "not after as many in a row");
    assert_eq!((bench.openings(), bench.retry_in_ms()), (1, 100));
    // One that is lucky when it is tried does not begin anew.
    for backoff in [200, 350, 350] {
        bench
            .clock
            .pass(u64::try_from(bench.retry_in_ms()).unwrap());
        assert!(bench.works() && bench.fails());
        assert_eq!(bench.retry_in_ms(), backoff);
    }
    // Until it has made up for it: nine failures are eighteen successes.
    bench.clock.pass(350);
    assert!((0..19).all(|_| bench.works()));
    assert!((0..9).all(|_| bench.fails()));
    assert_eq!(bench.breaker.state(), BreakerState::Closed);
    assert!(bench.fails());
    assert_eq!(bench.retry_in_ms(), 100);
}

#[test]
fn no_free_instance_is_no_failure_of_the_plugin() {
    let bench = Bench::new(1);
    for _ in 0..3 {
        assert!(bench.call(Err(FailureKind::Exhausted)));
    }
    assert_eq!(bench.breaker.state(), BreakerState::Closed);
    // Nor an outcome for the one that tries again: the next one does.
    assert!(bench.fails());
    bench.clock.pass(100);
    assert!(bench.call(Err(FailureKind::Exhausted)));
    assert_eq!(bench.retry_in_ms(), 0);
    assert!(bench.works());
    assert_eq!(bench.breaker.state(), BreakerState::Closed);
}

#[test]
fn one_request_tries_after_the_back_off_which_grows_to_its_bound() {
    let bench = Bench::new(1);
    assert!(bench.fails());
    for backoff in [100, 200, 350, 350] {
        assert_eq!(bench.retry_in_ms(), backoff);
        bench.clock.pass(u64::try_from(backoff).unwrap() - 1);
        assert!(!bench.works(), "a millisecond too early");
        bench.clock.pass(1);
        let Ok(probe) = bench.breaker.admit() else {
            panic!("it is time");
        };
        assert_eq!(bench.breaker.state(), BreakerState::HalfOpen);
        assert!(!bench.works(), "one at a time");
        let failure = Failure::new(FailureKind::Deadline, "test");
        probe.conclude(&bench.scope, Some(&failure));
    }
    assert_eq!(bench.openings(), 5);
    bench.clock.pass(350);
    assert!(bench.works());
    assert_eq!(bench.breaker.state(), BreakerState::Closed);
    // All begins anew.
    assert!(bench.fails());
    assert_eq!(bench.retry_in_ms(), 100);
}

#[test]
fn a_try_that_is_given_up_passes_to_the_next_request() {
    let bench = Bench::new(1);
    assert!(bench.fails());
    bench.clock.pass(100);
    let Ok(probe) = bench.breaker.admit() else {
        panic!("it is time");
    };
    drop(probe);
    assert_eq!(bench.retry_in_ms(), 0);
    assert!(bench.works());
    assert_eq!(bench.breaker.state(), BreakerState::Closed);
}

#[test]
fn what_began_before_it_opened_changes_nothing() {
    let bench = Bench::new(2);
    let (late_good, late_bad) = (bench.breaker.admit().ok(), bench.breaker.admit().ok());
    assert!(bench.fails() && bench.fails());
    let failure = Failure::new(FailureKind::Trap, "test");
    late_bad
        .expect("closed")
        .conclude(&bench.scope, Some(&failure));
    late_good.expect("closed").conclude(&bench.scope, None);
    assert_eq!(bench.retry_in_ms(), 100);
    assert_eq!(bench.openings(), 1);
}

#[test]
fn it_can_be_off() {
    let bench = Bench::new(0);
    for _ in 0..100 {
        assert!(bench.fails());
    }
    assert_eq!(bench.openings(), 0);
}
