//! OpenAI's JSON: requests into plain types, answers and stream frames out of them. No other
//! module of the gateway knows a field name of that API.

pub mod body;
pub mod chat;
pub mod chat_answer;
pub mod completion;
pub mod completion_answer;
pub mod grammar;
pub mod identity;
pub mod logprobs;
pub(crate) mod message;
pub mod sampling;
mod unsupported;
pub mod usage;
