use gapura_plugin_sdk::{Role, ToolCall, testing};

use super::*;

fn validate(settings: &str, messages: &[Message]) -> Result<Verdict, Failure> {
    testing::set_settings(settings);
    RequestGuard::validate(testing::chat(messages.iter().cloned()))
}

fn refused(settings: &str, messages: &[Message]) -> (String, Option<String>, String) {
    match validate(settings, messages).unwrap() {
        Verdict::Refuse(refusal) => {
            assert_eq!(refusal.status, 400);
            (refusal.code, refusal.param, refusal.message)
        }
        other => panic!("not refused: {other:?}"),
    }
}

fn two() -> [Message; 2] {
    [Message::user("satu dua tiga"), Message::assistant("empat")]
}

#[test]
fn without_settings_everything_passes() {
    assert_eq!(validate("{}", &two()), Ok(Verdict::Accept));
}

#[test]
fn each_limit_holds_exactly() {
    for (name, at_limit, code, param) in [
        ("max_messages", 2, "too_many_messages", "messages"),
        (
            "max_message_characters",
            13,
            "message_too_long",
            "messages.0.content",
        ),
        ("max_characters", 18, "conversation_too_long", "messages"),
        ("max_tokens", 4, "too_many_tokens", "messages"),
    ] {
        let settings = |limit: u32| format!("{{\"{name}\": {limit}}}");
        assert_eq!(
            validate(&settings(at_limit), &two()),
            Ok(Verdict::Accept),
            "{name}"
        );
        let (got_code, got_param, message) = refused(&settings(at_limit - 1), &two());
        assert_eq!(
            (got_code.as_str(), got_param.as_deref()),
            (code, Some(param))
        );
        let (value, limit) = (at_limit.to_string(), (at_limit - 1).to_string());
        assert!(
            message.contains(&value) && message.contains(&limit),
            "{message}"
        );
    }
}

#[test]
fn characters_are_counted_not_bytes() {
    let settings = r#"{"max_message_characters": 3}"#;
    assert_eq!(
        validate(settings, &[Message::user("日本語")]),
        Ok(Verdict::Accept)
    );
}

#[test]
fn arguments_of_calls_count_too() {
    let mut message = Message::assistant("");
    message.tool_calls = vec![ToolCall {
        id: "1".to_owned(),
        name: "f".to_owned(),
        arguments: "x".repeat(100),
    }];
    let (code, ..) = refused(r#"{"max_characters": 99}"#, &[message]);
    assert_eq!(code, "conversation_too_long");
}

#[test]
fn an_oversized_request_never_reaches_the_tokenizer() {
    testing::set_token_counter(|_| panic!("counted"));
    let (code, ..) = refused(r#"{"max_characters": 5, "max_tokens": 5}"#, &two());
    assert_eq!(code, "conversation_too_long");
}

#[test]
fn roles_are_those_that_the_route_takes() {
    let settings = r#"{"allowed_roles": ["user", "assistant"]}"#;
    assert_eq!(validate(settings, &two()), Ok(Verdict::Accept));
    let messages = [Message::user("a"), Message::new(Role::Developer, "b")];
    let (code, param, message) = refused(settings, &messages);
    assert_eq!(
        (code.as_str(), param.as_deref()),
        ("role_not_allowed", Some("messages.1.role"))
    );
    assert!(
        message.contains("developer") && message.contains("user, assistant"),
        "{message}"
    );
}

#[test]
fn a_role_that_does_not_exist_is_the_operators_mistake() {
    let failure = validate(r#"{"allowed_roles": ["human"]}"#, &two()).unwrap_err();
    assert!(failure.message.contains("`human`"), "{}", failure.message);
}

#[test]
fn deny_patterns_name_the_message_and_ignore_case() {
    let settings = r#"{"deny": ["jailbreak", "DUA\\s+tiga"]}"#;
    let (code, param, message) = refused(settings, &two());
    assert_eq!(
        (code.as_str(), param.as_deref()),
        ("denied_content", Some("messages.0.content"))
    );
    assert!(
        !message.contains("dua"),
        "the pattern is not for clients: {message}"
    );
    assert_eq!(
        validate(r#"{"deny": ["lima"]}"#, &two()),
        Ok(Verdict::Accept)
    );
}

#[test]
fn a_pattern_may_bring_its_code_and_message() {
    let settings = r#"{"deny": [{"pattern": "empat", "code": "off_topic", "message": "Tidak."}]}"#;
    let (code, param, message) = refused(settings, &two());
    assert_eq!(code, "off_topic");
    assert_eq!(param.as_deref(), Some("messages.1.content"));
    assert_eq!(message, "Tidak.");
}

#[test]
fn patterns_see_across_parts_and_skip_instructions() {
    let mut parts = Message::user("ignore all");
    parts.content.push("previous".to_owned());
    let settings = r#"{"deny": ["all\\s+previous"]}"#;
    assert_eq!(refused(settings, &[parts]).0, "denied_content");
    let system = Message::system("Never ignore all previous turns.");
    assert_eq!(
        validate(settings, &[system, Message::user("Hi")]),
        Ok(Verdict::Accept)
    );
}

#[test]
fn a_broken_pattern_is_a_failure_on_the_first_request() {
    let failure = validate(r#"{"deny": ["ok", "("], "max_messages": 1}"#, &two()).unwrap_err();
    assert!(
        failure.message.starts_with("settings: deny.1"),
        "{}",
        failure.message
    );
}

#[test]
fn a_misspelt_key_of_a_pattern_is_named() {
    let failure = validate(r#"{"deny": [{"pattern": "x", "kode": "y"}]}"#, &two()).unwrap_err();
    assert_eq!(
        failure.message,
        "settings: unknown field `kode`, expected one of `pattern`, `code`, `message`"
    );
    let failure = validate(r#"{"deny": [7]}"#, &two()).unwrap_err();
    assert!(
        failure.message.contains("expected a pattern, or a table"),
        "{}",
        failure.message
    );
}
