//! Observers: what they hear, and that nobody hears of their failures but the books.

use std::sync::Arc;
use std::time::Duration;

use gapura_plugin_runtime::{
    Completion, FailureKind, FailurePolicy, FinishReason, Outcome, Services, Stage, Summary,
};
use gapura_test_guests as guests;

use crate::support::{Values, answer_context, bind, chain, load, observed};

fn summary(model: &str, completion: Completion) -> Summary {
    let mut answer = answer_context();
    model.clone_into(&mut answer.model);
    Summary {
        answer,
        completion,
        prompt_tokens: 12,
        cached_tokens: 4,
        completion_tokens: 7,
        queue: Duration::from_micros(1),
        prefill: Duration::from_micros(2),
        decode: Duration::from_micros(3),
    }
}

#[tokio::test]
async fn observers_hear_how_an_answer_ended() {
    let plugin = load("watches", guests::WATCHES);
    assert_eq!(plugin.stages(), [Stage::Observe]);
    let chain = chain(vec![bind(plugin)]);
    assert!(chain.is_observed());
    assert!(chain.label().starts_with("watches@0.0.0+"), "{chain:?}");
    for (completion, expected) in [
        (Completion::Finished(FinishReason::Stop), "finished +7"),
        (Completion::Cancelled, "cancelled +1"),
        (
            Completion::Failed("deadline_exceeded".to_owned()),
            "deadline_exceeded +1",
        ),
    ] {
        let values = Arc::<Values>::default();
        let services = Services {
            values: Arc::clone(&values) as _,
            ..observed().0
        };
        chain.completed(services, &summary("a", completion)).await;
        let heard = values.0.lock().expect("no panic").clone();
        let expected = ["prompt +12", "chain +2", expected];
        let expected = expected.map(|what| format!("watches route {what}"));
        assert_eq!(heard, expected);
    }
}

/// One traps, one loops, and the third hears all the same.
#[tokio::test]
async fn a_failure_of_an_observer_is_its_own() {
    let watches = |name| bind(load(name, guests::WATCHES));
    for (model, kind) in [("z", FailureKind::Trap), ("y", FailureKind::Deadline)] {
        let mut open = watches("first");
        open.on_failure = FailurePolicy::Open;
        let chain = chain(vec![open, watches("second")]);
        let (services, calls) = observed();
        let told = summary(model, Completion::Cancelled);
        chain.completed(services, &told).await;
        let failed = Outcome::Failed(kind);
        let expected = ["first", "second"].map(|name| {
            let made = (name.to_owned(), "instantiate", Outcome::Answered);
            [made, (name.to_owned(), "completed", failed)]
        });
        assert_eq!(calls.take(), expected.concat());
    }
}

#[test]
fn a_chain_without_an_observer_is_not_observed() {
    assert!(!chain(Vec::new()).is_observed());
}
