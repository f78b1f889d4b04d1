use gapura_plugin_sdk::{Message, Reply, Role, ToolCall, testing};

use super::*;

/// A greedy request of its own call.
fn chat(id: &str, text: &str) -> Chat {
    let mut chat = testing::chat([Message::user(text)]);
    chat.call_id = id.to_owned();
    chat.sampling.temperature = Some(0.0);
    chat
}

fn context(chat: &Chat) -> Context {
    Context {
        call_id: chat.call_id.clone(),
        tenant: chat.tenant.clone(),
        ..testing::context()
    }
}

/// What the validator answers, if anything.
fn kept(chat: &Chat) -> Option<String> {
    match AnswerCache::validate(chat.clone()).unwrap() {
        Verdict::Accept => None,
        Verdict::Answer(Reply {
            text,
            finish: FinishReason::Stop,
        }) => Some(text),
        other => panic!("{other:?}"),
    }
}

/// The whole way of a request: from memory, or from a model that says `deltas`.
fn ask(chat: &Chat, deltas: &[&str], reason: FinishReason) -> String {
    match kept(chat) {
        Some(text) => testing::respond_in::<AnswerCache>(context(chat), &[&text], reason).0,
        None => testing::respond_in::<AnswerCache>(context(chat), deltas, reason).0,
    }
}

#[test]
fn the_second_time_the_answer_comes_from_memory() {
    assert_eq!(
        ask(&chat("1", "Halo?"), &["Ha", "lo."], FinishReason::Stop),
        "Halo."
    );
    assert_eq!(
        ask(&chat("2", "Halo?"), &["?"], FinishReason::Stop),
        "Halo."
    );
    assert_eq!(
        ask(&chat("3", "Hai?"), &["Hai."], FinishReason::Stop),
        "Hai."
    );
    let counted = ["hits", "misses", "stored", "not_cacheable"].map(testing::counted);
    assert_eq!(counted, [1, 2, 2, 0]);
}

#[test]
fn an_answer_is_kept_for_its_time_and_hits_do_not_lengthen_it() {
    testing::set_settings(r#"{"ttl_seconds": 10}"#);
    ask(&chat("1", "Halo?"), &["Halo."], FinishReason::Stop);
    testing::advance(Duration::from_secs(9));
    assert_eq!(
        ask(&chat("2", "Halo?"), &["?"], FinishReason::Stop),
        "Halo."
    );
    testing::advance(Duration::from_secs(1));
    assert_eq!(kept(&chat("3", "Halo?")), None);
}

#[test]
fn what_would_not_come_again_is_not_kept() {
    let mut drawn = chat("1", "Halo?");
    for temperature in [None, Some(0.7)] {
        drawn.sampling.temperature = temperature;
        ask(&drawn, &["Halo."], FinishReason::Stop);
        assert_eq!(kept(&drawn), None);
    }
    assert_eq!(testing::counted("not_cacheable"), 4);
    drawn.sampling.seed = Some(7);
    ask(&drawn, &["Halo."], FinishReason::Stop);
    assert_eq!(kept(&drawn), Some("Halo.".to_owned()));
}

#[test]
fn only_whole_answers_are_kept() {
    for reason in [
        FinishReason::Length,
        FinishReason::ContentFilter,
        FinishReason::ToolCalls,
    ] {
        ask(&chat("1", "Halo?"), &["Halo."], reason);
        assert_eq!(kept(&chat("1", "Halo?")), None);
    }
    ask(&chat("1", "Halo?"), &[], FinishReason::Stop);
    assert_eq!(kept(&chat("1", "Halo?")), None);
    // An answer that a plugin cut, or whose client left, is dropped without an end.
    let one = chat("2", "Cut?");
    assert_eq!(kept(&one), None);
    let mut responder = AnswerCache::new(context(&one));
    let delta = Delta {
        text: "Halo.".to_owned(),
        token_ids: Vec::new(),
        logprobs: Vec::new(),
    };
    responder.push(delta);
    drop(responder);
    assert_eq!(kept(&one), None);
}

#[test]
fn a_long_answer_passes_and_is_not_kept() {
    let half = "x".repeat(MAX_ANSWER_BYTES / 2 + 1);
    let one = chat("1", "Panjang?");
    let answer = ask(&one, &[&half, &half, "y"], FinishReason::Stop);
    assert_eq!(answer.len(), 2 * half.len() + 1);
    assert_eq!(kept(&one), None);
}

#[test]
fn the_first_of_several_answers_is_kept() {
    let one = chat("1", "Halo?");
    assert_eq!(kept(&one), None);
    for (choice, text) in [(1, "Dua."), (0, "Satu."), (2, "Tiga.")] {
        let context = Context {
            choice,
            ..context(&one)
        };
        testing::respond_in::<AnswerCache>(context, &[text], FinishReason::Stop);
    }
    assert_eq!(kept(&one), Some("Satu.".to_owned()));
}

#[test]
fn tenants_have_their_own_unless_they_share() {
    let of = |id: &str, tenant: Option<&str>| Chat {
        tenant: tenant.map(str::to_owned),
        ..chat(id, "Halo?")
    };
    ask(&of("1", Some("a")), &["Halo, a."], FinishReason::Stop);
    assert_eq!(kept(&of("2", Some("a"))), Some("Halo, a.".to_owned()));
    assert_eq!(kept(&of("3", Some("b"))), None);
    assert_eq!(kept(&of("4", None)), None);

    testing::set_settings(r#"{"shared": true}"#);
    ask(&of("5", Some("a")), &["Halo."], FinishReason::Stop);
    assert_eq!(kept(&of("6", Some("b"))), Some("Halo.".to_owned()));
}

/// Clients choose request ids, and may choose that of another: calls are told apart all the same.
#[test]
fn requests_of_one_id_each_keep_their_own() {
    let of = |call: &str, text: &str| Chat {
        request_id: "same".to_owned(),
        ..chat(call, text)
    };
    let (one, two) = (of("1", "Satu?"), of("2", "Dua?"));
    assert_eq!((kept(&one), kept(&two)), (None, None));
    for (of, text) in [(&two, "Dua."), (&one, "Satu.")] {
        testing::respond_in::<AnswerCache>(context(of), &[text], FinishReason::Stop);
    }
    let answers = (kept(&of("3", "Satu?")), kept(&of("4", "Dua?")));
    assert_eq!(answers, (Some("Satu.".to_owned()), Some("Dua.".to_owned())));
}

#[test]
fn a_key_that_was_left_is_taken_once() {
    let one = chat("1", "Satu?");
    assert_eq!(kept(&one), None);
    for text in ["Satu.", "Dua."] {
        testing::respond_in::<AnswerCache>(context(&one), &[text], FinishReason::Stop);
    }
    assert_eq!(kept(&one), Some("Satu.".to_owned()));
}

#[test]
fn whatever_the_answer_depends_on_is_in_the_key() {
    let base = || chat("1", "ab");
    let with = |change: fn(&mut Chat)| {
        let mut chat = base();
        change(&mut chat);
        key::of(&chat, false)
    };
    let keys = [
        with(|_| {}),
        with(|chat| chat.model.push('x')),
        with(|chat| chat.tenant = Some(String::new())),
        with(|chat| chat.extra = r#"{"metadata":{"k":"v"}}"#.to_owned()),
        with(|chat| chat.messages[0].content = vec!["a".to_owned(), "b".to_owned()]),
        with(|chat| chat.messages[0].role = Role::Assistant),
        with(|chat| chat.messages[0].name = Some(String::new())),
        with(|chat| chat.messages[0].tool_call_id = Some(String::new())),
        with(|chat| {
            chat.messages[0].tool_calls = vec![ToolCall {
                id: "i".to_owned(),
                name: "n".to_owned(),
                arguments: "{}".to_owned(),
            }];
        }),
        with(|chat| chat.messages.push(Message::user(""))),
        with(|chat| chat.sampling.max_tokens = Some(0)),
        with(|chat| chat.sampling.temperature = Some(1.0)),
        with(|chat| chat.sampling.top_p = Some(0.0)),
        with(|chat| chat.sampling.top_k = Some(0)),
        with(|chat| chat.sampling.min_p = Some(0.0)),
        with(|chat| chat.sampling.seed = Some(0)),
        with(|chat| chat.sampling.stop = vec![String::new()]),
        with(|chat| chat.sampling.presence_penalty = Some(0.0)),
        with(|chat| chat.sampling.frequency_penalty = Some(0.0)),
        with(|chat| chat.sampling.repetition_penalty = Some(0.0)),
    ];
    let distinct: std::collections::BTreeSet<&String> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
    // What it does not depend on is not.
    for change in [
        (|chat| chat.request_id.push('x')) as fn(&mut Chat),
        |chat| chat.call_id.push('x'),
        |chat| chat.stream = !chat.stream,
        |chat| chat.extra = r#"{"user":"u"}"#.to_owned(),
    ] {
        assert_eq!(with(change), keys[0]);
    }
    let order = |json: &str| Chat {
        extra: json.to_owned(),
        ..base()
    };
    assert_eq!(
        key::of(&order(r#"{"a":1,"b":2}"#), false),
        key::of(&order(r#"{"b":2,"a":1}"#), false)
    );
}

#[test]
fn no_time_at_all_is_a_failure_that_says_what_to_do() {
    testing::set_settings(r#"{"ttl_seconds": 0}"#);
    let failure = AnswerCache::validate(chat("1", "Halo?")).unwrap_err();
    assert!(failure.message.starts_with("settings: ttl_seconds is 0"));
}
