//! Stand-ins for the host, for `cargo test` on any machine. Not there on WebAssembly.
//!
//! What is set holds for the calling thread, and so for one test.
//!
//! ```
//! use gapura_plugin_sdk::{Message, log, testing};
//!
//! testing::set_settings(r#"{"language": "id"}"#);
//! let chat = testing::chat([Message::user("Halo!")]);
//! log::info("seen");
//! assert_eq!(testing::logged(), [(log::Level::Info, "seen".to_owned())]);
//! # assert_eq!(chat.messages[0].text(), "Halo!");
//! ```

mod host;

use core::time::Duration;

use crate::http::{HttpError, Request, Response};
use crate::log::Level;
use crate::model::{ModelAnswer, ModelError, Question};
use crate::{
    Action, Chat, Context, Delta, FinishReason, Message, Outcome, Responder, Sampling, Summary,
};
use host::HOST;
pub(crate) use host::*;

/// Sets what the plugin reads as its settings: a JSON object.
pub fn set_settings(json: &str) {
    HOST.with_borrow_mut(|host| json.clone_into(&mut host.settings));
}

/// Sets how [`tokenizer::count`](crate::tokenizer::count) counts; at first it counts words.
pub fn set_token_counter(counter: fn(&str) -> u32) {
    HOST.with_borrow_mut(|host| host.counter = counter);
}

/// The lines logged since the last call.
pub fn logged() -> Vec<(Level, String)> {
    HOST.with_borrow_mut(|host| core::mem::take(&mut host.log))
}

/// What was added to the counter `name` so far.
pub fn counted(name: &str) -> u64 {
    HOST.with_borrow(|host| host.counters.get(name).copied().unwrap_or(0))
}

/// What was put into the histogram `name` so far.
pub fn observed(name: &str) -> Vec<f64> {
    HOST.with_borrow(|host| host.histograms.get(name).cloned().unwrap_or_default())
}

/// Sets the time, as since 1970-01-01 00:00 UTC. It stands still but for [`advance`].
pub fn set_time(since_1970: Duration) {
    HOST.with_borrow_mut(|host| host.now = since_1970);
}

/// Lets `time` pass, for both clocks and for what [`kv`](crate::kv) keeps.
pub fn advance(time: Duration) {
    HOST.with_borrow_mut(|host| {
        host.now += time;
        host.monotonic += time;
    });
}

/// Begins the random numbers of `seed`; a test begins with those of 0.
pub fn set_seed(seed: u64) {
    HOST.with_borrow_mut(|host| host.seed = seed);
}

/// The next question that has no answer yet gets this text.
pub fn answer(text: &str) {
    let completion_tokens = count_tokens(text);
    answer_with(Ok(ModelAnswer {
        text: text.to_owned(),
        finish: FinishReason::Stop,
        prompt_tokens: 0,
        completion_tokens,
    }));
}

/// The next question that has no answer yet ends like this.
pub fn answer_with(result: Result<ModelAnswer, ModelError>) {
    HOST.with_borrow_mut(|host| host.answers.push_back(result));
}

/// The questions asked since the last call.
pub fn asked() -> Vec<Question> {
    HOST.with_borrow_mut(|host| core::mem::take(&mut host.asked))
}

/// The next HTTP request that has no response yet ends like this.
pub fn respond_http(result: Result<Response, HttpError>) {
    HOST.with_borrow_mut(|host| host.responses.push_back(result));
}

/// The HTTP requests sent since the last call.
pub fn sent_http() -> Vec<Request> {
    HOST.with_borrow_mut(|host| core::mem::take(&mut host.sent))
}

/// What an observer hears of a short answer that ended like this.
pub fn summary(outcome: Outcome) -> Summary {
    Summary {
        request_id: "test-request".to_owned(),
        route: "test-route".to_owned(),
        model: "test-model".to_owned(),
        tenant: None,
        stream: false,
        choice: 0,
        outcome,
        prompt_tokens: 12,
        cached_tokens: 0,
        completion_tokens: 3,
        queue: 100,
        prefill: 2000,
        decode: 3000,
        chain: vec!["test@0.0.0+000000".to_owned()],
        call_id: "test-call".to_owned(),
    }
}

/// A chat of these messages, as a client's plain request brings it.
pub fn chat(messages: impl IntoIterator<Item = Message>) -> Chat {
    Chat {
        request_id: "test-request".to_owned(),
        route: "test-route".to_owned(),
        model: "test-model".to_owned(),
        tenant: None,
        stream: false,
        messages: messages.into_iter().collect(),
        sampling: Sampling::default(),
        extra: "{}".to_owned(),
        call_id: "test-call".to_owned(),
    }
}

/// What a responder hears of the answer to [`chat`].
pub fn context() -> Context {
    Context {
        request_id: "test-request".to_owned(),
        route: "test-route".to_owned(),
        model: "test-model".to_owned(),
        tenant: None,
        stream: true,
        choice: 0,
        extra: "{}".to_owned(),
        call_id: "test-call".to_owned(),
    }
}

/// Runs a whole answer, cut into `deltas`, through a responder. Returns what the client
/// gets, and why the answer ended.
pub fn respond<R: Responder>(deltas: &[&str]) -> (String, FinishReason) {
    respond_in::<R>(context(), deltas, FinishReason::Stop)
}

/// The same for an answer of this request that the model ends for `reason`.
pub fn respond_in<R: Responder>(
    context: Context,
    deltas: &[&str],
    reason: FinishReason,
) -> (String, FinishReason) {
    let mut responder = R::new(context);
    let mut answer = String::new();
    let mut apply = |action| match action {
        Action::Emit(text) => {
            answer.push_str(&text);
            None
        }
        Action::Hold => None,
        Action::Cut(cut) => {
            answer.push_str(&cut.text);
            Some(cut.reason)
        }
    };
    // The host never sends an empty delta.
    for text in deltas.iter().filter(|text| !text.is_empty()) {
        let delta = Delta {
            text: (*text).to_owned(),
            token_ids: Vec::new(),
            logprobs: Vec::new(),
        };
        if let Some(reason) = apply(responder.push(delta)) {
            return (answer, reason);
        }
    }
    let reason = apply(responder.finish(reason)).unwrap_or(reason);
    (answer, reason)
}
