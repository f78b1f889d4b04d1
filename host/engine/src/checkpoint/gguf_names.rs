//! The hub's tensor names in GGUF's spelling.

use crate::model_config::Architecture;

/// The GGUF name of a tensor, `None` if no such tensor exists in that format.
pub(crate) fn gguf_name(architecture: Architecture, hub_name: &str) -> Option<String> {
    match hub_name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
        "model.norm.weight" => return Some("output_norm.weight".to_owned()),
        "lm_head.weight" => return Some("output.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = hub_name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, parameter) = rest.rsplit_once('.')?;
    let module = match (module, architecture) {
        ("self_attn.q_proj", _) => "attn_q",
        ("self_attn.k_proj", _) => "attn_k",
        ("self_attn.v_proj", _) => "attn_v",
        ("self_attn.o_proj", _) => "attn_output",
        ("self_attn.q_norm", _) => "attn_q_norm",
        ("self_attn.k_norm", _) => "attn_k_norm",
        ("mlp.gate_proj", _) => "ffn_gate",
        ("mlp.up_proj", _) => "ffn_up",
        ("mlp.down_proj", _) => "ffn_down",
        ("input_layernorm", _) => "attn_norm",
        // Llama has two norms, and its second one comes after attention and before the MLP: the
        // hub names it by the former, GGUF by the latter. Gemma has one in each place.
        ("post_attention_layernorm", Architecture::Llama) => "ffn_norm",
        ("post_attention_layernorm", _) => "post_attention_norm",
        ("pre_feedforward_layernorm", _) => "ffn_norm",
        ("post_feedforward_layernorm", _) => "post_ffw_norm",
        _ => return None,
    };
    Some(format!("blk.{layer}.{module}.{parameter}"))
}
