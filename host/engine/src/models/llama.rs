//! The Llama family: two norms a layer, SiLU, an output layer that may be tied to the embedding.

use std::sync::Arc;

use crate::{
    checkpoint::Checkpoint,
    error::LoadError,
    layers::{Activation, Attention, Decoder, DecoderLayer, Embedding, Linear, Mlp, RmsNorm, Rope},
};

/// # Errors
/// As [`models::load`](super::load).
pub(super) fn load(checkpoint: &Checkpoint) -> Result<Decoder, LoadError> {
    let config = checkpoint.config();
    let hidden = config.hidden_size;
    let rope = Arc::new(Rope::global(config));
    let layers = (0..config.num_hidden_layers)
        .map(|i| load_layer(checkpoint, i, &rope))
        .collect::<Result<_, _>>()?;
    let lm_head = match config.tie_word_embeddings {
        true => None,
        false => Some(Linear::load(
            checkpoint,
            "lm_head",
            [config.vocab_size, hidden],
        )?),
    };
    Ok(Decoder {
        embed_tokens: Embedding::load(checkpoint, "model.embed_tokens")?,
        layers,
        norm: RmsNorm::load(checkpoint, "model.norm", hidden)?,
        lm_head,
        final_logit_softcapping: config.final_logit_softcapping,
    })
}

fn load_layer(
    checkpoint: &Checkpoint,
    i: usize,
    rope: &Arc<Rope>,
) -> Result<DecoderLayer, LoadError> {
    let hidden = checkpoint.config().hidden_size;
    let name = format!("model.layers.{i}");
    Ok(DecoderLayer {
        input_layernorm: RmsNorm::load(checkpoint, &format!("{name}.input_layernorm"), hidden)?,
        self_attn: Attention::load(checkpoint, &format!("{name}.self_attn"), i, rope)?,
        post_attention_layernorm: None,
        // The published name says where it stands, not what it does: it feeds the MLP.
        pre_feedforward_layernorm: RmsNorm::load(
            checkpoint,
            &format!("{name}.post_attention_layernorm"),
            hidden,
        )?,
        mlp: Mlp::load(checkpoint, &format!("{name}.mlp"), Activation::Silu)?,
        post_feedforward_layernorm: None,
    })
}
