//! Questions to the model: what a binding may ask, and whose time the answer takes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gapura_plugin_runtime::{
    Answering, Asker, Binding, FinishReason, Grammar, Limits, Model, ModelAnswer, ModelError,
    Output, Question, Services, Validated,
};
use gapura_test_guests as guests;

use crate::support::{answer_context, bind, chain, chat, delta, load, message, services};

/// Answers every question with `Solo`, three tokens, after a while.
#[derive(Default)]
struct Slow {
    takes: Duration,
    asked: Mutex<Vec<Question>>,
    /// Questions that wait for their answer.
    waiting: AtomicUsize,
}

struct Wait<'a>(&'a AtomicUsize);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Model for Slow {
    fn ask<'a>(&'a self, asker: Asker<'a>, question: Question) -> Answering<'a> {
        assert_eq!(asker.plugin.name, "asks");
        Box::pin(async {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let _wait = Wait(&self.waiting);
            self.asked.lock().expect("no panic").push(question);
            if !self.takes.is_zero() {
                tokio::time::sleep(self.takes).await;
            }
            Ok(ModelAnswer {
                text: "Solo".to_owned(),
                finish: FinishReason::Stop,
                prompt_tokens: 9,
                completion_tokens: 3,
            })
        })
    }
}

impl Slow {
    fn taking(takes: Duration) -> Arc<Self> {
        Arc::new(Self {
            takes,
            ..Self::default()
        })
    }
}

fn lent(model: &Arc<Slow>) -> Services {
    Services {
        model: Arc::clone(model) as _,
        ..services()
    }
}

fn asks(limits: Limits) -> Binding {
    Binding {
        limits,
        ..bind(load("asks", guests::ASKS))
    }
}

/// The message and status of what `binding` refuses the chat with.
async fn refused(binding: Binding, services: Services, model: &str) -> (String, u16) {
    let mut run = chain(vec![binding]).start(services);
    match run.validate(chat(model)).await.expect("no failure") {
        Validated::Refused { refusal, .. } => (refusal.message, refusal.status),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_guest_asks_and_reads_the_answer() {
    let model = Arc::<Slow>::default();
    let answer = refused(asks(Limits::default()), lent(&model), "a").await;
    assert_eq!(answer, ("Solo".to_owned(), 403));
    refused(asks(Limits::default()), lent(&model), "g").await;
    let question = Question {
        messages: vec![message("halo")],
        max_tokens: 64,
        temperature: 0.0,
        grammar: None,
    };
    let constrained = Question {
        grammar: Some(Grammar::Regex("ya|tidak".to_owned())),
        ..question.clone()
    };
    assert_eq!(
        *model.asked.lock().expect("no panic"),
        [question, constrained]
    );
}

#[tokio::test]
async fn a_question_without_a_message_is_not_asked() {
    let model = Arc::<Slow>::default();
    let answer = refused(asks(Limits::default()), lent(&model), "e").await;
    assert_eq!(answer, ("it has no message".to_owned(), 454));
    assert!(model.asked.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn a_guest_that_asks_in_a_loop_has_had_its_questions() {
    let model = Arc::<Slow>::default();
    let answer = refused(asks(Limits::default()), lent(&model), "l").await;
    assert_eq!(answer, ("all its questions, 2".to_owned(), 450));
    assert_eq!(model.asked.lock().expect("no panic").len(), 2);
}

#[tokio::test]
async fn tokens_are_counted_as_they_come() {
    let limits = Limits {
        model_questions: 100,
        model_tokens: 10,
        ..Limits::default()
    };
    let model = Arc::<Slow>::default();
    let answer = refused(asks(limits), lent(&model), "l").await;
    assert_eq!(answer, ("all its tokens, 10".to_owned(), 450));
    let asked = model.asked.lock().expect("no panic");
    let most: Vec<u32> = asked.iter().map(|question| question.max_tokens).collect();
    // Each answer took three.
    assert_eq!(most, [10, 7, 4, 1]);
}

#[tokio::test]
async fn an_error_of_the_model_is_the_guests_to_read() {
    for (error, expected) in [
        (ModelError::Depth, ("", 451)),
        (ModelError::Overloaded, ("", 453)),
        (ModelError::Failed("lost".to_owned()), ("lost", 455)),
    ] {
        let services = Services {
            model: Arc::new(gapura_plugin_runtime::NoModel(error)),
            ..services()
        };
        let (message, status) = refused(asks(Limits::default()), services, "a").await;
        let message = if expected.0.is_empty() { "" } else { &message };
        assert_eq!((message, status), expected);
    }
}

#[tokio::test]
async fn a_question_has_a_time_of_its_own() {
    let limits = Limits {
        model_ms: 30,
        ..Limits::default()
    };
    let model = Slow::taking(Duration::from_secs(60));
    let (_, status) = refused(asks(limits), lent(&model), "a").await;
    assert_eq!(status, 452, "deadline");
    assert_eq!(model.waiting.load(Ordering::SeqCst), 0, "given up");
}

/// The guest may work for 20 ms and take 580 by the wall; each of two answers takes 700. What others
/// do on its thread meanwhile is not its doing either: before the second its clock has been read.
#[tokio::test]
async fn waiting_for_an_answer_is_not_charged() {
    let limits = Limits {
        call_ms: 20,
        ..Limits::default()
    };
    let model = Slow::taking(Duration::from_millis(700));
    let others = async {
        loop {
            let begin = std::time::Instant::now();
            while begin.elapsed() < Duration::from_millis(20) {
                std::hint::spin_loop();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answer = tokio::select! {
        answer = refused(asks(limits), lent(&model), "l") => answer,
        () = others => unreachable!("they never end"),
    };
    assert_eq!(answer, ("all its questions, 2".to_owned(), 450));
}

#[tokio::test]
async fn a_processor_asks_within_push_and_finish() {
    let model = Slow::taking(Duration::from_millis(600));
    let late = bind(load("asks", guests::ASKS_LATE));
    let run = chain(vec![late]).start(lent(&model));
    let mut responder = run.responder(answer_context()).await.expect("a responder");
    let emitted = |text: &str| Ok(Output::Emit(text.to_owned()));
    assert_eq!(responder.push(delta("ab")).await, emitted("ab"));
    assert_eq!(responder.push(delta("Q")).await, emitted("Solo"));
    assert_eq!(responder.finish(FinishReason::Stop).await, emitted("Solo"));
    // The request's other answers share what there may be of questions.
    let mut other = run.responder(answer_context()).await.expect("a responder");
    assert_eq!(other.push(delta("Q")).await, emitted("!0"));
    let run = chain(vec![bind(load("asks", guests::ASKS_LATE))]).start(lent(&model));
    let mut next = run.responder(answer_context()).await.expect("a responder");
    assert_eq!(
        next.push(delta("Q")).await,
        emitted("Solo"),
        "another request"
    );
}

/// Dropping the call, as a client does that leaves, gives the question up.
#[tokio::test]
async fn a_question_goes_with_its_request() {
    let model = Slow::taking(Duration::from_secs(60));
    let mut run = chain(vec![asks(Limits::default())]).start(lent(&model));
    let call = run.validate(chat("a"));
    let waited = tokio::time::timeout(Duration::from_millis(300), call).await;
    assert!(waited.is_err(), "it was to wait: {waited:?}");
    assert_eq!(model.asked.lock().expect("no panic").len(), 1);
    assert_eq!(model.waiting.load(Ordering::SeqCst), 0);
}
