//! The HTTP endpoints: each reads its request, asks the pipeline and shapes the answer.

pub mod admin;
mod answering;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod health;
pub(crate) mod models;
mod scored;
mod sse;
mod target;
pub(crate) mod tokenize;

pub(crate) use answering::SERVER_TIMING;
pub(crate) use target::Target;
