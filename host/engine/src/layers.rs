//! The parts that the models are composed of, written once. Weights stay in their file's memory,
//! unless they are quantized while the model loads; activations are f32, row-major, one row for
//! each token of a step.

mod attention;
mod decoder;
mod decoder_layer;
mod embedding;
mod linear;
mod load;
mod mlp;
mod rms_norm;
mod rope;
mod step;

pub(crate) use attention::{Attention, KvGroup};
pub(crate) use decoder::{Decoder, KvCache, Workspace};
pub(crate) use decoder_layer::DecoderLayer;
pub(crate) use embedding::Embedding;
pub(crate) use linear::Linear;
pub(crate) use mlp::{Activation, Mlp};
pub(crate) use rms_norm::RmsNorm;
pub(crate) use rope::Rope;
pub(crate) use step::{Step, StepError, StepLimits};
