//! Write Gapura plugins in Rust.
//!
//! A plugin is a WebAssembly component that the gateway runs at one or more stages of a
//! request: [`Validator`] before the prompt is made, [`Template`] to make it, [`Responder`]
//! on the answer, [`Observer`] after it. Implement the trait of each stage, name them in [`export!`], and build
//! with `gapura plugin build`:
//!
//! ```
//! use gapura_plugin_sdk::{Chat, Failure, Refusal, Validator, Verdict};
//!
//! struct ShortChats;
//!
//! impl Validator for ShortChats {
//!     fn validate(chat: Chat) -> Result<Verdict, Failure> {
//!         if chat.messages.len() > 20 {
//!             let message = format!("{} messages, at most 20 are allowed", chat.messages.len());
//!             return Ok(Refusal::new("too_many_messages", message).param("messages").into());
//!         }
//!         Ok(Verdict::Accept)
//!     }
//! }
//!
//! gapura_plugin_sdk::export!(validator: ShortChats);
//! # fn main() {}
//! ```
//!
//! The same code is plain Rust in `cargo test` on any machine: the host's functions
//! ([`settings`], [`log`], [`tokenizer`], [`metrics`], [`kv`], [`clock`], [`random`], [`model`],
//! [`http`]) have stand-ins there, which [`testing`] sets. A component imports those that it calls and no
//! other; its route grants them by name.
//!
//! The traits and types follow `wit/` word for word; [`settings`], [`HoldBack`] and the
//! constructors are what this crate adds. A panic reaches the gateway's log with message
//! and place, and counts as a failure of the plugin.

pub mod clock;
pub mod http;
pub mod kv;
pub mod log;
pub mod metrics;
pub mod model;
pub mod random;
pub mod tokenizer;
pub mod turns;

mod bindings;
mod export;
mod hold_back;
mod host;
mod message;
mod prompt;
mod settings;
mod stage;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod verdict;

pub use bindings::{
    Action, Amendment, Chat, Context, Cut, Delta, Failure, FinishReason, Grammar, Message, Outcome,
    Prompt, Refusal, Reply, Role, Sampling, Segment, Summary, ToolCall, Verdict,
};
pub use hold_back::{HoldBack, Matcher, Scan};
pub use prompt::PromptBuilder;
pub use settings::{settings, try_settings};
pub use stage::{Observer, Responder, Template, Validator};

/// What [`export!`] expands to; not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings::{observer, responder, template, validator};
    pub use crate::export::{
        ExportedObserver, ExportedResponder, ExportedTemplate, ExportedValidator, name_section,
    };
}
