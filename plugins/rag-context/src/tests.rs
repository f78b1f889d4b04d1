use gapura_plugin_sdk::testing;
use serde_json::{Value, json};

use super::*;

fn documents() -> Value {
    json!([
        {"id": "a", "title": "Monas", "text": "Monas setinggi 132 meter. "},
        {"text": "Monas ada di Jakarta Pusat."},
    ])
}

fn in_metadata(documents: &Value) -> Value {
    json!({"metadata": {"documents": documents.to_string()}})
}

fn validate(settings: &str, extra: &Value, messages: &[Message]) -> Verdict {
    testing::set_settings(settings);
    let chat = Chat {
        extra: extra.to_string(),
        ..testing::chat(messages.iter().cloned())
    };
    RagContext::validate(chat).unwrap()
}

fn answer(settings: &str, extra: &Value, pieces: &[&str]) -> (String, FinishReason) {
    testing::set_settings(settings);
    let context = Context {
        extra: extra.to_string(),
        ..testing::context()
    };
    testing::respond_in::<RagContext>(context, pieces, FinishReason::Stop)
}

fn cited(text: &str) -> String {
    answer("{}", &in_metadata(&documents()), &[text]).0
}

fn refusal(settings: &str, extra: &Value) -> Refusal {
    match validate(settings, extra, &[Message::user("Tinggi Monas?")]) {
        Verdict::Refuse(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn sources_stand_behind_the_routes_instructions() {
    let messages = [
        Message::system("Kamu Sari."),
        Message::user("Tinggi Monas?"),
    ];
    let [system, user] = messages.clone();
    for extra in [
        in_metadata(&documents()),
        json!({"context_documents": documents(), "user": "u"}),
    ] {
        let verdict = validate(r#"{"instruction": "Sebut nomor."}"#, &extra, &messages);
        let sources = Message::system(
            "Sebut nomor.\n\n[1] Monas\nMonas setinggi 132 meter.\n\n\
             [2]\nMonas ada di Jakarta Pusat.",
        );
        let expected = vec![system.clone(), sources, user.clone()];
        assert_eq!(verdict, Verdict::amend_messages(expected));
    }
}

#[test]
fn what_does_not_fit_is_left_out_and_the_numbers_follow() {
    let extra = in_metadata(&json!([
        {"text": "satu dua tiga empat lima enam"},
        {"text": "tujuh delapan"},
        {"text": "sembilan"},
    ]));
    let settings = r#"{"max_tokens": 5, "instruction": "I"}"#;
    let verdict = validate(settings, &extra, &[Message::user("?")]);
    let sources = Message::system("I\n\n[1]\ntujuh delapan\n\n[2]\nsembilan");
    assert_eq!(
        verdict,
        Verdict::amend_messages(vec![sources, Message::user("?")])
    );
    assert_eq!(answer(settings, &extra, &["a [2] b [3]."]).0, "a [2] b.");
}

#[test]
fn requests_without_documents_pass_or_are_told_what_to_send() {
    let user = [Message::user("Halo [7]")];
    assert_eq!(validate("{}", &json!({}), &user), Verdict::Accept);
    assert_eq!(
        validate("{}", &in_metadata(&json!([])), &user),
        Verdict::Accept
    );
    assert_eq!(answer("{}", &json!({}), &["a [7]", " b"]).0, "a [7] b");
    let refusal = refusal(r#"{"required": true}"#, &json!({"user": "u"}));
    assert_eq!(
        (refusal.status, &*refusal.code),
        (400, "documents_required")
    );
}

#[test]
fn what_is_no_list_of_documents_is_refused_by_field() {
    let at = |extra: &Value| {
        let refusal = refusal("{}", extra);
        assert_eq!(refusal.code, "documents_invalid");
        (refusal.param.unwrap(), refusal.message)
    };
    for (documents, problem) in [
        (
            json!({"text": "a"}),
            "cannot be read: invalid type: map, expected a sequence",
        ),
        (
            json!([{"title": "a"}]),
            "cannot be read: missing field `text`",
        ),
        (
            json!([{"text": "a", "url": "b"}]),
            "cannot be read: unknown field `url`",
        ),
        (
            json!([{"text": "a"}, {"text": " "}]),
            "has no text in document 1",
        ),
        (
            json!(vec![json!({"text": "a"}); 100]),
            "has 100 documents, at most 99",
        ),
    ] {
        for (extra, field) in [
            (in_metadata(&documents), "metadata.documents"),
            (json!({"context_documents": documents}), "context_documents"),
        ] {
            let (param, message) = at(&extra);
            assert_eq!(param, field);
            assert!(
                message.starts_with(&format!("{field} {problem}")),
                "{message}"
            );
        }
    }
    let both = json!({"metadata": {"documents": "[]"}, "context_documents": []});
    assert!(at(&both).1.contains("send one of them"));
    let broken = json!({"metadata": {"documents": "[{"}});
    assert!(
        at(&broken)
            .1
            .starts_with("metadata.documents cannot be read: EOF")
    );
    let long = refusal(r#"{"max_tokens": 1}"#, &in_metadata(&documents()));
    assert_eq!(long.code, "documents_too_long");
}

#[test]
fn citations_of_sources_stay_and_others_go() {
    for (text, expected) in [
        ("132 meter [1].", "132 meter [1]."),
        (
            "132 meter[2], di Jakarta [1, 2]",
            "132 meter[2], di Jakarta [1, 2]",
        ),
        ("132 meter [3].", "132 meter."),
        ("132 meter[0]!", "132 meter!"),
        ("a [1][9] b", "a [1] b"),
        ("a [9][1] b", "a[1] b"),
        ("a [1, 9,2 ] b", "a [1, 2] b"),
        ("a [12] [999] b", "a b"),
        ("[7] a", " a"),
    ] {
        assert_eq!(cited(text), expected);
    }
    assert_eq!(
        testing::logged().last().unwrap().1,
        "citations of sources that are not there: 1 removed"
    );
}

#[test]
fn what_is_no_citation_stays() {
    for text in [
        "[a] [1a] [] [,] [1,] [,1] [1 2 [ 3",
        "[2024] [1.5] [-1] [[x]] [",
        "kata  dengan   spasi ",
        "é [日] [",
        "[1,                                                  9]",
    ] {
        assert_eq!(cited(text), text);
    }
}

#[test]
fn every_split_gives_what_the_whole_gives() {
    let extra = in_metadata(&documents());
    for settings in ["{}", r#"{"unknown": "cut"}"#] {
        for text in [
            "Tinggi [1], kota [2]; ketiga [3] dan [1, 9].",
            "é [12] [1][9]  [ 7 ]日[2024] [7",
            "[1,                                                 9] [9",
        ] {
            let whole = answer(settings, &extra, &[text]);
            let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            for &first in &ends {
                for &second in ends.iter().filter(|&&second| second >= first) {
                    let pieces = [&text[..first], &text[first..second], &text[second..]];
                    assert_eq!(answer(settings, &extra, &pieces), whole, "{pieces:?}");
                }
            }
        }
    }
}

#[test]
fn an_unknown_source_may_end_the_answer() {
    let extra = in_metadata(&documents());
    let settings = r#"{"unknown": "cut"}"#;
    assert_eq!(
        answer(
            settings,
            &extra,
            &["Tinggi [1", "], lebar [", "3] dan [1]", " lagi"]
        ),
        ("Tinggi [1], lebar".to_owned(), FinishReason::ContentFilter)
    );
    assert_eq!(
        answer(settings, &extra, &["Tinggi [1]."]),
        ("Tinggi [1].".to_owned(), FinishReason::Stop)
    );
}

#[test]
fn words_pass_at_once() {
    let mut answer = HoldBack::new(Citations::new(2, false));
    for word in ["Monas", " setinggi", " 132", " meter", ".\n"] {
        assert_eq!(answer.push(word), word);
    }
    assert_eq!(answer.push(" ada [1"), " ada");
    assert_eq!(answer.held(), " [1");
}
