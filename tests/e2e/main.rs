//! End-to-end tests: HTTP in, HTTP out, over the simulated model and real plugins.

mod cases;
mod chat;
mod cli;
mod completions;
mod drain;
mod errors;
mod expect;
mod grammar;
mod http;
mod lent;
mod log;
mod metrics;
mod moments;
mod plugins;
mod prefix;
mod process;
mod restarts;
mod sampling;
mod scaffold;
mod stream;
mod surface;
mod swap;
mod verdicts;
