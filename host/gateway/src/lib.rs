//! The Gapura gateway: HTTP in front, the engine and the plugins behind, the pipeline between.

pub mod app;
pub mod auth;
pub mod builtin;
pub mod config;
pub mod controller;
pub mod error;
pub mod openai;
pub mod pipeline;
pub mod routes;
pub mod routing;
pub mod state;
pub mod telemetry;
pub mod version;
