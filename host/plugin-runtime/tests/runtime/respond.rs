//! The response stage: order, holding, cutting, failing, on streams and whole answers alike.

use gapura_plugin_runtime::{
    Binding, Delta, FailureKind, FailurePolicy, FinishReason, Limits, Output,
};
use gapura_test_guests as guests;

use crate::support::{answer_context, bind, chain, delta, load, observed, responder, services};

fn moody() -> Binding {
    bind(load("moody", guests::MOODY))
}

fn open_moody() -> Binding {
    Binding {
        on_failure: FailurePolicy::Open,
        ..moody()
    }
}

fn brackets() -> Binding {
    bind(load("brackets", guests::BRACKETS))
}

fn emit(text: &str) -> Output {
    Output::Emit(text.to_owned())
}

fn cut(text: &str) -> Output {
    Output::Cut {
        reason: FinishReason::ContentFilter,
        text: text.to_owned(),
    }
}

/// What comes out for each of `deltas`, then for the end.
async fn answer(bindings: Vec<Binding>, deltas: &[&str]) -> Vec<Output> {
    let mut responder = responder(bindings).await;
    let mut outputs = Vec::new();
    for text in deltas {
        outputs.push(responder.push(delta(text)).await.expect("no failure"));
    }
    outputs.push(
        responder
            .finish(FinishReason::Stop)
            .await
            .expect("no failure"),
    );
    outputs
}

#[tokio::test]
async fn without_processors_text_passes() {
    assert_eq!(
        answer(Vec::new(), &["a", "", "b"]).await,
        [emit("a"), emit(""), emit("b"), emit("")]
    );
    assert!(responder(Vec::new()).await.is_passthrough());
    assert!(!responder(vec![moody()]).await.is_passthrough());
}

#[tokio::test]
async fn what_one_emits_the_next_sees() {
    let outputs = answer(vec![moody(), brackets()], &["a", "", "b"]).await;
    assert_eq!(outputs, [emit("[a]"), emit(""), emit("[b]"), emit("{.}|")]);
    let outputs = answer(vec![brackets(), moody()], &["a"]).await;
    assert_eq!(outputs, [emit("[a]"), emit("|.")]);
}

#[tokio::test]
async fn text_that_changed_has_no_tokens() {
    let outputs = answer(vec![moody(), brackets()], &["S", "a"]).await;
    assert_eq!(outputs, [emit("{*}"), emit("[a]"), emit("{.}|")]);
}

#[tokio::test]
async fn held_text_reaches_the_next_when_it_is_emitted() {
    let outputs = answer(vec![moody(), brackets()], &["Hi", "E", "a"]).await;
    assert_eq!(outputs, [emit(""), emit(""), emit("{a}"), emit("{.}|")]);
}

/// A cut ends the answer, but a processor behind it still sees the last text and the end: a
/// redactor cannot be passed by.
#[tokio::test]
async fn a_cut_ends_the_answer_and_passes_the_rest_of_the_chain() {
    let mut responder = responder(vec![moody(), brackets()]).await;
    assert_eq!(responder.push(delta("a")).await, Ok(emit("[a]")));
    assert_eq!(responder.push(delta("X")).await, Ok(cut("{[cut]}|")));
    assert_eq!(responder.push(delta("more")).await, Ok(cut("")));
    assert_eq!(responder.finish(FinishReason::Stop).await, Ok(cut("")));

    let outputs = answer(vec![brackets(), moody()], &["X"]).await;
    assert_eq!(
        outputs,
        [emit("[X]"), emit("|.")],
        "the first hides the X from the second"
    );
}

#[tokio::test]
async fn an_answer_ends_once() {
    let mut responder = responder(vec![moody()]).await;
    assert_eq!(responder.finish(FinishReason::Length).await, Ok(emit(".")));
    assert_eq!(responder.finish(FinishReason::Length).await, Ok(emit("")));
    assert_eq!(responder.push(delta("late")).await, Ok(emit("")));
}

/// Nothing that a skipped processor held is lost, and what follows passes it by.
#[tokio::test]
async fn a_failing_open_processor_gives_back_what_it_held() {
    let outputs = answer(
        vec![open_moody(), brackets()],
        &["a", "Hi ", "H2 ", "T", "L", "b"],
    )
    .await;
    let expected = [
        emit("[a]"),
        emit(""),
        emit(""),
        emit("{Hi H2 T}"),
        emit("[L]"),
        emit("[b]"),
        emit("|"),
    ];
    assert_eq!(outputs, expected);
}

/// The same after text that it replaced, which stays replaced.
#[tokio::test]
async fn what_is_held_behind_a_replacement_is_given_back_and_bounded() {
    let outputs = answer(vec![open_moody(), brackets()], &["R 08", "T", "b"]).await;
    assert_eq!(
        outputs,
        [emit("{* }"), emit("{08T}"), emit("[b]"), emit("|")]
    );

    let limits = Limits {
        held_bytes: 5,
        ..Limits::default()
    };
    let binding = Binding { limits, ..moody() };
    let mut responder = responder(vec![binding]).await;
    assert_eq!(responder.push(delta("R 08123")).await, Ok(emit("* ")));
    let failure = responder.push(delta("R 081234")).await;
    let failure = failure.expect_err("six bytes held");
    assert_eq!(failure.kind, FailureKind::HeldTooMuch);
}

#[tokio::test]
async fn an_open_processor_that_holds_too_much_is_flushed() {
    let limits = Limits {
        held_bytes: 5,
        ..Limits::default()
    };
    let outputs = answer(
        vec![Binding {
            limits,
            ..open_moody()
        }],
        &["Hold", "Hi", "a"],
    )
    .await;
    assert_eq!(outputs, [emit(""), emit("HoldHi"), emit("a"), emit("")]);
    let mut responder = responder(vec![open_moody()]).await;
    responder.push(delta("T")).await.expect("skipped");
    assert!(responder.is_passthrough());
}

#[tokio::test]
async fn calls_are_observed() {
    let (services, calls) = observed();
    let run = chain(vec![moody()]).start(services);
    let mut responder = run.responder(answer_context()).await.expect("a responder");
    responder.push(delta("a")).await.expect("text");
    responder
        .push(Delta::default())
        .await
        .expect("no text, no call");
    responder.push(delta("X")).await.expect("cut");
    let functions: Vec<_> = calls
        .take()
        .into_iter()
        .map(|(_, call, outcome)| (call, outcome.as_str()))
        .collect();
    let expected = [
        ("instantiate", "answered"),
        ("processor", "answered"),
        ("push", "answered"),
        ("push", "refused"),
    ];
    assert_eq!(functions, expected);
}

/// Each choice has processors of its own, on whatever task it runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn choices_run_concurrently() {
    let run = chain(vec![moody(), brackets()]).start(services());
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let mut responder = run.responder(answer_context()).await.expect("a responder");
        tasks.push(tokio::spawn(async move {
            let mut text = String::new();
            for _ in 0..50 {
                match responder.push(delta("a")).await.expect("text") {
                    Output::Emit(more) => text.push_str(&more),
                    Output::Cut { .. } => panic!("no cut"),
                }
            }
            text
        }));
    }
    for task in tasks {
        assert_eq!(task.await.expect("no panic"), "[a]".repeat(50));
    }
}
