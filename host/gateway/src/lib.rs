//! The Gapura gateway: HTTP in front, the engine and the plugins behind, the pipeline between.

pub mod error;
