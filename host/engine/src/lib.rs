//! The Gapura inference engine: tokens in, tokens out. It knows neither HTTP nor WebAssembly.

#![warn(missing_docs)]

mod checkpoint;
mod engine;
mod engine_loop;
mod error;
mod grammar;
pub mod hub;
mod inbox;
mod kv_cache;
mod layers;
pub mod memory;
mod model_config;
mod models;
mod quantization;
mod request;
mod runner;
mod sampler;
mod scheduler;
mod sequence;
pub mod sim;
mod stats;
mod text_stream;
mod token_stream;
mod tokenizer;

/// Devices and what runs on them: [`DeviceRunner`] computes through one.
pub use gapura_kernels::device;

pub use checkpoint::{Checkpoint, Weight};
pub use engine::{Engine, EngineConfig};
pub use error::{EngineError, LoadError, StartError};
pub use grammar::{
    Allowed, Grammar, GrammarCompiler, GrammarError, GrammarSource, GrammarState, TokenMask,
};
pub use model_config::{Architecture, ModelConfig, RopeConfig, RopeScaling, RopeStyle};
pub use quantization::Quantization;
pub use request::{
    CacheParams, FinishReason, GenerateRequest, Lane, QueueParams, SampledToken, SamplingParams,
    StopParams, TokenEvent, TokenId, TokenLogprobs, Usage,
};
pub use runner::{
    BLOCK_TOKENS, Batch, BatchSequence, BlockId, CpuModel, CpuOptions, CpuRunner, DeviceOptions,
    DeviceRunner, KvLayout, KvPlan, LoadedDevice, ModelInfo, ModelRunner, OpenDevice, OutputRows,
    Reach, RowOutput, RunnerError, RunnerFactory, SamplingInput, StepOutput,
};
pub use stats::{BlockUsage, EngineStats};
pub use text_stream::{Detokenizer, TextDelta, TextStream};
pub use token_stream::TokenStream;
pub use tokenizer::Tokenizer;
