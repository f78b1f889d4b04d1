//! End-to-end tests: HTTP in, HTTP out, over the simulated model and real plugins.

mod chat;
mod completions;
mod errors;
mod plugins;
mod stream;
