use gapura_plugin_sdk::{Role, ToolCall, testing};

use super::*;

/// What the plugin makes of an answer that comes in these pieces.
fn answer(settings: &str, pieces: &[&str]) -> String {
    testing::set_settings(settings);
    testing::respond::<PiiRedact>(pieces).0
}

fn redact(text: &str) -> String {
    answer("{}", &[text])
}

#[test]
fn identity_numbers() {
    assert_eq!(redact("NIK saya 3273010101900001."), "NIK saya [NIK].");
    // A woman's day of birth is 40 higher.
    assert_eq!(redact("NIK:3175034107850002,"), "NIK:[NIK],");
    assert_eq!(redact("(3273 0101 0190 0001)"), "([NIK])");
    assert_eq!(redact("32.73.01.010190.0001"), "[NIK]");
    assert_eq!(redact("nik3273010101900001"), "nik[NIK]");
}

#[test]
fn sixteen_digits_that_cannot_be_an_identity_number_stay() {
    for text in [
        "1073010101900001", // no province 10
        "3273013201900001", // day 32
        "3273013002900001", // 30 February
        "3273010113900001", // month 13
        "3273010101900000", // no serial number
        "32730101019000011",
        "327301010190000",
    ] {
        assert_eq!(answer(r#"{"kinds": ["nik"]}"#, &[text]), text);
    }
}

#[test]
fn phone_numbers() {
    for text in [
        "081234567890",
        "0812-3456-7890",
        "0812 3456 789",
        "+6281234567890",
        "+62 812-3456-7890",
        "+62 (812) 3456 7890",
        "+62 21 5550 1234",
        "+62 0812 3456 7890",
        "6281234567890",
    ] {
        assert_eq!(
            redact(&format!("Hubungi {text}, ya.")),
            "Hubungi [PHONE], ya.",
            "{text}"
        );
    }
    assert_eq!(redact("(0812) 3456-7890"), "([PHONE]");
    for text in [
        "+1 202 555 0143",
        "0812345",
        "08123456789012345",
        "62 orang",
        "2024",
    ] {
        assert_eq!(redact(text), text);
    }
}

#[test]
fn card_numbers_by_luhn() {
    assert_eq!(redact("Kartu 4111 1111 1111 1111 123"), "Kartu [CARD] 123");
    assert_eq!(redact("5500-0000-0000-0004"), "[CARD]");
    assert_eq!(redact("378282246310005"), "[CARD]");
    assert_eq!(redact("No 12 4111111111111111"), "No 12 [CARD]");
    for text in [
        "4111 1111 1111 1112",
        "9000000000000001",
        "41111111111111111111111",
    ] {
        assert_eq!(redact(text), text);
    }
}

#[test]
fn email_addresses() {
    assert_eq!(redact("budi@mail.com"), "[EMAIL]");
    assert_eq!(
        redact("Surel: budi.s+x@mail.co.id. Terima"),
        "Surel: [EMAIL]. Terima"
    );
    assert_eq!(redact("<08123456789@mail.com>"), "<[EMAIL]>");
    assert_eq!(
        redact("a@b.c @user user@ user@host x@-.com"),
        "a@b.c @user user@ user@host x@-.com"
    );
    assert_eq!(redact("budi@mail.com-"), "[EMAIL]-");
    assert_eq!(redact("budi@mail.com.123"), "[EMAIL].123");
    let long = format!("{}@mail.com", "x".repeat(65));
    assert_eq!(redact(&long), long);
}

#[test]
fn several_in_one_text() {
    assert_eq!(
        redact("081234567890 3273010101900001 budi@mail.com/4111111111111111"),
        "[PHONE] [NIK] [EMAIL]/[CARD]"
    );
}

/// Texts in which every kind starts, ends and fails in every way that the others show.
fn samples() -> Vec<String> {
    let mut samples: Vec<String> = [
        "Nama: Budi, NIK 3273010101900001, HP +62 812-3456-7890.",
        "budi.s@mail.co.id. 4111 1111 1111 1111 123",
        "é081234567890日本3273 0101 0190 0001é",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14",
        "+62 +62 0812 3456 7890 1 +",
        "a@b.c a..b@c.dd x@-.com y@z.co-m @@ 62@62.id",
        "(0812) 3456-7890 \u{a0} 62\u{a0}812\u{a0}3456\u{a0}7890",
        "41111111111111111111111 0812",
        "id_3273010101900001_x 550e8400-e29b-41d4-a716-446655440000",
    ]
    .map(str::to_owned)
    .to_vec();
    samples.push(format!("{}@mail.com 08123456789", "x".repeat(64)));
    samples.push(format!("a@{}.com", "x.".repeat(160)));
    samples
}

#[test]
fn every_split_point_gives_what_the_whole_gives() {
    for text in samples() {
        let whole = redact(&text);
        let ends: Vec<usize> = text
            .char_indices()
            .map(|(at, _)| at)
            .chain([text.len()])
            .collect();
        let single: Vec<&str> = ends.windows(2).map(|at| &text[at[0]..at[1]]).collect();
        assert_eq!(answer("{}", &single), whole, "one by one: {text}");
        for &at in &ends {
            assert_eq!(
                answer("{}", &[&text[..at], &text[at..]]),
                whole,
                "{at}: {text}"
            );
        }
    }
}

#[test]
fn every_pair_of_split_points_gives_what_the_whole_gives() {
    for text in samples().iter().filter(|text| text.len() < 80) {
        let whole = redact(text);
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        for &first in &ends {
            for &second in ends.iter().filter(|&&second| second > first) {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(answer("{}", &pieces), whole, "{pieces:?}");
            }
        }
    }
}

#[test]
fn ordinary_text_is_held_for_a_word_at_most() {
    let settings = Settings::default();
    let mut answer = HoldBack::new(Redactor::new(&settings));
    for word in ["Selamat ", "pagi, ", "Indonesia! ", "(Tahun) ", "baru — "] {
        assert_eq!(answer.push(word), word, "held {:?}", answer.held());
    }
    assert_eq!(answer.push("Tahun 2024"), "Tahun ");
    assert_eq!(answer.push(" dan"), "2024 ");
    assert_eq!(answer.held(), "dan");
    // Numbers in a row: as many digits as a card has, no more.
    for _ in 0..200 {
        answer.push("1 2 3 ");
        assert!(
            answer.held().len() <= number::LONGEST,
            "{}",
            answer.held().len()
        );
    }
    for _ in 0..200 {
        answer.push("abcdefgh");
        assert!(
            answer.held().len() <= email::LONGEST,
            "{}",
            answer.held().len()
        );
    }
}

#[test]
fn only_the_kinds_that_are_set() {
    let text = "3273010101900001 081234567890 a@mail.com 4111111111111111";
    let only = |kinds: &str| answer(&format!("{{\"kinds\": [{kinds}]}}"), &[text]);
    assert_eq!(
        only(r#""nik""#),
        "[NIK] 081234567890 a@mail.com 4111111111111111"
    );
    assert_eq!(
        only(r#""phone""#),
        "3273010101900001 [PHONE] a@mail.com 4111111111111111"
    );
    assert_eq!(
        only(r#""email""#),
        "3273010101900001 081234567890 [EMAIL] 4111111111111111"
    );
    assert_eq!(
        only(r#""card""#),
        "3273010101900001 081234567890 a@mail.com [CARD]"
    );
    assert_eq!(only(""), text);
}

#[test]
fn the_replacement_may_name_the_kind() {
    let settings = r#"{"replacement": "<{kind} disamarkan>"}"#;
    assert_eq!(answer(settings, &["a@mail.com"]), "<EMAIL disamarkan>");
    assert_eq!(answer(r#"{"replacement": "***"}"#, &["a@mail.com"]), "***");
    assert_eq!(
        answer(r#"{"replacement": ""}"#, &["x a@mail.com y"]),
        "x  y"
    );
}

#[test]
fn the_operators_own_contacts_stay() {
    let settings = r#"{"allow": ["Halo@Toko.id", "0812-0000-1111"]}"#;
    let text = "halo@toko.id atau 081200001111";
    assert_eq!(answer(settings, &[text]), text);
    assert_eq!(
        answer(settings, &["081200001112 x@toko.id"]),
        "[PHONE] [EMAIL]"
    );
}

#[test]
fn prompts_are_amended_in_every_part_and_call() {
    testing::set_settings("{}");
    let mut user = Message::user("NIK 3273010101900001");
    user.content.push("081234567890".to_owned());
    let mut assistant = Message::new(Role::Assistant, "baik");
    assistant.tool_calls = vec![ToolCall {
        id: "1".to_owned(),
        name: "cari".to_owned(),
        arguments: r#"{"surel": "a@mail.com"}"#.to_owned(),
    }];
    let verdict = PiiRedact::validate(testing::chat([user.clone(), assistant.clone()]));
    user.content = vec!["NIK [NIK]".to_owned(), "[PHONE]".to_owned()];
    assistant.tool_calls[0].arguments = r#"{"surel": "[EMAIL]"}"#.to_owned();
    assert_eq!(verdict, Ok(Verdict::amend_messages(vec![user, assistant])));
    assert_eq!(
        testing::logged(),
        [(
            log::Level::Info,
            "redacted in the prompt: 1 NIK, 1 PHONE, 1 EMAIL".to_owned()
        )]
    );
}

#[test]
fn a_prompt_without_finds_is_accepted() {
    testing::set_settings("{}");
    let verdict = PiiRedact::validate(testing::chat([Message::user("Halo 2024!")]));
    assert_eq!(verdict, Ok(Verdict::Accept));
}

#[test]
fn each_side_can_be_left_alone() {
    let chat = || testing::chat([Message::user("a@mail.com")]);
    assert_eq!(
        answer(r#"{"side": "prompt"}"#, &["a@mail", ".com"]),
        "a@mail.com"
    );
    assert!(matches!(PiiRedact::validate(chat()), Ok(Verdict::Amend(_))));
    assert_eq!(
        answer(r#"{"side": "answer"}"#, &["a@mail", ".com"]),
        "[EMAIL]"
    );
    assert_eq!(PiiRedact::validate(chat()), Ok(Verdict::Accept));
}
