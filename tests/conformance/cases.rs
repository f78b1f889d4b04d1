//! The cases, by stage.

use std::time::Duration;

use gapura_plugin_runtime::{
    Chat, Completion, Delta, FailureKind, FinishReason, HttpError, HttpMethod, HttpRequest,
    HttpResponse, KV_ENTRY_BYTES, ModelAnswer, ModelError, Output, Prompt, Question, Rendered,
    Segment, Summary, Validated,
};

use crate::describe;
use crate::host::{Guest, MEMORY_BYTES, settings};
use crate::values::{REASONS, TEXTS, bare, context, delta, full, grammars, refusal};

async fn judge(guest: &Guest, chat: Chat) -> Validated {
    let seen = format!("{:?}", chat.messages.last());
    let verdict = guest.start().validate(chat).await;
    verdict.unwrap_or_else(|failure| panic!("{seen}: {failure}"))
}

/// What the guest answers to a command.
async fn answer(guest: &Guest, chat: Chat) -> (String, FinishReason) {
    match judge(guest, chat).await {
        Validated::Answered { text, finish, .. } => (text, finish),
        other => panic!("no answer: {other:?}"),
    }
}

async fn told(guest: &Guest, command: &[&str]) -> String {
    answer(guest, bare(command)).await.0
}

pub(crate) async fn validate(guest: &Guest) {
    for make in [bare, full] {
        let chat = make(&["describe"]);
        assert_eq!(
            answer(guest, chat.clone()).await,
            (describe::chat(&chat), FinishReason::Stop)
        );
        for command in ["accept", "mirror", "amend-sampling", "amend-nothing"] {
            let chat = make(&[command]);
            assert_eq!(
                judge(guest, chat.clone()).await,
                Validated::Continue(chat),
                "{command}"
            );
        }
    }
    let chat = full(&["amend-messages"]);
    let mut amended = chat.clone();
    amended.messages.pop();
    assert_eq!(judge(guest, chat).await, Validated::Continue(amended));

    for param in [None, Some(""), Some("messages.0.content")] {
        let mut command = vec!["refuse", "429", "sibuk", "coba lagi ✋"];
        command.extend(param);
        match judge(guest, bare(&command)).await {
            Validated::Refused { refusal: got, .. } => assert_eq!(got, refusal(param)),
            other => panic!("no refusal: {other:?}"),
        }
    }
    for (finish, text) in REASONS.into_iter().zip(TEXTS) {
        let chat = bare(&["answer", describe::reason(finish), text]);
        assert_eq!(answer(guest, chat).await, (text.to_owned(), finish));
    }
    match judge(guest, bare(&["reroute", "lain"])).await {
        Validated::Rerouted { route, .. } => assert_eq!(route, "lain"),
        other => panic!("no reroute: {other:?}"),
    }
    let failure = guest.start().validate(bare(&["fail", "rusak 💥"])).await;
    let failure = failure.expect_err("a failure");
    assert_eq!(failure.kind, FailureKind::Declined);
    assert!(failure.message.contains("rusak 💥"), "{failure}");
    // A plugin that failed is none the worse for the next request.
    assert_eq!(
        judge(guest, bare(&["accept"])).await,
        Validated::Continue(bare(&["accept"]))
    );
}

pub(crate) async fn imports(guest: &Guest) {
    assert_eq!(told(guest, &["config"]).await, settings().to_string());
    assert_eq!(told(guest, &["count", "satu dua  tiga"]).await, "3");
    assert_eq!(told(guest, &["count", ""]).await, "0");
    for (level, text) in ["debug", "info", "warn", "error"].into_iter().zip(TEXTS) {
        let chat = bare(&["log", level, text]);
        assert_eq!(judge(guest, chat.clone()).await, Validated::Continue(chat));
    }

    judge(guest, bare(&["add", "seen_total", "3000000000"])).await;
    judge(guest, bare(&["observe", "length_ratio", "-1500"])).await;
    assert_eq!(
        guest.values.take(),
        ["seen_total +3000000000", "length_ratio -1.5"]
    );

    for text in TEXTS {
        assert_eq!(told(guest, &["remember", "kunci", text]).await, "kept");
        assert_eq!(told(guest, &["recall", "kunci"]).await, format!("={text}"));
    }
    assert_eq!(
        told(guest, &["remember", "lekas", "x", "60000"]).await,
        "kept"
    );
    assert_eq!(told(guest, &["recall", "lekas"]).await, "=x");
    assert_eq!(told(guest, &["remember", "lekas", "x", "0"]).await, "kept");
    assert_eq!(told(guest, &["recall", "lekas"]).await, "-");
    assert_eq!(told(guest, &["forget", "kunci"]).await, "true");
    assert_eq!(told(guest, &["forget", "kunci"]).await, "false");
    let long = "x".repeat(KV_ENTRY_BYTES as usize);
    let said = told(guest, &["remember", "kunci", &long]).await;
    assert_eq!(said, format!("too-large:{KV_ENTRY_BYTES}"));

    assert_eq!(told(guest, &["time"]).await, "1760000000005 7000000123");
    let random = told(guest, &["random", "9"]).await;
    let bits = u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8]) >> 11;
    assert_eq!(random, format!("010203040506070809 {bits}"));
    questions(guest).await;
    http_requests(guest).await;
}

async fn questions(guest: &Guest) {
    for (kind, grammar) in grammars() {
        let chat = full(&["ask", kind, "isi"]);
        let mut messages = chat.messages.clone();
        messages.pop();
        guest.model.will_answer(Ok(ModelAnswer {
            text: "ya 🙂".to_owned(),
            finish: FinishReason::Length,
            prompt_tokens: 12,
            completion_tokens: 7,
        }));
        assert_eq!(answer(guest, chat).await.0, "ya 🙂|length|12|7");
        let question = Question {
            messages,
            max_tokens: 7,
            temperature: 0.5,
            grammar,
        };
        assert_eq!(guest.model.asked(), [question]);
    }
    let errors = [
        (ModelError::Budget("habis".to_owned()), "budget:habis"),
        (ModelError::Depth, "depth:"),
        (ModelError::Deadline, "deadline:"),
        (ModelError::Overloaded, "overloaded:"),
        (ModelError::Invalid(String::new()), "invalid:"),
        (ModelError::Failed("gagal ✗".to_owned()), "failed:gagal ✗"),
    ];
    for (error, expected) in errors {
        guest.model.will_answer(Err(error));
        assert_eq!(answer(guest, full(&["ask", "none"])).await.0, expected);
    }
}

async fn http_requests(guest: &Guest) {
    const URL: &str = "https://api.example.com/é?q=1";
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    for (method, name) in [
        (HttpMethod::Get, "get"),
        (HttpMethod::Head, "head"),
        (HttpMethod::Post, "post"),
        (HttpMethod::Put, "put"),
        (HttpMethod::Patch, "patch"),
        (HttpMethod::Delete, "delete"),
    ] {
        guest.http.will_respond(Ok(HttpResponse {
            status: 204,
            headers: Vec::new(),
            body: Vec::new(),
        }));
        let said = told(guest, &["send", name, URL, "", "-"]).await;
        assert_eq!(said, "204|[]|");
        let request = HttpRequest {
            method,
            url: URL.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        assert_eq!(guest.http.sent(), [(request, Duration::from_secs(2))]);
    }
    guest.http.will_respond(Ok(HttpResponse {
        status: 999,
        headers: vec![pair("a", ""), pair("b", "ü, 2")],
        body: "isi 🙂".into(),
    }));
    let command = [
        "send",
        "post",
        URL,
        "badan ✋",
        "250",
        "X-A",
        "1",
        "x-a",
        "",
    ];
    assert_eq!(told(guest, &command).await, "999|[a:,b:ü, 2]|isi 🙂");
    let request = HttpRequest {
        method: HttpMethod::Post,
        url: URL.to_owned(),
        headers: vec![pair("X-A", "1"), pair("x-a", "")],
        body: "badan ✋".into(),
    };
    assert_eq!(guest.http.sent(), [(request, Duration::from_millis(250))]);
    let errors = [
        (
            HttpError::Denied("tak boleh".to_owned()),
            "denied:tak boleh",
        ),
        (
            HttpError::InvalidRequest("✗".to_owned()),
            "invalid-request:✗",
        ),
        (HttpError::Budget("habis".to_owned()), "budget:habis"),
        (HttpError::Timeout, "timeout:"),
        (HttpError::TooLarge(5_000_000_000), "too-large:5000000000"),
        (HttpError::Connect(String::new()), "connect:"),
        (HttpError::Tls("sertifikat".to_owned()), "tls:sertifikat"),
        (HttpError::Protocol("putus".to_owned()), "protocol:putus"),
    ];
    for (error, expected) in errors {
        guest.http.will_respond(Err(error));
        let said = told(guest, &["send", "get", URL, "", "-"]).await;
        assert_eq!(said, expected);
    }
}

pub(crate) async fn render(guest: &Guest) {
    for (kind, grammar) in grammars() {
        let chat = full(&["grammar", kind, "isi"]);
        let mut segments = Vec::new();
        for message in &chat.messages {
            let role = format!("<{:?}>", message.role).to_lowercase();
            segments.push(Segment::Control(role));
            segments.extend(message.content.iter().cloned().map(Segment::Text));
            segments.push(Segment::PrefixEnd);
        }
        let stop = chat.sampling.stop.clone();
        let expected = Prompt {
            segments,
            stop,
            grammar,
        };
        let rendered = guest.start().render(&chat).await.expect("a prompt");
        assert_eq!(rendered, Rendered::Prompt(expected), "{kind}");
    }
    let command = ["refuse", "429", "sibuk", "coba lagi ✋", "messages"];
    match guest
        .start()
        .render(&bare(&command))
        .await
        .expect("a refusal")
    {
        Rendered::Refused { refusal: got, .. } => assert_eq!(got, refusal(Some("messages"))),
        other => panic!("no refusal: {other:?}"),
    }
}

fn emit(text: impl Into<String>) -> Output {
    Output::Emit(text.into())
}

pub(crate) async fn respond(guest: &Guest) {
    for context in [context(None, 0), context(Some("penyewa"), u32::MAX)] {
        let mut responder = guest
            .start()
            .responder(context.clone())
            .await
            .expect("a responder");
        let seen = responder.push(delta("context")).await.expect("an output");
        assert_eq!(seen, emit(describe::context(&context)));
    }
    let mut first = guest
        .start()
        .responder(context(None, 0))
        .await
        .expect("a responder");
    let second = guest
        .start()
        .responder(context(None, 1))
        .await
        .expect("a responder");
    let whole = Delta {
        text: "se\u{301}dap 🍲".to_owned(),
        token_ids: vec![0, 7, u32::MAX],
        logprobs: vec![-0.5, 0.0, -12.25],
    };
    let seen = first.push(whole.clone()).await.expect("an output");
    assert_eq!(seen, emit(describe::delta(&whole)));
    assert_eq!(first.push(delta("hold")).await, Ok(emit("")));
    drop(second);
    assert_eq!(first.push(delta("pushes")).await, Ok(emit("3")));
    let mut third = guest
        .start()
        .responder(context(None, 2))
        .await
        .expect("a responder");
    assert_eq!(third.push(delta("pushes")).await, Ok(emit("1")));
    for (reason, text) in REASONS.into_iter().zip(TEXTS) {
        let mut responder = guest
            .start()
            .responder(context(None, 0))
            .await
            .expect("a responder");
        let command = format!("cut/{}/{text}", describe::reason(reason));
        let cut = responder.push(delta(&command)).await;
        let text = text.to_owned();
        assert_eq!(cut, Ok(Output::Cut { reason, text }));

        let mut responder = guest
            .start()
            .responder(context(None, 0))
            .await
            .expect("a responder");
        let expected = match reason {
            FinishReason::Length => String::new(),
            _ => format!("{} 0", describe::reason(reason)),
        };
        assert_eq!(responder.finish(reason).await, Ok(emit(expected)));
    }
    assert_eq!(first.finish(FinishReason::Stop).await, Ok(emit("stop 3")));
}

/// Twice the memory that a guest may have goes through one processor: what a call took is given back.
pub(crate) async fn answer_at_length(guest: &Guest) {
    let long = delta(&"x".repeat(64 << 10));
    let calls = 2 * MEMORY_BYTES / long.text.len() as u64;
    let responder = guest.start().responder(context(None, 0)).await;
    let mut responder = responder.expect("a responder");
    let expected = emit(describe::delta(&long));
    for _ in 0..calls {
        assert_eq!(responder.push(long.clone()).await.as_ref(), Ok(&expected));
    }
    let finished = responder.finish(FinishReason::Stop).await;
    assert_eq!(finished, Ok(emit(format!("stop {calls}"))));
}

pub(crate) async fn observe(guest: &Guest) {
    let outcomes = REASONS.into_iter().map(Completion::Finished).chain([
        Completion::Cancelled,
        Completion::Failed("deadline_exceeded".to_owned()),
    ]);
    let labels: Vec<_> = guest
        .chain
        .bindings()
        .iter()
        .map(|it| it.plugin.label().to_owned())
        .collect();
    for (completion, choice) in outcomes.zip(0..) {
        let summary = Summary {
            answer: context((choice % 2 == 0).then_some("penyewa"), choice),
            completion,
            prompt_tokens: 12,
            cached_tokens: 0,
            completion_tokens: u32::MAX,
            queue: Duration::from_micros(1),
            prefill: Duration::from_secs(5000),
            decode: Duration::from_micros(3),
        };
        guest
            .chain
            .completed(guest.services.clone(), &summary)
            .await;
        let expected = format!("={}", describe::summary(&summary, &labels));
        assert_eq!(told(guest, &["recall", "summary"]).await, expected);
    }
}
