//! Time: a guest that loops, sleeps or gets no turn is stopped, and nothing else is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gapura_plugin_runtime::{Binding, ChainFailure, FailureKind, Limits, RuntimeConfig};
use gapura_test_guests as guests;
use tokio::task::JoinSet;

use crate::support::{bind, chain, chat, delta, failure, load, responder, services, small_runtime};

#[tokio::test]
async fn an_endless_loop_meets_its_deadline() {
    let limits = Limits {
        call_ms: 30,
        ..Limits::default()
    };
    let endless = bind(load("endless", guests::ENDLESS));
    let started = Instant::now();
    let failure = failure(Binding { limits, ..endless }).await;
    assert_eq!(failure.kind, FailureKind::Deadline);
    assert!(said_late(&failure, 30), "{failure}");
    assert!(
        started.elapsed() >= Duration::from_millis(29),
        "{:?}",
        started.elapsed()
    );
}

/// Whether `failure` says that `limit_ms` of processor time were spent or, where a busy machine
/// gave the guest less than a fifth of a core, that the wall's limit was reached first.
fn said_late(failure: &ChainFailure, limit_ms: u64) -> bool {
    let wall_ms = 4 * limit_ms + 500;
    failure.message == format!("more than {limit_ms} ms of processor time")
        || failure.message == format!("took longer than {wall_ms} ms, waiting included")
}

/// With every core wanted by several others, a guest that loops is still stopped soon.
#[tokio::test]
async fn an_endless_loop_is_stopped_on_a_busy_machine() {
    let endless = bind(load("endless", guests::ENDLESS));
    let busy = Arc::new(AtomicBool::new(true));
    let cores = thread::available_parallelism().map_or(2, |cores| cores.get());
    let others: Vec<_> = (0..4 * cores)
        .map(|_| {
            let busy = Arc::clone(&busy);
            thread::spawn(move || {
                while busy.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let started = Instant::now();
    let failure = failure(endless).await;
    let elapsed = started.elapsed();
    busy.store(false, Ordering::Relaxed);
    for other in others {
        other.join().expect("no panic");
    }
    assert_eq!(failure.kind, FailureKind::Deadline);
    assert!(said_late(&failure, 50), "{failure}");
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
}

/// Time in which a guest waits for its turn is not the guest's, but a request must not hang either:
/// the clock on the wall ends it.
#[tokio::test]
async fn a_call_that_gets_no_turn_is_ended_by_the_wall_clock() {
    // Of one route, which has so many turns: each loops for its 50 ms, and the last of them would
    // come after more than the wall's 700.
    let turns = thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let chain = chain(vec![bind(load("endless", guests::ENDLESS))]);
    let started = Instant::now();
    let mut calls = JoinSet::new();
    for _ in 0..20 * turns {
        let chain = Arc::clone(&chain);
        calls.spawn(async move {
            let run = &mut chain.start(services());
            run.validate(chat("z")).await.expect_err("a failure")
        });
    }
    let failures = calls.join_all().await;
    assert!(failures.iter().all(|failure| said_late(failure, 50)));
    let late =
        |failure: &&ChainFailure| failure.message == "took longer than 700 ms, waiting included";
    assert!(failures.iter().any(|failure| late(&failure)));
    assert!(
        started.elapsed() >= Duration::from_millis(700),
        "{:?}",
        started.elapsed()
    );
}

/// A guest that works for long lets other tasks of the same thread run meanwhile.
#[tokio::test]
async fn a_looping_guest_does_not_block_its_thread() {
    let limits = Limits {
        call_ms: 200,
        ..Limits::default()
    };
    let endless = Binding {
        limits,
        ..bind(load("endless", guests::ENDLESS))
    };
    let others = async {
        let mut turns = 0;
        loop {
            tokio::task::yield_now().await;
            turns += 1;
            if turns == 20 {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        failure = failure(endless) => panic!("the guest ended first: {failure}"),
        () = others => {}
    }
}

/// Dropping the future of a call, as a disconnecting client does, ends the guest.
#[tokio::test]
async fn a_cancelled_call_gives_its_instance_back() {
    let runtime = small_runtime(RuntimeConfig {
        max_instances: 1,
        ..RuntimeConfig::default()
    });
    let load = |name, wasm| bind(runtime.load(name, wasm).expect("loads"));
    let limits = Limits {
        call_ms: 10_000,
        ..Limits::default()
    };
    let endless = Binding {
        limits,
        ..load("endless", guests::ENDLESS)
    };
    let bindings = vec![endless, load("render", guests::RENDER)];
    let chain = gapura_plugin_runtime::Chain::new("route", bindings).expect("a chain");
    let mut run = Arc::new(chain).start(services());
    let call = run.validate(chat("a"));
    assert!(
        tokio::time::timeout(Duration::from_millis(20), call)
            .await
            .is_err()
    );
    drop(run);
    // It has gone on elsewhere for being slow, and ends there at the next tick.
    while runtime.free_instances() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A guest that loops goes on in a place of its own after its first moments: tests of one thread
/// would stand still otherwise, and do not even see it.
#[tokio::test]
async fn a_slow_call_leaves_the_thread_of_its_request() {
    let limits = Limits {
        call_ms: 400,
        ..Limits::default()
    };
    let endless = Binding {
        limits,
        ..bind(load("endless", guests::ENDLESS))
    };
    let clock = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let before = clock();
    let failure = failure(endless).await;
    let after = clock();
    assert_eq!(failure.kind, FailureKind::Deadline);
    let ms = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1_000_000;
    assert!(ms < 200, "{ms} of 400 ms on this thread");
}

#[tokio::test]
async fn a_delta_has_its_own_deadline() {
    let mut looping = responder(vec![bind(load("moody", guests::MOODY))]).await;
    let failure = looping.push(delta("L")).await.expect_err("a failure");
    assert_eq!(failure.kind, FailureKind::Deadline);
    assert!(said_late(&failure, 5), "{failure}");
    assert_eq!(
        looping.push(delta("a")).await,
        Err(failure),
        "the answer is over"
    );
}

#[tokio::test]
async fn sleeping_under_wasi_meets_its_deadline() {
    let limits = Limits {
        call_ms: 5,
        ..Limits::default()
    };
    let failure = failure(Binding {
        limits,
        ..bind(load("sleeper", guests::SLEEPER))
    })
    .await;
    assert_eq!(failure.kind, FailureKind::Deadline);
    assert_eq!(failure.message, "took longer than 520 ms, waiting included");
}
