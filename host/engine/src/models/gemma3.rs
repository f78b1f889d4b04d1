//! Gemma 3 text: Gemma 2 with norms on queries and keys instead of soft caps, and two rotary
//! bases: one for the windowed layers, one for the full ones.

use std::sync::Arc;

use super::gemma2::{sandwich_layer, with_tied_embedding};
use crate::{
    checkpoint::Checkpoint,
    error::LoadError,
    layers::{Attention, Decoder, Rope},
};

/// # Errors
/// As [`models::load`](super::load).
pub(super) fn load(checkpoint: &Checkpoint) -> Result<Decoder, LoadError> {
    let config = checkpoint.config();
    let (global, local) = (
        Arc::new(Rope::global(config)),
        Arc::new(Rope::local(config)),
    );
    let layers = (0..config.num_hidden_layers)
        .map(|i| {
            let name = format!("model.layers.{i}");
            let attn = format!("{name}.self_attn");
            let rope = if config.windowed_layers[i] {
                &local
            } else {
                &global
            };
            let self_attn =
                Attention::load(checkpoint, &attn, i, rope)?.with_qk_norms(checkpoint, &attn)?;
            sandwich_layer(checkpoint, &name, self_attn)
        })
        .collect::<Result<_, _>>()?;
    with_tied_embedding(checkpoint, layers)
}
