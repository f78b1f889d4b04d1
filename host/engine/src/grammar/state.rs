//! A compiled grammar, and one answer's way through it.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use llguidance::Matcher;

use super::{mask::TokenMask, vocabulary::Vocabulary};
use crate::{error::EngineError, request::TokenId};

/// A grammar, compiled for one model's vocabulary. Cheap to clone.
#[derive(Clone)]
pub struct Grammar(Arc<Compiled>);

struct Compiled {
    /// As it stands before the first token; only ever cloned.
    start: Mutex<Matcher>,
    vocabulary: Arc<Vocabulary>,
}

/// What may follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// One of these tokens, end tokens among them where the answer may end here.
    Tokens(TokenMask),
    /// Nothing: the answer is complete.
    End,
}

/// How far an answer has come.
pub struct GrammarState {
    matcher: Matcher,
    vocabulary: Arc<Vocabulary>,
}

impl Grammar {
    pub(super) fn new(start: Matcher, vocabulary: Arc<Vocabulary>) -> Self {
        Self(Arc::new(Compiled {
            start: Mutex::new(start),
            vocabulary,
        }))
    }

    /// The state before an answer's first token.
    #[must_use]
    pub fn start(&self) -> GrammarState {
        let start = self.0.start.lock().unwrap_or_else(PoisonError::into_inner);
        GrammarState {
            // A deep copy: what one answer's lexer has learnt must not show in another's.
            matcher: start.deep_clone(),
            vocabulary: Arc::clone(&self.0.vocabulary),
        }
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammar")
    }
}

impl GrammarState {
    /// What may follow the tokens taken in so far. Usually far below a millisecond; bounded by
    /// the grammar's limits.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] where a limit is met or no token of the vocabulary fits.
    pub fn allowed(&mut self) -> Result<Allowed, EngineError> {
        if self.matcher.is_stopped() {
            let reason = self.matcher.stop_reason();
            return match reason.is_ok() {
                true => Ok(Allowed::End),
                false => Err(failure(reason)),
            };
        }
        let mut set = self.matcher.compute_mask().map_err(failure)?;
        set.and(&self.vocabulary.text_tokens);
        if self.matcher.is_accepting().map_err(failure)? {
            for id in &self.vocabulary.eos_token_ids {
                set.allow_token(id.0);
            }
            if set.is_zero() {
                return Ok(Allowed::End);
            }
        }
        match set.is_zero() {
            true => Err(failure("no token of the vocabulary fits")),
            false => Ok(Allowed::Tokens(TokenMask::of(&set))),
        }
    }

    /// Takes in the token that was drawn.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] where it was not allowed, or a limit is met.
    pub fn accept(&mut self, token: TokenId) -> Result<(), EngineError> {
        self.matcher.consume_token(token.0).map_err(failure)
    }
}

impl fmt::Debug for GrammarState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GrammarState")
    }
}

fn failure(reason: impl fmt::Display) -> EngineError {
    let reason = reason.to_string();
    EngineError::Grammar {
        reason: reason.lines().next().unwrap_or_default().to_owned(),
    }
}
