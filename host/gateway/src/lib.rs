//! The Gapura gateway: HTTP in front, the engine and the plugins behind, the pipeline between.

pub mod auth;
pub mod builtin;
pub mod config;
pub mod error;
pub mod openai;
pub mod telemetry;
pub mod version;
