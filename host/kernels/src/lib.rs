//! CPU kernels of the Gapura engine: plain slices in, plain slices out.
//!
//! - Weights stay in their file's memory: [`Matrix`] borrows them, [`matmul`] multiplies.
//! - Keys and values live in pages: [`KvLayer`] holds them, [`attention`] reads them.
//! - Every result is the same whatever shares its batch: see [`matmul`] and [`attention`].
//!
//! This crate is the only home of `unsafe` code.

#![expect(
    unsafe_code,
    reason = "vector intrinsics, results that threads fill together, and the allocator's own call"
)]

mod activation_fn;
mod activations;
mod attention;
mod dequantize;
pub mod device;
mod elementwise;
mod error;
mod kv;
mod matmul;
mod matrix;
mod memory;
mod norm;
mod parallel;
mod quantize;
mod rope;
mod simd;
mod softmax;
#[cfg(test)]
mod test_support;
mod weight_type;

pub use activation_fn::{gelu_tanh_mul, silu_mul, soft_cap};
pub use activations::Activations;
pub use attention::{AttentionParams, attention};
pub use elementwise::{add_assign, scale};
pub use error::KernelError;
pub use kv::{BLOCK_TOKENS, KvLayer};
pub use matmul::matmul;
pub use matrix::Matrix;
pub use memory::release_unused;
pub use norm::rms_norm;
pub use quantize::quantize;
pub use rope::{RopeAngles, RopeStyle, rope, rope_with};
pub use simd::limit_instruction_set;
pub use softmax::{exp_weights, greatest};
pub use weight_type::WeightType;
