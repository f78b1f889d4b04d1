//! Grammars that an answer must match: a source is compiled once, before the request goes to
//! the engine, and says before each draw which tokens may come next.
//!
//! [`GrammarCompiler`] knows the vocabulary and compiles on threads of its own, within limits.
//! A compiled [`Grammar`] is shared by any number of answers; each walks it with a
//! [`GrammarState`]. In the engine those states live on mask workers, which compute the next
//! mask while the forward pass runs.

mod blame;
mod compiler;
mod constraint;
mod mask;
mod schema;
mod state;
#[cfg(test)]
mod tests;
mod vocabulary;

use thiserror::Error;

pub use compiler::GrammarCompiler;
#[cfg(test)]
pub(crate) use constraint::Job;
pub(crate) use constraint::{Constraint, MaskWorkers};
pub use mask::TokenMask;
pub use state::{Allowed, Grammar, GrammarState};

/// What an answer must match, as clients and plugins write it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GrammarSource {
    /// A JSON object, whatever is in it.
    JsonObject,
    /// JSON that this JSON Schema allows; the schema's text. Properties come in the order in
    /// which the schema names them.
    JsonSchema(String),
    /// A regular expression over the whole answer.
    Regex(String),
    /// A grammar in llguidance's dialect of Lark, with the rule `start`.
    Lark(String),
    /// One of these texts and nothing else.
    Choice(Vec<String>),
}

/// A source that makes no grammar.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GrammarError {
    /// A schema that is wrong, cannot be satisfied, or asks for what cannot be enforced.
    #[error("{}: {reason}", place(.path, .keyword))]
    Schema {
        /// Where, from the schema's root, such as `properties.age`; empty for the root.
        path: String,
        /// The keyword at fault, if it is one alone.
        keyword: Option<String>,
        /// What is wrong with it.
        reason: String,
    },
    /// A regular expression or a grammar that cannot be read.
    #[error("the {kind} is not valid: {reason}")]
    Syntax {
        /// `regular expression`, `Lark grammar`, `list of choices`.
        kind: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// More than is taken in.
    #[error("{what} {value} exceeds the limit of {limit}")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        value: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Within all limits of size, and still too much to compile.
    #[error("the grammar is too complex: {reason}")]
    TooComplex {
        /// Which limit was met.
        reason: String,
    },
    /// As many grammars as may are being compiled.
    #[error("too many grammars are being compiled")]
    Busy,
    /// The model's vocabulary cannot be used with grammars.
    #[error("this model's vocabulary cannot be constrained: {reason}")]
    Vocabulary {
        /// Why not.
        reason: String,
    },
}

fn place(path: &str, keyword: &Option<String>) -> String {
    match (path, keyword) {
        ("", None) => "the schema".to_owned(),
        ("", Some(keyword)) => format!("`{keyword}`"),
        (path, None) => format!("`{path}`"),
        (path, Some(keyword)) => format!("`{keyword}` in `{path}`"),
    }
}
