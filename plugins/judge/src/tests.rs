use gapura_plugin_sdk::model::{ModelAnswer, ModelError};
use gapura_plugin_sdk::{Grammar, testing};

use super::*;

const DELTAS: [&str; 4] = ["Satu dua. ", "Tiga", " empat. ", "Lima."];

/// What becomes of [`DELTAS`] where the model gives these answers.
fn judged(settings: &str, answers: &[&str]) -> (String, FinishReason) {
    testing::set_settings(&format!("{{\"policy\": \"Sopan.\", {settings}}}"));
    for answer in answers {
        testing::answer(answer);
    }
    testing::respond::<Judge>(&DELTAS)
}

fn passed(text: &str) -> (String, FinishReason) {
    (text.to_owned(), FinishReason::Stop)
}

fn cut(text: &str) -> (String, FinishReason) {
    (text.to_owned(), FinishReason::ContentFilter)
}

#[test]
fn a_whole_answer_passes_or_is_cut_by_one_question() {
    let settings = r#""cut_text": "Maaf.""#;
    assert_eq!(judged(settings, &["ya"]), passed(&DELTAS.concat()));
    assert_eq!(testing::asked().len(), 1);
    assert_eq!(testing::logged(), []);
    assert_eq!(judged(settings, &["tidak"]), cut("Maaf."));
    assert_eq!(
        testing::logged(),
        [(
            log::Level::Info,
            "cut: the model says that the answer breaks the policy".to_owned()
        )]
    );
}

#[test]
fn sentences_pass_until_one_does_not() {
    let settings = r#""hold": "sentences", "piece_bytes": 0, "cut_text": "…""#;
    assert_eq!(
        judged(settings, &["ya", "ya", "ya"]),
        passed(&DELTAS.concat())
    );
    assert_eq!(testing::asked().len(), 3);
    assert_eq!(judged(settings, &["ya", "tidak"]), cut("Satu dua. …"));
    assert_eq!(testing::asked().len(), 2);
}

#[test]
fn the_question_holds_the_policy_and_the_answer_so_far() {
    let settings = r#""hold": "sentences", "piece_bytes": 0, "language": "en""#;
    judged(settings, &["yes", "yes", "yes"]);
    let asked = testing::asked();
    for (question, so_far) in asked.iter().zip(["Satu dua. ", "Satu dua. Tiga empat. "]) {
        assert_eq!(question.grammar, Some(Grammar::Regex("yes|no".to_owned())));
        assert_eq!(question.temperature, 0.0);
        assert!(question.messages[0].text().contains("rules:\nSopan.\n"));
        let text = question.messages[1].text();
        assert!(text.contains(&format!("<<<\n{so_far}\n>>>")), "{text}");
    }
}

#[test]
fn without_an_answer_the_setting_decides() {
    let length = ModelAnswer {
        text: "ti".to_owned(),
        finish: FinishReason::Length,
        prompt_tokens: 9,
        completion_tokens: 1,
    };
    let other = ModelAnswer {
        text: "mungkin".to_owned(),
        finish: FinishReason::Stop,
        ..length.clone()
    };
    for (result, why) in [
        (
            Err(ModelError::Budget("2 questions".to_owned())),
            "2 questions; the binding's",
        ),
        (Err(ModelError::Depth), "within a question"),
        (Err(ModelError::Deadline), "its time was over"),
        (Err(ModelError::Overloaded), "no more requests"),
        (
            Err(ModelError::Invalid("too long".to_owned())),
            "cannot be asked: too long",
        ),
        (Err(ModelError::Failed("broken".to_owned())), "broken"),
        (Ok(length), "no tokens left"),
        (Ok(other), "it said `mungkin`"),
    ] {
        for (settings, expected) in [
            (r#""cut_text": "Maaf.""#, cut("Maaf.")),
            (r#""without_answer": "cut""#, cut("")),
            (r#""without_answer": "pass""#, passed(&DELTAS.concat())),
        ] {
            testing::answer_with(result.clone());
            assert_eq!(judged(settings, &[]), expected, "{settings} {why}");
            let (level, line) = testing::logged().remove(0);
            assert!(level == log::Level::Warn && line.contains(why), "{line}");
        }
    }
}

#[test]
fn no_more_is_held_than_may_be() {
    let settings = r#""max_held_bytes": 12"#;
    assert_eq!(judged(settings, &["ya", "tidak"]), cut("Satu dua. Tiga"));
}

#[test]
fn an_answer_without_text_asks_nothing() {
    testing::set_settings(r#"{"policy": "Sopan."}"#);
    assert_eq!(testing::respond::<Judge>(&[]), passed(""));
    assert_eq!(testing::asked(), []);
}

#[test]
#[should_panic(expected = "settings: policy is empty; say what an answer must keep to")]
fn a_policy_must_say_something() {
    testing::set_settings(r#"{"policy": " "}"#);
    testing::respond::<Judge>(&DELTAS);
}

#[test]
#[should_panic(expected = "settings: missing field `policy`")]
fn a_policy_must_be_there() {
    testing::set_settings("{}");
    testing::respond::<Judge>(&DELTAS);
}
