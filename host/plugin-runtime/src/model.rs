//! Questions that guests put to the loaded model, and what a binding may ask in one request.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::plugin::PluginId;
use crate::types::{FinishReason, Grammar, Message};

/// The loaded model, as far as plugins see it.
pub trait Model: Send + Sync {
    /// Asks, and waits for the whole answer. Dropping the future gives the question up, and frees
    /// whatever was computed for it.
    fn ask<'a>(&'a self, asker: Asker<'a>, question: Question) -> Answering<'a>;
}

/// What [`Model::ask`] returns.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Result<ModelAnswer, ModelError>> + Send + 'a>>;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The plugin.
    pub plugin: &'a PluginId,
    /// How long the answer may take. The caller gives up then.
    pub within: Duration,
}

/// A question, within the binding's limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The conversation; never empty.
    pub messages: Vec<Message>,
    /// Most tokens of the answer; above 0.
    pub max_tokens: u32,
    /// 0 is greedy; 0 to 2.
    pub temperature: f32,
    /// What the answer must match.
    pub grammar: Option<Grammar>,
}

/// What the model said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelAnswer {
    /// The whole text.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
}

/// Why there is no answer. The guest is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ModelError {
    /// The request has had all its questions or tokens.
    #[error("the request has had {0}")]
    Budget(String),
    /// Asked while a question is rendered.
    #[error("asked while a question is being rendered")]
    Depth,
    /// The time of the question, or of the request, was over.
    #[error("the time is over")]
    Deadline,
    /// The engine takes no more requests now.
    #[error("the engine is overloaded")]
    Overloaded,
    /// The question cannot be asked.
    #[error("the question cannot be asked: {0}")]
    Invalid(String),
    /// It could not be answered.
    #[error("the question could not be answered: {0}")]
    Failed(String),
}

/// No model: every question ends with the same error.
#[derive(Debug, Clone)]
pub struct NoModel(pub ModelError);

impl Model for NoModel {
    fn ask<'a>(&'a self, _asker: Asker<'a>, _question: Question) -> Answering<'a> {
        Box::pin(std::future::ready(Err(self.0.clone())))
    }
}

/// What the bindings of one request have asked so far.
#[derive(Debug, Default)]
pub(crate) struct Spent(Mutex<Vec<(usize, Asked)>>);

#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    questions: u64,
    tokens: u64,
}

impl Spent {
    /// Takes one question of at most `max_tokens` out of what `limits` give the binding `index`.
    /// Returns how many tokens it may have, all of which count until [`refund`](Self::refund).
    pub(crate) fn take(
        &self,
        index: usize,
        limits: &Limits,
        max_tokens: u32,
    ) -> Result<u32, ModelError> {
        self.with(index, |asked| {
            if asked.questions >= limits.model_questions {
                let spent = format!("all its questions, {}", limits.model_questions);
                return Err(ModelError::Budget(spent));
            }
            let left = limits.model_tokens.saturating_sub(asked.tokens);
            let tokens = max_tokens.min(u32::try_from(left).unwrap_or(u32::MAX));
            if tokens == 0 {
                let spent = format!("all its tokens, {}", limits.model_tokens);
                return Err(ModelError::Budget(spent));
            }
            asked.questions += 1;
            asked.tokens += u64::from(tokens);
            Ok(tokens)
        })
    }

    /// Gives back tokens that an answer did not need.
    pub(crate) fn refund(&self, index: usize, tokens: u32) {
        self.with(index, |asked| {
            asked.tokens = asked.tokens.saturating_sub(tokens.into());
        });
    }

    fn with<T>(&self, index: usize, work: impl FnOnce(&mut Asked) -> T) -> T {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = spent.iter().position(|(binding, _)| *binding == index);
        let place = place.unwrap_or_else(|| {
            spent.push((index, Asked::default()));
            spent.len() - 1
        });
        work(&mut spent[place].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_has_its_own_questions_and_tokens() {
        let limits = Limits {
            model_questions: 3,
            model_tokens: 100,
            ..Limits::default()
        };
        let spent = Spent::default();
        assert_eq!(spent.take(0, &limits, 70), Ok(70));
        assert_eq!(spent.take(0, &limits, 70), Ok(30), "what is left");
        let none_left = ModelError::Budget("all its tokens, 100".to_owned());
        assert_eq!(spent.take(0, &limits, 1), Err(none_left));
        spent.refund(0, 60);
        assert_eq!(spent.take(0, &limits, 1000), Ok(60));
        let asked_enough = ModelError::Budget("all its questions, 3".to_owned());
        spent.refund(0, 60);
        assert_eq!(spent.take(0, &limits, 1), Err(asked_enough));
        assert_eq!(spent.take(1, &limits, 5), Ok(5), "another binding");
    }
}
