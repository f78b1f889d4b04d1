//! Asks the loaded model whether an answer keeps the route's policy, before the client gets it.
//!
//! An answer is held back, whole or piece by piece, until the model has said yes to it. What
//! happens where it says nothing is the operator's decision, and by default a cut.

mod pieces;
mod question;

use gapura_plugin_sdk::{Action, Context, Delta, FinishReason, Responder, log, model, settings};
use serde::Deserialize;

use crate::pieces::Pieces;
use crate::question::{Language, Ruling};

/// What an operator may set; see README.md.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// What an answer must keep to, in words.
    policy: String,
    /// How much is judged at once.
    #[serde(default)]
    hold: Hold,
    /// A piece ends with the first sentence that ends behind so many bytes.
    #[serde(default = "default_piece_bytes")]
    piece_bytes: usize,
    /// No more than this is held: it is judged as it is then.
    #[serde(default = "default_max_held_bytes")]
    max_held_bytes: usize,
    /// The language of question and answer.
    #[serde(default)]
    language: Language,
    /// The last text that a client gets of an answer that is cut.
    #[serde(default)]
    cut_text: String,
    /// What happens where the model does not answer.
    #[serde(default)]
    without_answer: WithoutAnswer,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Hold {
    /// The whole answer.
    #[default]
    Answer,
    /// Some sentences.
    Sentences,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WithoutAnswer {
    /// The client gets the text.
    Pass,
    /// The answer ends.
    #[default]
    Cut,
}

const fn default_piece_bytes() -> usize {
    400
}

const fn default_max_held_bytes() -> usize {
    32 << 10
}

/// One answer.
struct Judge {
    settings: Settings,
    pieces: Pieces,
}

impl Responder for Judge {
    fn new(_: Context) -> Self {
        let settings: Settings = settings();
        settings.check();
        let piece_bytes = match settings.hold {
            Hold::Answer => None,
            Hold::Sentences => Some(settings.piece_bytes),
        };
        Self {
            pieces: Pieces::new(piece_bytes, settings.max_held_bytes),
            settings,
        }
    }

    fn push(&mut self, delta: Delta) -> Action {
        match self.pieces.push(&delta.text) {
            Some(piece) => self.rule(piece),
            None => Action::Hold,
        }
    }

    fn finish(&mut self, _: FinishReason) -> Action {
        match self.pieces.finish() {
            Some(piece) => self.rule(piece),
            None => Action::Hold,
        }
    }
}

gapura_plugin_sdk::export!(responder: Judge);

impl Judge {
    /// What becomes of a piece, the next of the answer.
    fn rule(&mut self, piece: String) -> Action {
        let settings = &self.settings;
        let text = self.pieces.so_far();
        let question = question::ask_about(text, &settings.policy, settings.language);
        let passes = match Ruling::of(model::ask(&question), settings.language) {
            Ruling::Keeps => true,
            Ruling::Breaks => {
                log::info("cut: the model says that the answer breaks the policy");
                false
            }
            Ruling::None(why) => {
                let passes = settings.without_answer == WithoutAnswer::Pass;
                let done = if passes { "passed" } else { "cut" };
                log::warn(format!("{done} without the model's ruling: {why}"));
                passes
            }
        };
        if passes {
            Action::Emit(piece)
        } else {
            Action::cut(settings.cut_text.clone())
        }
    }
}

impl Settings {
    /// # Panics
    /// Where nothing can be meant: a responder has no failure to return, and a panic is one.
    fn check(&self) {
        assert!(
            !self.policy.trim().is_empty(),
            "settings: policy is empty; say what an answer must keep to"
        );
        assert!(
            self.max_held_bytes >= 4,
            "settings: max_held_bytes is {}, it must be 4 at least",
            self.max_held_bytes
        );
    }
}

#[cfg(test)]
mod tests;
