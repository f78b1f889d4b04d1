//! The Gapura gateway: HTTP in front, the engine and the plugins behind, the pipeline between.

pub mod app;
pub mod auth;
pub mod builtin;
pub mod cases;
pub mod cli;
pub mod config;
pub mod controller;
pub mod error;
pub mod model_loader;
pub mod oci;
pub mod openai;
pub mod outbound;
pub mod pipeline;
mod progress;
pub mod recording;
pub mod routes;
pub mod routing;
pub mod serve;
pub mod server;
pub mod signing;
pub mod state;
pub mod telemetry;
pub mod trial;
pub mod version;
