//! What becomes of requests whose plugin fails: policies, and circuit breakers.

use std::sync::Arc;
use std::time::Duration;

use gapura_plugin_runtime::{
    Binding, BreakerConfig, BreakerState, Chain, ChainFailure, FailureKind, FailurePolicy,
    FinishReason, Grants, Import, Limits, Output, Plugin, PluginRuntime, Rendered, RuntimeConfig,
    Segment, Stage, Validated,
};
use gapura_test_guests as guests;

use crate::support::{
    Calls, HandClock, answer_context, bind, chain, chat, delta, load, observed, services,
    small_runtime_with,
};

/// `plugin`, behind which `previous` stands.
fn with_previous(plugin: Plugin, previous: &Plugin) -> Binding {
    Binding {
        on_failure: FailurePolicy::Previous,
        previous: Some(previous.clone()),
        ..bind(plugin)
    }
}

fn with_static(plugin: Plugin) -> Binding {
    Binding {
        on_failure: FailurePolicy::Static("maaf".to_owned()),
        ..bind(plugin)
    }
}

/// A chain of one plugin that renders.
fn renders(binding: Binding) -> Arc<Chain> {
    Arc::new(Chain::new("route", vec![binding]).expect("a chain"))
}

fn cut(text: &str) -> Result<Output, ChainFailure> {
    Ok(Output::Cut {
        reason: FinishReason::ContentFilter,
        text: text.to_owned(),
    })
}

fn emitted(text: &str) -> Result<Output, ChainFailure> {
    Ok(Output::Emit(text.to_owned()))
}

#[tokio::test]
async fn the_version_before_judges_where_the_live_one_fails() {
    let (live, previous) = (
        load("guard", guests::VERDICTS),
        load("guard", guests::KEEPS),
    );
    let chain = chain(vec![with_previous(live.clone(), &previous)]);
    let (services, calls) = observed();
    // What the live one can judge it judges.
    let mut run = chain.start(services.clone());
    let judged = run.validate(chat("a")).await;
    assert!(matches!(judged, Ok(Validated::Continue(_))), "{judged:?}");
    assert!(calls.take_notes().is_empty());
    let mut run = chain.start(services);
    let Ok(Validated::Refused { plugin, refusal }) = run.validate(chat("fail")).await else {
        panic!("the version before refuses everything");
    };
    assert_eq!(
        (plugin, refusal.status),
        (previous.id().clone(), 401),
        "its verdict, under its own name"
    );
    assert_eq!(
        calls.take_notes(),
        ["guard fell back in validate: previous"]
    );
    // The request goes on with it.
    assert!(matches!(
        run.render(&chat("a")).await,
        Ok(Rendered::Prompt(_))
    ));
}

#[tokio::test]
async fn a_version_before_that_fails_too_fails_the_request() {
    let previous = load("guard", guests::TRAP);
    let binding = with_previous(load("guard", guests::VERDICTS), &previous);
    let failure = chain(vec![binding])
        .start(services())
        .validate(chat("fail"))
        .await
        .expect_err("both fail");
    assert_eq!(failure.plugin, previous.label());
    assert_eq!(failure.kind, FailureKind::Trap);
}

#[tokio::test]
async fn without_a_version_before_that_can_it_fails_closed() {
    let live = load("guard", guests::VERDICTS);
    let label = live.label().to_owned();
    let none = Binding {
        previous: None,
        ..with_previous(live.clone(), &live)
    };
    let ungranted = Binding {
        grants: Grants::with([Import::Log]),
        ..with_previous(live.clone(), &load("guard", guests::ASKS))
    };
    let other_stage = with_previous(live.clone(), &load("guard", guests::BRACKETS));
    let itself = with_previous(live.clone(), &live);
    for binding in [none, ungranted, other_stage, itself] {
        let (services, calls) = observed();
        let mut run = chain(vec![binding]).start(services);
        let failure = run.validate(chat("fail")).await.expect_err("it fails");
        assert_eq!(
            (&failure.plugin, failure.kind),
            (&label, FailureKind::Declined)
        );
        assert!(calls.take_notes().is_empty());
        assert_eq!(calls.of("validate"), 1);
    }
}

#[tokio::test]
async fn the_version_before_renders_where_the_live_one_fails() {
    let binding = with_previous(
        load("template", guests::RENDER),
        &load("template", guests::EVERY_STAGE),
    );
    let chain = renders(binding);
    let rendered = |prompt: Result<Rendered, ChainFailure>| match prompt {
        Ok(Rendered::Prompt(prompt)) => prompt.segments,
        other => panic!("{other:?}"),
    };
    let live = rendered(chain.start(services()).render(&chat("m")).await);
    assert_eq!(live[0], Segment::Control("<bos>".to_owned()));
    let before = rendered(chain.start(services()).render(&chat("T")).await);
    assert_eq!(before, [Segment::Text("a".to_owned())]);
}

#[tokio::test]
async fn a_processor_that_fails_at_once_gives_way_to_the_version_before() {
    let moody = || load("filter", guests::MOODY);
    let binding = with_previous(moody(), &load("filter", guests::BRACKETS));
    let chain = chain(vec![binding]);
    let (services, calls) = observed();
    let run = chain.start(services);
    let mut answer = run.responder(answer_context()).await.unwrap();
    assert_eq!(answer.push(delta("T")).await, emitted("[T]"));
    assert_eq!(answer.push(delta("a")).await, emitted("[a]"));
    assert_eq!(answer.finish(FinishReason::Stop).await, emitted("|"));
    assert_eq!(
        calls.take_notes(),
        ["filter fell back in respond: previous"]
    );
    // Once it has answered, it knows what no other does.
    let mut answer = run.responder(answer_context()).await.unwrap();
    assert_eq!(answer.push(delta("a")).await, emitted("a"));
    let failure = answer.push(delta("T")).await.expect_err("it fails closed");
    assert_eq!(failure.plugin, moody().label());
    assert!(calls.take_notes().is_empty());
}

#[tokio::test]
async fn a_static_answer_stands_for_a_failed_validator() {
    let plugin = load("guard", guests::VERDICTS);
    let chain = chain(vec![with_static(plugin.clone())]);
    let (services, calls) = observed();
    let answered = chain.start(services).validate(chat("fail")).await;
    let expected = Validated::Answered {
        chat: chat("fail"),
        text: "maaf".to_owned(),
        finish: FinishReason::Stop,
        plugin: plugin.id().clone(),
    };
    assert_eq!(answered, Ok(expected));
    assert_eq!(calls.take_notes(), ["guard fell back in validate: static"]);
}

#[tokio::test]
async fn a_static_answer_stands_for_a_failed_template() {
    let plugin = load("template", guests::RENDER);
    let chain = renders(with_static(plugin.clone()));
    let answered = chain.start(services()).render(&chat("T")).await;
    let expected = Rendered::Answered {
        text: "maaf".to_owned(),
        finish: FinishReason::Stop,
        plugin: plugin.id().clone(),
    };
    assert_eq!(answered, Ok(expected));
    // Skipping it would leave nothing to go on with, even where that was forced.
    let open = Binding {
        on_failure: FailurePolicy::Open,
        allow_open_validator: true,
        ..bind(plugin)
    };
    let failed = renders(open).start(services()).render(&chat("T")).await;
    assert_eq!(failed.expect_err("closed").kind, FailureKind::Trap);
}

#[tokio::test]
async fn a_static_text_ends_the_answer_of_a_failed_processor() {
    let binding = with_static(load("filter", guests::MOODY));
    let run = chain(vec![binding, bind(load("brackets", guests::BRACKETS))]).start(services());
    let mut answer = run.responder(answer_context()).await.unwrap();
    assert_eq!(answer.push(delta("a")).await, emitted("[a]"));
    // What it holds it may hold for a reason: that never comes out.
    assert_eq!(answer.push(delta("Held")).await, emitted(""));
    // Later processors see the text, and the end.
    assert_eq!(answer.push(delta("T")).await, cut("{maaf}|"));
    assert_eq!(answer.push(delta("b")).await, cut(""));
    assert_eq!(answer.finish(FinishReason::Stop).await, cut(""));
}

#[tokio::test]
async fn a_static_text_follows_what_a_processor_said_before_it_held_too_much() {
    let binding = Binding {
        limits: Limits {
            held_bytes: 4,
            ..Limits::default()
        },
        ..with_static(load("filter", guests::MOODY))
    };
    let run = chain(vec![binding]).start(services());
    let mut answer = run.responder(answer_context()).await.unwrap();
    // It emits "* " for itself and a space, and holds the rest.
    assert_eq!(answer.push(delta("R secret")).await, cut("* maaf"));
}

#[tokio::test]
async fn a_processor_that_finds_no_room_is_answered_for_too() {
    let runtime = small_runtime_with(
        RuntimeConfig {
            max_instances: 1,
            instance_wait: Duration::from_millis(10),
            ..RuntimeConfig::default()
        },
        Arc::<HandClock>::default(),
    );
    let load = |wasm| runtime.load("filter", wasm).expect("loads");
    let render = || bind(runtime.load("render", guests::RENDER).expect("loads"));
    let taken =
        Arc::new(Chain::new("route", vec![bind(load(guests::BRACKETS)), render()]).unwrap());
    let _taken = taken.start(services()).responder(answer_context()).await;
    let answer = async |binding| {
        let chain = Arc::new(Chain::new("route", vec![binding, render()]).unwrap());
        chain.start(services()).responder(answer_context()).await
    };
    let mut ended = answer(with_static(load(guests::MOODY))).await.unwrap();
    assert!(!ended.is_passthrough());
    assert_eq!(ended.finish(FinishReason::Stop).await, cut("maaf"));
    let previous = with_previous(load(guests::MOODY), &load(guests::BRACKETS));
    let failure = answer(previous).await.err().expect("there is no room");
    assert_eq!(failure.kind, FailureKind::Exhausted);
}

/// A runtime whose breakers go by the clock, and breakers that open after two failures for 100 ms.
fn timed(max_instances: u32) -> (PluginRuntime, Arc<HandClock>) {
    let clock = Arc::<HandClock>::default();
    let config = RuntimeConfig {
        max_instances,
        instance_wait: Duration::from_millis(10),
        ..RuntimeConfig::default()
    };
    (small_runtime_with(config, Arc::clone(&clock) as _), clock)
}

fn guarded(runtime: &PluginRuntime, wasm: &[u8], on_failure: FailurePolicy) -> Arc<Chain> {
    let guard = Binding {
        on_failure,
        allow_open_validator: true,
        breaker: BreakerConfig {
            failures: 2,
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_millis(200),
        },
        ..bind(runtime.load("guard", wasm).expect("loads"))
    };
    let render = runtime.load("render", guests::RENDER).expect("loads");
    Arc::new(Chain::new("route", vec![guard, bind(render)]).expect("a chain"))
}

async fn judge(chain: &Arc<Chain>, calls: &Arc<Calls>, model: &str) -> Result<(), FailureKind> {
    let mut services = services();
    services.observer = Arc::clone(calls) as _;
    match chain.start(services).validate(chat(model)).await {
        Ok(_) => Ok(()),
        Err(failure) => Err(failure.kind),
    }
}

fn breaker(chain: &Chain) -> BreakerState {
    chain.breakers().next().expect("the guard's")
}

#[tokio::test]
async fn a_plugin_that_fails_every_time_is_left_alone_and_tried_again() {
    let (runtime, clock) = timed(4);
    let chain = guarded(&runtime, guests::VERDICTS, FailurePolicy::Closed);
    let calls = Arc::<Calls>::default();
    for _ in 0..2 {
        assert_eq!(breaker(&chain), BreakerState::Closed);
        assert_eq!(
            judge(&chain, &calls, "fail").await,
            Err(FailureKind::Declined)
        );
    }
    let retry_in = Duration::from_millis(100);
    assert_eq!(breaker(&chain), BreakerState::Open { retry_in });
    assert_eq!(
        judge(&chain, &calls, "accept").await,
        Err(FailureKind::BreakerOpen)
    );
    assert_eq!(calls.of("validate"), 2, "the guest is not called");
    assert_eq!(
        calls.take_notes(),
        [
            "guard has an open breaker in validate",
            "guard failed in validate: breaker_open"
        ]
    );
    // It fails again: twice the time.
    clock.set_ms(100);
    assert_eq!(
        judge(&chain, &calls, "fail").await,
        Err(FailureKind::Declined)
    );
    clock.set_ms(299);
    assert_eq!(
        judge(&chain, &calls, "accept").await,
        Err(FailureKind::BreakerOpen)
    );
    clock.set_ms(300);
    assert_eq!(judge(&chain, &calls, "accept").await, Ok(()));
    assert_eq!(breaker(&chain), BreakerState::Closed);
    assert_eq!(
        calls.take_notes(),
        [
            "guard has an open breaker in validate",
            "guard failed in validate: breaker_open"
        ]
    );
}

#[tokio::test]
async fn a_plugin_that_fails_every_second_time_is_left_alone_too() {
    let (runtime, _clock) = timed(4);
    let chain = guarded(&runtime, guests::VERDICTS, FailurePolicy::Closed);
    let calls = Arc::<Calls>::default();
    for _ in 0..2 {
        assert_eq!(
            judge(&chain, &calls, "fail").await,
            Err(FailureKind::Declined)
        );
        assert_eq!(judge(&chain, &calls, "accept").await, Ok(()));
    }
    assert_eq!(breaker(&chain), BreakerState::Closed);
    let _ = judge(&chain, &calls, "fail").await;
    let retry_in = Duration::from_millis(100);
    assert_eq!(breaker(&chain), BreakerState::Open { retry_in });
}

#[tokio::test]
async fn an_open_breaker_goes_straight_to_the_policy() {
    let (runtime, _clock) = timed(4);
    let chain = guarded(&runtime, guests::TRAP, FailurePolicy::Open);
    let calls = Arc::<Calls>::default();
    for _ in 0..5 {
        assert_eq!(judge(&chain, &calls, "m").await, Ok(()), "it is skipped");
    }
    assert_eq!(calls.of("validate"), 2);
    let fell_back = calls.take_notes();
    let fell_back = fell_back.iter().filter(|note| note.contains("fell back"));
    assert_eq!(fell_back.count(), 5);
}

#[tokio::test]
async fn nobody_waits_for_an_instance_of_a_plugin_that_is_left_alone() {
    let (runtime, _clock) = timed(1);
    let chain = guarded(&runtime, guests::TRAP, FailurePolicy::Closed);
    let calls = Arc::<Calls>::default();
    for _ in 0..2 {
        assert_eq!(judge(&chain, &calls, "m").await, Err(FailureKind::Trap));
    }
    let brackets = bind(runtime.load("brackets", guests::BRACKETS).unwrap());
    let render = bind(runtime.load("render", guests::RENDER).unwrap());
    let other = Arc::new(Chain::new("route", vec![brackets, render]).unwrap());
    let _taken = other.start(services()).responder(answer_context()).await;
    assert_eq!(runtime.free_instances(), 0);
    assert_eq!(
        judge(&chain, &calls, "m").await,
        Err(FailureKind::BreakerOpen)
    );
}

#[tokio::test]
async fn each_stage_has_a_breaker_and_an_answer_counts_once() {
    let (runtime, clock) = timed(4);
    let chain = guarded(&runtime, guests::MOODY, FailurePolicy::Closed);
    let answer = async || chain.start(services()).responder(answer_context()).await;
    // An answer that went well until it failed is no success.
    for _ in 0..2 {
        let mut answer = answer().await.unwrap();
        assert_eq!(answer.push(delta("a")).await, emitted("a"));
        let failure = answer.push(delta("T")).await.expect_err("it traps");
        assert_eq!(failure.kind, FailureKind::Trap);
    }
    let failure = answer().await.err().expect("it is left alone");
    assert_eq!(
        (failure.stage, failure.kind),
        (Stage::Respond, FailureKind::BreakerOpen)
    );
    assert_eq!(failure.retry_in, Some(Duration::from_millis(100)));
    // The one that tries is given up with its answer, and the next one closes it by its end.
    clock.set_ms(100);
    let gone = answer().await.unwrap();
    assert_eq!(breaker(&chain), BreakerState::HalfOpen);
    assert!(answer().await.is_err());
    drop(gone);
    let mut whole = answer().await.unwrap();
    assert_eq!(whole.push(delta("a")).await, emitted("a"));
    assert_eq!(breaker(&chain), BreakerState::HalfOpen);
    assert_eq!(whole.finish(FinishReason::Stop).await, emitted("."));
    assert_eq!(breaker(&chain), BreakerState::Closed);
}

#[tokio::test]
async fn processors_of_an_open_breaker_are_answered_for() {
    let (runtime, _clock) = timed(4);
    let policy = FailurePolicy::Static("maaf".to_owned());
    let chain = guarded(&runtime, guests::MOODY, policy);
    for given in ["T", "T", "a"] {
        let run = chain.start(services());
        let mut answer = run.responder(answer_context()).await.unwrap();
        assert_eq!(answer.push(delta(given)).await, cut("maaf"));
    }
}
