//! Questions to the loaded model, beside the request. Needs the grant `model`.
//!
//! The route's own template renders a question; no validator and no responder sees it. The route
//! bounds how many there may be in one request, their tokens and their time.
//!
//! ```
//! use gapura_plugin_sdk::model::{self, Question};
//! use gapura_plugin_sdk::{Grammar, Message, testing};
//!
//! testing::answer("no");
//! let question = Question::new([Message::user("Is 7 even? Answer yes or no.")], 4)
//!     .grammar(Grammar::Regex("yes|no".to_owned()));
//! assert_eq!(model::ask(&question)?.text, "no");
//! assert_eq!(testing::asked(), [question]);
//! # Ok::<(), model::ModelError>(())
//! ```

pub use crate::bindings::{ModelAnswer, ModelError, Question};
use crate::{Grammar, Message, host};

/// Asks, and waits for the whole answer. The wait costs none of the plugin's own time.
///
/// # Errors
/// [`ModelError`] says why there is no answer; what to do then is the plugin's decision.
pub fn ask(question: &Question) -> Result<ModelAnswer, ModelError> {
    host::ask_model(question)
}

impl Question {
    /// A question with the most likely answer, of at most `max_tokens` tokens.
    pub fn new(messages: impl IntoIterator<Item = Message>, max_tokens: u32) -> Self {
        Self {
            messages: messages.into_iter().collect(),
            max_tokens,
            temperature: 0.0,
            grammar: None,
        }
    }

    /// The same with an answer drawn at this temperature, 0 to 2.
    #[must_use]
    pub fn temperature(mut self, temperature: f32) -> Self {
        self.temperature = temperature;
        self
    }

    /// The same with an answer that must match `grammar`.
    #[must_use]
    pub fn grammar(mut self, grammar: Grammar) -> Self {
        self.grammar = Some(grammar);
        self
    }
}
