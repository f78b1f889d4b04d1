//! Gemma 2: soft caps on attention and logits, every second layer windowed, four norms a layer,
//! embeddings scaled and tied to the output layer.

use std::sync::Arc;

use crate::{
    checkpoint::Checkpoint,
    error::LoadError,
    layers::{Activation, Attention, Decoder, DecoderLayer, Embedding, Mlp, RmsNorm, Rope},
};

/// # Errors
/// As [`models::load`](super::load).
pub(super) fn load(checkpoint: &Checkpoint) -> Result<Decoder, LoadError> {
    let config = checkpoint.config();
    let rope = Arc::new(Rope::global(config));
    let layers = (0..config.num_hidden_layers)
        .map(|i| {
            let name = format!("model.layers.{i}");
            sandwich_layer(
                checkpoint,
                &name,
                Attention::load(checkpoint, &format!("{name}.self_attn"), i, &rope)?,
            )
        })
        .collect::<Result<_, _>>()?;
    with_tied_embedding(checkpoint, layers)
}

/// A layer with a norm before and after each branch, as in Gemma 2 and 3.
pub(super) fn sandwich_layer(
    checkpoint: &Checkpoint,
    name: &str,
    self_attn: Attention,
) -> Result<DecoderLayer, LoadError> {
    let hidden = checkpoint.config().hidden_size;
    let norm = |part: &str| RmsNorm::load(checkpoint, &format!("{name}.{part}"), hidden);
    Ok(DecoderLayer {
        input_layernorm: norm("input_layernorm")?,
        self_attn,
        post_attention_layernorm: Some(norm("post_attention_layernorm")?),
        pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
        mlp: Mlp::load(checkpoint, &format!("{name}.mlp"), Activation::GeluTanh)?,
        post_feedforward_layernorm: Some(norm("post_feedforward_layernorm")?),
    })
}

/// The whole model around its layers. Gemma has no output layer of its own.
pub(super) fn with_tied_embedding(
    checkpoint: &Checkpoint,
    layers: Vec<DecoderLayer>,
) -> Result<Decoder, LoadError> {
    let config = checkpoint.config();
    Ok(Decoder {
        embed_tokens: Embedding::load(checkpoint, "model.embed_tokens")?,
        lm_head: None,
        layers,
        norm: RmsNorm::load(checkpoint, "model.norm", config.hidden_size)?,
        final_logit_softcapping: config.final_logit_softcapping,
    })
}
