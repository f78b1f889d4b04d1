//! A checkpoint of Gemma 2 9B's shape without its weights: a file of zeros that takes no room on
//! the disk, and nothing is read of it where weights are random.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use gapura_engine::Checkpoint;
use serde_json::{Map, Value, json};

use crate::Outcome;

/// A vocabulary of bytes; ids beyond it are numbers like any other.
const TOKENIZER: &str = include_str!("../../../../tests/fixtures/tiny-gemma2-b/tokenizer.json");

/// Sizes of a model.
struct Sizes {
    layers: u64,
    hidden: u64,
    inner: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    vocab: u64,
    window: u64,
    context: u64,
}

const GEMMA_2_9B: Sizes = Sizes {
    layers: 42,
    hidden: 3584,
    inner: 14_336,
    heads: 16,
    kv_heads: 8,
    head_dim: 256,
    vocab: 256_000,
    window: 4096,
    context: 8192,
};

/// The same in small, to rehearse with.
const TINY: Sizes = Sizes {
    layers: 2,
    hidden: 256,
    inner: 512,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    vocab: 512,
    window: 64,
    context: 512,
};

/// The folder, which lives as long as its name does, and what it holds.
pub(crate) fn checkpoint(is_full_size: bool) -> Outcome<(tempfile::TempDir, Checkpoint)> {
    let folder = tempfile::tempdir()?;
    write(folder.path(), is_full_size)?;
    let checkpoint = Checkpoint::open(folder.path())?;
    Ok((folder, checkpoint))
}

/// Writes the files into `folder`.
pub(crate) fn write(folder: &Path, is_full_size: bool) -> Outcome<()> {
    let sizes = if is_full_size { GEMMA_2_9B } else { TINY };
    let write = |name: &str, value: &Value| fs::write(folder.join(name), value.to_string());
    write("config.json", &config(&sizes))?;
    write("generation_config.json", &json!({ "eos_token_id": [1] }))?;
    fs::write(folder.join("tokenizer.json"), TOKENIZER)?;
    let (header, data_bytes) = header(&sizes);
    let header = header.to_string();
    let mut file = File::create(folder.join("model.safetensors"))?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.set_len(8 + header.len() as u64 + data_bytes)?;
    Ok(())
}

fn config(sizes: &Sizes) -> Value {
    json!({
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "head_dim": sizes.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.inner,
        "max_position_embeddings": sizes.context,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
        "query_pre_attn_scalar": sizes.head_dim,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "sliding_window": sizes.window,
        "torch_dtype": "bfloat16",
        "vocab_size": sizes.vocab,
    })
}

/// The header of a safetensors file, and the bytes of the data behind it.
fn header(sizes: &Sizes) -> (Value, u64) {
    let mut tensors = Map::new();
    let mut end = 0;
    let mut add = |name: String, shape: &[u64]| {
        let begin = end;
        end += 2 * shape.iter().product::<u64>();
        let tensor = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [begin, end] });
        tensors.insert(name, tensor);
    };
    let (hidden, inner) = (sizes.hidden, sizes.inner);
    let (q, kv) = (
        sizes.heads * sizes.head_dim,
        sizes.kv_heads * sizes.head_dim,
    );
    add("model.embed_tokens.weight".into(), &[sizes.vocab, hidden]);
    for layer in 0..sizes.layers {
        let mut of_layer =
            |part: &str, shape: &[u64]| add(format!("model.layers.{layer}.{part}.weight"), shape);
        of_layer("self_attn.q_proj", &[q, hidden]);
        of_layer("self_attn.k_proj", &[kv, hidden]);
        of_layer("self_attn.v_proj", &[kv, hidden]);
        of_layer("self_attn.o_proj", &[hidden, q]);
        of_layer("mlp.gate_proj", &[inner, hidden]);
        of_layer("mlp.up_proj", &[inner, hidden]);
        of_layer("mlp.down_proj", &[hidden, inner]);
        for norm in [
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ] {
            of_layer(norm, &[hidden]);
        }
    }
    add("model.norm.weight".into(), &[hidden]);
    (Value::Object(tensors), end)
}
