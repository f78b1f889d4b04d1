//! The model families: which weights go where, one short file each, over [`layers`](crate::layers).

mod gemma2;
mod gemma3;
mod llama;

use crate::{
    checkpoint::Checkpoint, error::LoadError, layers::Decoder, model_config::Architecture,
};

/// Builds the model of a checkpoint's architecture. No weight matrix is read.
///
/// # Errors
/// [`LoadError`] names the first tensor that is missing or has another shape than the
/// configuration says.
pub(crate) fn load(checkpoint: &Checkpoint) -> Result<Decoder, LoadError> {
    match checkpoint.config().architecture {
        Architecture::Gemma2 => gemma2::load(checkpoint),
        Architecture::Gemma3 => gemma3::load(checkpoint),
        Architecture::Llama => llama::load(checkpoint),
    }
}
