//! The turns of two families of models, for templates that say more than those: `chatml` and
//! `gemma-chat` are these and their settings.
//!
//! ```
//! use gapura_plugin_sdk::{Grammar, Message, turns};
//!
//! let prompt = turns::chatml(&[Message::user("Halo?")], false)
//!     .grammar(Grammar::Regex("ya|tidak".to_owned()))
//!     .build();
//! assert_eq!(prompt.segments.len(), 6);
//! assert!(prompt.grammar.is_some());
//! ```

mod chatml;
mod gemma;

pub use chatml::chatml;
pub use gemma::gemma;
