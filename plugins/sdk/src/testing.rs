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

use core::cell::RefCell;

use crate::log::Level;
use crate::{Action, Chat, Context, Delta, FinishReason, Message, Responder, Sampling};

/// The thread's stand-in host.
struct Host {
    settings: String,
    log: Vec<(Level, String)>,
    counter: fn(&str) -> u32,
}

thread_local! {
    static HOST: RefCell<Host> = const {
        RefCell::new(Host { settings: String::new(), log: Vec::new(), counter: count_words })
    };
}

fn count_words(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX)
}

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
    }
}

/// Runs a whole answer, cut into `deltas`, through a responder. Returns what the client
/// gets, and why the answer ended.
pub fn respond<R: Responder>(deltas: &[&str]) -> (String, FinishReason) {
    let mut responder = R::new(Context {
        request_id: "test-request".to_owned(),
        route: "test-route".to_owned(),
        model: "test-model".to_owned(),
        tenant: None,
        stream: true,
        choice: 0,
        extra: "{}".to_owned(),
    });
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
    let reason = apply(responder.finish(FinishReason::Stop)).unwrap_or(FinishReason::Stop);
    (answer, reason)
}

pub(crate) fn write_log(level: Level, message: &str) {
    HOST.with_borrow_mut(|host| host.log.push((level, message.to_owned())));
}

pub(crate) fn settings_json() -> String {
    HOST.with_borrow(|host| match host.settings.as_str() {
        "" => "{}".to_owned(),
        settings => settings.to_owned(),
    })
}

pub(crate) fn count_tokens(text: &str) -> u32 {
    HOST.with_borrow(|host| host.counter)(text)
}
