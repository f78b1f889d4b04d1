//! Verdicts and prompts: what guests answer is what the gateway gets.

use gapura_plugin_runtime::{
    Binding, FailureKind, FailurePolicy, FinishReason, Outcome, Rendered, Segment, Stage, Validated,
};
use gapura_test_guests as guests;
use serde_json::json;

use crate::support::{bind, chain, chat, load, message, observed, services};

async fn verdict(model: &str) -> Validated {
    let run = &mut chain(vec![bind(load("verdicts", guests::VERDICTS))]).start(services());
    run.validate(chat(model)).await.expect("a verdict")
}

#[tokio::test]
async fn every_verdict_arrives() {
    assert_eq!(verdict("a").await, Validated::Continue(chat("a")));

    let mut amended = chat("m");
    amended.messages = vec![message("other")];
    assert_eq!(verdict("m").await, Validated::Continue(amended));

    let Validated::Refused { plugin, refusal } = verdict("r").await else {
        panic!("refused")
    };
    assert_eq!(plugin.name, "verdicts");
    assert_eq!(
        (refusal.status, &*refusal.code, &*refusal.message),
        (400, "code", "other")
    );
    assert_eq!(refusal.param, None);

    let Validated::Answered {
        chat: same,
        text,
        finish,
        plugin,
    } = verdict("w").await
    else {
        panic!("answered")
    };
    assert_eq!(
        (same, &*text, finish),
        (chat("w"), "other", FinishReason::Length)
    );
    assert_eq!(plugin.name, "verdicts");

    let Validated::Rerouted { route, .. } = verdict("o").await else {
        panic!("rerouted")
    };
    assert_eq!(route, "other");
}

#[tokio::test]
async fn what_breaks_the_contract_is_a_failure() {
    let cases = [
        (
            "e",
            FailureKind::InvalidOutput,
            "an amendment leaves no message",
        ),
        (
            "n",
            FailureKind::InvalidOutput,
            "an amendment sets temperature to NaN",
        ),
        ("u", FailureKind::InvalidOutput, "invalid utf-8"),
        ("f", FailureKind::Declined, "other"),
        ("q", FailureKind::Declined, "gave no reason"),
    ];
    let chain = chain(vec![bind(load("verdicts", guests::VERDICTS))]);
    for (model, kind, message) in cases {
        let (services, calls) = observed();
        let failure = chain
            .start(services)
            .validate(chat(model))
            .await
            .expect_err("a failure");
        assert_eq!(
            (failure.kind, failure.stage),
            (kind, Stage::Validate),
            "{model}"
        );
        assert!(
            failure.message.contains(message),
            "{model}: {}",
            failure.message
        );
        assert!(failure.plugin.starts_with("verdicts@0.0.0+"), "{failure}");
        let last = calls.take().pop().expect("a call");
        assert_eq!(
            last,
            ("verdicts".to_owned(), "validate", Outcome::Failed(kind))
        );
    }
}

#[tokio::test]
async fn validators_run_in_order_until_one_decides() {
    let (services, calls) = observed();
    let accept = bind(load("accept", guests::ACCEPT));
    let verdicts = bind(load("verdicts", guests::VERDICTS));
    let last = bind(load("last", guests::ACCEPT));
    let run = &mut chain(vec![accept, verdicts, last]).start(services);
    assert!(matches!(
        run.validate(chat("r")).await,
        Ok(Validated::Refused { .. })
    ));
    let seen = calls.take();
    let expected = [
        ("accept", "instantiate", Outcome::Answered),
        ("accept", "validate", Outcome::Answered),
        ("verdicts", "instantiate", Outcome::Answered),
        ("verdicts", "validate", Outcome::Refused),
    ];
    assert_eq!(
        seen,
        expected.map(|(name, call, outcome)| (name.to_owned(), call, outcome))
    );
}

#[tokio::test]
async fn a_later_stage_sees_what_an_earlier_one_amended() {
    let first = bind(load("verdicts", guests::VERDICTS));
    let run = &mut chain(vec![first]).start(services());
    let Ok(Validated::Continue(amended)) = run.validate(chat("m")).await else {
        panic!("goes on")
    };
    assert_eq!(amended.messages, [message("other")]);
    let Ok(Rendered::Prompt(prompt)) = run.render(&amended).await else {
        panic!("a prompt")
    };
    let expected = [
        Segment::Control("<bos>".to_owned()),
        Segment::Text("m".to_owned()),
        Segment::PrefixEnd,
    ];
    assert_eq!(prompt.segments, expected);
    assert_eq!((prompt.stop, prompt.grammar), (Vec::new(), None));
}

#[tokio::test]
async fn a_renderer_may_refuse() {
    let run = &mut chain(Vec::new()).start(services());
    let Ok(Rendered::Refused { plugin, refusal }) = run.render(&chat("r")).await else {
        panic!("refused")
    };
    assert_eq!((&*plugin.name, refusal.status), ("render", 422));
}

#[tokio::test]
async fn an_open_validator_is_skipped_and_a_closed_one_is_not() {
    let trap = load("trap", guests::TRAP);
    let open = Binding {
        on_failure: FailurePolicy::Open,
        allow_open_validator: true,
        ..bind(trap.clone())
    };
    let run = &mut chain(vec![open]).start(services());
    assert_eq!(
        run.validate(chat("a")).await,
        Ok(Validated::Continue(chat("a")))
    );
    let run = &mut chain(vec![bind(trap)]).start(services());
    assert_eq!(
        run.validate(chat("a"))
            .await
            .map_err(|failure| failure.kind),
        Err(FailureKind::Trap)
    );
}

#[tokio::test]
async fn a_guest_gets_its_settings_and_the_tokenizer() {
    let settings = json!({ "language": "id", "limits": [1, 2] });
    let plugin = bind(load("settings", guests::SETTINGS));
    let run = &mut chain(vec![Binding {
        settings,
        ..plugin.clone()
    }])
    .start(services());
    let mut words = chat("a");
    words.route = "two words".to_owned();
    let Ok(Validated::Refused { refusal, .. }) = run.validate(words).await else {
        panic!("refused")
    };
    assert_eq!(
        (refusal.status, &*refusal.message),
        (402, r#"{"language":"id","limits":[1,2]}"#)
    );

    let run = &mut chain(vec![plugin]).start(services());
    let Ok(Validated::Refused { refusal, .. }) = run.validate(chat("a")).await else {
        panic!("refused")
    };
    assert_eq!(&*refusal.message, "{}");
}

/// One instance serves both stages of one binding in one request, and no other request.
#[tokio::test]
async fn an_instance_is_shared_by_stages_and_not_by_requests() {
    let every = bind(load("every", guests::EVERY_STAGE));
    let chain = std::sync::Arc::new(
        gapura_plugin_runtime::Chain::new("route", vec![every]).expect("a chain"),
    );
    for _ in 0..3 {
        let run = &mut chain.start(services());
        run.validate(chat("a")).await.expect("valid");
        let Ok(Rendered::Prompt(prompt)) = run.render(&chat("a")).await else {
            panic!("prompt")
        };
        assert_eq!(prompt.segments, [Segment::Text("b".to_owned())]);
    }
}

#[tokio::test]
async fn wasi_is_there_and_empty() {
    let sleeper = bind(load("sleeper", guests::SLEEPER));
    let run = &mut chain(vec![sleeper]).start(services());
    assert_eq!(
        run.validate(chat("a")).await,
        Ok(Validated::Continue(chat("a")))
    );
}
