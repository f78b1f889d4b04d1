//! [`DeviceOptions`].

use gapura_kernels::device::{MatrixFormat, Precision};

use crate::quantization::Quantization;

/// What an operator may turn on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceOptions {
    /// Of activations, keys and values. Default bf16.
    pub precision: Precision,
    /// What weights become while they are loaded: W8 and W4, groups of 128. Default: nothing.
    pub quantize: Quantization,
    /// Prompts attend by one kernel; else by a library's matrix products, the plain way to
    /// compare with. Default true.
    pub fused_attention: bool,
    /// Steps that only decode are recorded and replayed. Default true.
    pub graphs: bool,
    /// Products of float32 may be taken by TF32 tensor cores. Default false.
    pub allow_tf32: bool,
    /// As [`EngineConfig::max_num_seqs`](crate::EngineConfig::max_num_seqs): what buffers are for.
    pub max_num_seqs: usize,
    /// As [`EngineConfig::max_batched_tokens`](crate::EngineConfig::max_batched_tokens).
    pub max_batched_tokens: usize,
    /// As [`EngineConfig::context_length`](crate::EngineConfig::context_length).
    pub context_length: Option<usize>,
    /// Bytes that the KV cache is to have; `None` for what is left.
    pub kv_bytes: Option<u64>,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            precision: Precision::Bf16,
            quantize: Quantization::None,
            fused_attention: true,
            graphs: true,
            allow_tf32: false,
            max_num_seqs: 64,
            max_batched_tokens: 256,
            context_length: None,
            kv_bytes: None,
        }
    }
}

impl DeviceOptions {
    /// Whether a library can multiply by a matrix of `format` as it lies there.
    pub(super) fn is_plain(&self, format: MatrixFormat) -> bool {
        matches!(
            (format, self.precision),
            (MatrixFormat::Bf16, Precision::Bf16) | (MatrixFormat::F32, Precision::F32)
        )
    }

    /// Whether prompts attend by a library's products: there is no tensor-core kernel for
    /// float32.
    pub(super) fn attends_by_library(&self) -> bool {
        !self.fused_attention || self.precision == Precision::F32
    }
}
