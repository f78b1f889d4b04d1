use gapura_plugin_sdk::testing;

use super::*;
use crate::language::Language;

fn verdict(settings: &str, messages: &[Message]) -> Result<Verdict, Failure> {
    testing::set_settings(settings);
    Router::validate(testing::chat(messages.iter().cloned()))
}

/// Where a chat of this one message goes.
fn route(settings: &str, text: &str) -> Option<String> {
    match verdict(settings, &[Message::user(text)]).unwrap() {
        Verdict::Accept => None,
        Verdict::Reroute(route) => Some(route),
        other => panic!("{other:?}"),
    }
}

fn language(text: &str) -> Option<Language> {
    language::of(&rule::spaced(text))
}

#[test]
fn sentences_of_four_languages() {
    for (expected, sentences) in [
        (
            Language::Id,
            [
                "Bagaimana cara membuat rendang yang enak?",
                "Saya ingin tahu jadwal kereta dari Jakarta ke Bandung besok pagi.",
                "Tolong jelaskan fotosintesis dengan kata yang mudah.",
                "Berapa harga tiket untuk dua orang?",
                "Apa ibu kota Indonesia?",
            ],
        ),
        (
            Language::Jv,
            [
                "Piye carane gawe gudeg sing enak?",
                "Aku arep lunga menyang Solo karo kancaku.",
                "Kula badhe tanglet, pundi dalan dhateng Malioboro?",
                "Sapa sing nulis Serat Wedhatama iku?",
                "Wis mangan apa durung?",
            ],
        ),
        (
            Language::Su,
            [
                "Kumaha carana nyieun surabi anu ngeunah?",
                "Abdi hoyong terang naon hartina ieu kecap.",
                "Saha nu nulis carita Lutung Kasarung téh?",
                "Urang Sunda mah resep pisan kana lalab.",
                "Ti Bandung ka Garut sabaraha jam?",
            ],
        ),
        (
            Language::En,
            [
                "How do I cook rendang?",
                "Please explain photosynthesis in simple words.",
                "What is the capital of Indonesia?",
                "Write a poem about the rain in Bogor.",
                "Is it going to rain?",
            ],
        ),
    ] {
        for sentence in sentences {
            assert_eq!(language(sentence), Some(expected), "{sentence}");
        }
    }
}

#[test]
fn a_text_without_small_words_or_with_as_many_of_two_has_no_language() {
    for text in ["", "Borobudur 1991", "fn main() {}", "aku"] {
        assert_eq!(language(text), None, "{text}");
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let settings = r#"{"rules": [
        {"route": "kode", "keywords": ["rust", "kode program"]},
        {"route": "daerah", "language": ["jv", "su"]},
        {"route": "panjang", "min_tokens": 6},
        {"route": "sapaan", "max_tokens": 1}
    ], "default": "umum"}"#;
    let of = |text: &str| route(settings, text).unwrap();
    assert_eq!(of("Piye carane sinau Rust?"), "kode");
    assert_eq!(of("Tulis KODE, program apa saja."), "kode");
    assert_eq!(of("Piye carane gawe gudeg sing enak?"), "daerah");
    assert_eq!(of("Saya ingin tahu jadwal kereta besok"), "panjang");
    assert_eq!(of("Halo!"), "sapaan");
    assert_eq!(of("Apa kabar?"), "umum");
}

#[test]
fn a_keyword_is_a_whole_word() {
    let settings = r#"{"rules": [{"route": "kode", "keywords": ["rust", "C++", "ogé"]}]}"#;
    assert_eq!(route(settings, "Kapal ini rusty dan trust"), None);
    assert!(route(settings, "(RUST)").is_some());
    assert!(route(settings, "OGÉ").is_some());
    assert!(route(settings, "bahasa C").is_some());
}

#[test]
fn all_conditions_of_a_rule_must_hold() {
    let settings = r#"{"rules": [
        {"route": "r", "language": ["en"], "keywords": ["rain"], "min_tokens": 3, "max_tokens": 5}
    ]}"#;
    assert!(route(settings, "Is the rain near?").is_some());
    for text in [
        "Apakah rain itu hujan?",
        "Is the sun near?",
        "The rain",
        "Is the rain of today near?",
    ] {
        assert_eq!(route(settings, text), None, "{text}");
    }
}

#[test]
fn words_are_the_last_users_and_length_is_the_conversations() {
    let messages = [
        Message::user("Piye kabare, rust?"),
        Message::assistant("Apik."),
        Message::user("What is the time?"),
    ];
    let of = |rule: &str| {
        let settings = format!("{{\"rules\": [{{\"route\": \"r\", {rule}}}]}}");
        verdict(&settings, &messages).unwrap() != Verdict::Accept
    };
    assert!(of(r#""language": ["en"]"#));
    assert!(!of(r#""keywords": ["rust"]"#));
    assert!(of(r#""min_tokens": 8"#));
    assert!(!of(r#""min_tokens": 9"#));
}

#[test]
fn tokens_are_counted_once_and_only_for_a_rule_that_asks() {
    use std::cell::Cell;
    let counted = Cell::new(0);
    let count = || {
        counted.set(counted.get() + 1);
        1
    };
    let subject = Subject::new("Halo", count);
    let rule = |json: &str| serde_json::from_str::<Rule>(json).unwrap();
    rule(r#"{"keywords": ["rust"], "min_tokens": 1}"#).matches(&subject);
    assert_eq!(counted.get(), 0);
    rule(r#"{"min_tokens": 2}"#).matches(&subject);
    rule(r#"{"max_tokens": 2}"#).matches(&subject);
    assert_eq!(counted.get(), 1);
}

#[test]
fn a_chat_that_is_where_it_should_be_stays() {
    let settings = r#"{"rules": [{"route": "test-route", "max_tokens": 9}], "default": "umum"}"#;
    assert_eq!(route(settings, "Halo!"), None);
    assert_eq!(route("{}", "Halo!"), None);
}

#[test]
fn wrong_settings_name_the_field() {
    for (settings, expected) in [
        (
            r#"{"rules": [{"max_tokens": 1}]}"#,
            "rules.0.route is empty",
        ),
        (
            r#"{"rules": [{"route": "a", "max_tokens": 1}, {"route": "b"}]}"#,
            "rules.1.route is all that is set",
        ),
        (
            r#"{"rules": [{"route": "a", "language": []}]}"#,
            "rules.0.language is empty",
        ),
        (
            r#"{"rules": [{"route": "a", "min_tokens": 5, "max_tokens": 4}]}"#,
            "rules.0.max_tokens is 4, less than min_tokens, 5",
        ),
        (
            r#"{"rules": [{"route": "a", "keywords": []}]}"#,
            "rules.0.keywords is empty",
        ),
        (
            r#"{"rules": [{"route": "a", "keywords": ["x", "?!"]}]}"#,
            "rules.0.keywords.1 has no letter and no digit",
        ),
        (r#"{"default": " "}"#, "default is empty"),
        (
            r#"{"rules": [{"route": "a", "language": ["fr"]}]}"#,
            "unknown variant `fr`, expected one of `id`, `jv`, `su`, `en`",
        ),
        (
            r#"{"rules": [{"route": "a", "keyword": "x"}]}"#,
            "unknown field `keyword`, expected one of `route`",
        ),
    ] {
        let message = verdict(settings, &[Message::user("Halo!")])
            .unwrap_err()
            .message;
        assert!(
            message.starts_with(&format!("settings: {expected}")),
            "{message}"
        );
    }
}
