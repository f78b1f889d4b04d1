//! Puts a mark before every piece of an answer. The mark is compiled in: each value of `MARK`
//! is a version of its own.

use gapura_plugin_sdk::{Action, Context, Delta, FinishReason, Responder};

const MARK: &str = match option_env!("MARK") {
    Some(mark) => mark,
    None => "?",
};

struct Mark;

impl Responder for Mark {
    fn new(_: Context) -> Self {
        Self
    }

    fn push(&mut self, delta: Delta) -> Action {
        Action::Emit(format!("<{MARK}>{}", delta.text))
    }

    fn finish(&mut self, _: FinishReason) -> Action {
        Action::Hold
    }
}

gapura_plugin_sdk::export!(responder: Mark);
