//! Instances that serve one request after the other, where their binding says so.

use std::sync::Arc;
use std::time::Duration;

use gapura_plugin_runtime::{
    Binding, Chain, FailureKind, FinishReason, Limits, Output, PluginRuntime, RuntimeConfig,
    Validated,
};
use gapura_test_guests as guests;

use crate::support::{
    answer_context, bind, chat, delta, load, observed, runtime, services, small_runtime,
};

fn keeps(reuse: u32) -> Binding {
    Binding {
        reuse,
        ..bind(load("keeps", guests::KEEPS))
    }
}

fn chain(binding: Binding) -> Arc<Chain> {
    chain_on(runtime(), binding)
}

fn chain_on(runtime: &PluginRuntime, binding: Binding) -> Arc<Chain> {
    chain_of("route", runtime, binding)
}

fn chain_of(route: &str, runtime: &PluginRuntime, binding: Binding) -> Arc<Chain> {
    let render = runtime.load("render", guests::RENDER).expect("loads");
    Arc::new(Chain::new(route, vec![binding, bind(render)]).expect("a chain"))
}

/// How many calls the instance has had that judged a chat of `model`, or how it failed.
async fn calls(chain: &Arc<Chain>, model: &str) -> Result<u16, FailureKind> {
    let mut run = chain.start(services());
    match run.validate(chat(model)).await {
        Ok(Validated::Refused { refusal, .. }) => Ok(refusal.status - 400),
        Ok(other) => panic!("{other:?}"),
        Err(failure) => Err(failure.kind),
    }
}

#[tokio::test]
async fn without_reuse_every_request_has_a_fresh_instance() {
    let chain = chain(keeps(0));
    for _ in 0..5 {
        assert_eq!(calls(&chain, "m").await, Ok(1));
    }
}

#[tokio::test]
async fn an_instance_serves_as_many_later_requests_as_it_may() {
    let chain = chain(keeps(2));
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.push(calls(&chain, "m").await.unwrap());
    }
    assert_eq!(seen, [1, 2, 3, 1, 2, 3, 1]);
}

#[tokio::test]
async fn a_failure_ends_an_instance() {
    let binding = Binding {
        limits: Limits {
            call_ms: 20,
            ..Limits::default()
        },
        ..keeps(100)
    };
    let chain = chain(binding);
    for (model, kind) in [("t", FailureKind::Trap), ("L", FailureKind::Deadline)] {
        assert_eq!(calls(&chain, "m").await, Ok(1));
        assert_eq!(calls(&chain, "m").await, Ok(2));
        assert_eq!(calls(&chain, model).await, Err(kind));
    }
    assert_eq!(calls(&chain, "m").await, Ok(1));
}

#[tokio::test]
async fn an_instance_that_has_taken_half_of_its_memory_goes() {
    let chain = chain(keeps(100));
    assert_eq!(calls(&chain, "g").await, Ok(1));
    assert_eq!(calls(&chain, "m").await, Ok(1));
    assert_eq!(calls(&chain, "m").await, Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_requests_share_an_instance_at_a_time() {
    let chain = chain(keeps(1_000));
    let tasks: Vec<_> = (0..400)
        .map(|_| {
            let chain = Arc::clone(&chain);
            tokio::spawn(async move { calls(&chain, "m").await })
        })
        .collect();
    let mut seen = Vec::new();
    for task in tasks {
        seen.push(task.await.expect("no panic").expect("no failure"));
    }
    // Each instance counts from one without a gap: a call that two had at once would be missing.
    let first = seen.iter().filter(|count| **count == 1).count();
    for count in 2..=*seen.iter().max().unwrap() {
        let with = seen.iter().filter(|seen| **seen == count).count();
        assert!(
            with <= first,
            "{with} instances had {count} calls, {first} had one"
        );
    }
    assert!(first < seen.len(), "none served twice");
}

#[tokio::test]
async fn a_cancelled_call_takes_its_instance_along() {
    let chain = chain(keeps(100));
    assert_eq!(calls(&chain, "m").await, Ok(1));
    let looping = tokio::time::timeout(Duration::from_millis(5), calls(&chain, "L"));
    assert!(looping.await.is_err(), "it was to be cut off");
    assert_eq!(calls(&chain, "m").await, Ok(1));
}

#[tokio::test]
async fn a_processor_ends_with_its_answer_and_its_instance_serves_the_next() {
    let binding = Binding {
        reuse: 10,
        ..bind(load("brackets", guests::BRACKETS))
    };
    let chain = chain(binding);
    let (services, calls) = observed();
    for _ in 0..3 {
        let run = chain.start(services.clone());
        let mut answer = run.responder(answer_context()).await.unwrap();
        assert_eq!(
            answer.push(delta("a")).await,
            Ok(Output::Emit("[a]".to_owned()))
        );
        assert_eq!(
            answer.finish(FinishReason::Stop).await,
            Ok(Output::Emit("|".to_owned()))
        );
        // What comes after the end meets no instance.
        assert_eq!(
            answer.push(delta("b")).await,
            Ok(Output::Emit(String::new()))
        );
    }
    let made = calls.of("instantiate");
    assert_eq!(made, 1, "instances");
    assert_eq!(calls.of("processor"), 3);
}

#[tokio::test]
async fn a_cut_answer_gives_its_instance_back_and_a_dropped_one_does_not() {
    let binding = Binding {
        reuse: 10,
        ..bind(load("moody", guests::MOODY))
    };
    let chain = chain(binding);
    let (services, calls) = observed();
    let answer = async || {
        let run = chain.start(services.clone());
        run.responder(answer_context()).await.unwrap()
    };
    let cut = answer().await.push(delta("X")).await;
    assert!(matches!(cut, Ok(Output::Cut { .. })), "{cut:?}");
    answer().await.push(delta("a")).await.unwrap();
    assert_eq!(calls.of("instantiate"), 1);
    // That one was dropped in mid-answer.
    answer().await.push(delta("a")).await.unwrap();
    assert_eq!(calls.of("instantiate"), 2);
}

#[tokio::test]
async fn instances_that_wait_give_way_when_the_pool_is_out() {
    let runtime = small_runtime(RuntimeConfig {
        max_instances: 2,
        instance_wait: Duration::from_millis(100),
        ..RuntimeConfig::default()
    });
    let bound = |name, wasm| Binding {
        reuse: 100,
        ..bind(runtime.load(name, wasm).expect("loads"))
    };
    let first = chain_on(&runtime, bound("first", guests::KEEPS));
    let second = chain_on(&runtime, bound("second", guests::KEEPS));
    let other = chain_of("other", &runtime, bound("other", guests::BRACKETS));
    assert_eq!(calls(&first, "m").await, Ok(1));
    assert_eq!(runtime.free_instances(), 1, "one waits");
    let answer = other.start(services()).responder(answer_context()).await;
    assert_eq!(runtime.free_instances(), 0);
    assert_eq!(
        calls(&second, "m").await,
        Ok(1),
        "the one that waited is gone"
    );
    drop(answer);
    assert_eq!(calls(&first, "m").await, Ok(1));
    assert_eq!(calls(&first, "m").await, Ok(2));
    drop((first, second, other));
    assert_eq!(runtime.free_instances(), 2, "chains take their own along");
}

#[tokio::test]
async fn whoever_counts_hears_of_instances_that_serve_again_and_of_those_that_go() {
    let chain = chain(keeps(2));
    let (services, calls) = observed();
    let judge = async |model: &str| {
        let mut run = chain.start(services.clone());
        run.validate(chat(model)).await.expect("judged");
        calls.take_notes()
    };
    assert!(judge("m").await.is_empty(), "a fresh one");
    assert_eq!(judge("m").await, ["keeps serves again"]);
    assert_eq!(
        judge("m").await,
        ["keeps serves again", "keeps is recycled"]
    );
    // One that has taken half of its memory goes at once.
    assert_eq!(judge("g").await, ["keeps is recycled"]);
}

#[tokio::test]
async fn what_waits_keeps_no_request_alive() {
    let chain = chain(keeps(100));
    let (services, calls) = observed();
    let mut run = chain.start(services);
    run.validate(chat("m")).await.unwrap();
    drop(run);
    assert_eq!(Arc::strong_count(&calls), 1);
    // Nor does a chain keep itself alive by it.
    let weak = Arc::downgrade(&chain);
    drop(chain);
    assert!(weak.upgrade().is_none());
}
