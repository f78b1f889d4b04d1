//! What the engine makes of a checkpoint's files: end tokens, roundings, and the same model
//! from either format.

use std::{fs, path::Path};

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value},
    },
};
use gapura_engine::Checkpoint;
use safetensors::SafeTensors;

use crate::{golden, support::fixture};

/// A copy of the Gemma 2 fixture, with fields of one of its JSON files changed.
fn with_fields(file: &str, fields: &[(&str, serde_json::Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("tiny-gemma2-b")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    set_fields(dir.path(), file, fields);
    dir
}

fn set_fields(dir: &Path, file: &str, fields: &[(&str, serde_json::Value)]) {
    let path = dir.join(file);
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (name, value) in fields {
        json[name] = value.clone();
    }
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn end_tokens_are_the_union_of_what_every_file_says() {
    let dir = with_fields("config.json", &[("eos_token_id", 7.into())]);
    set_fields(
        dir.path(),
        "generation_config.json",
        &[("eos_token_id", vec![8, 9].into())],
    );
    let config = Checkpoint::open(dir.path()).unwrap().config().clone();
    let ids: Vec<u32> = config.eos_token_ids.iter().map(|id| id.0).collect();
    // 1 is the tokenizer's `<eos>`, 5 the vocabulary's `<end_of_turn>`, which no field names.
    assert_eq!(ids, [1, 5, 7, 8, 9]);
}

#[test]
fn the_embedding_scale_is_rounded_to_the_checkpoints_dtype() {
    let scale = |dtype: &str| {
        let dir = with_fields("config.json", &[("torch_dtype", dtype.into())]);
        Checkpoint::open(dir.path())
            .unwrap()
            .config()
            .embedding_scale
    };
    // sqrt(96), to 24, 8 and 11 bits.
    assert_eq!(scale("float32"), 9.797_959);
    assert_eq!(scale("bfloat16"), 9.8125);
    assert_eq!(scale("float16"), 9.796_875);
}

#[test]
fn a_gguf_file_of_the_same_weights_matches_transformers_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, gguf_of(&fixture("tiny-gemma2-b"), GgmlDType::F32)).unwrap();
    golden::check(&path, &fixture("tiny-gemma2-b"));
}

/// The Gemma 2 fixture as llama.cpp's converter would write it: one is added to the norms. The
/// format has no field for the query scale, so the weights of the queries take it up. All is in
/// F32 but the embedding.
pub(crate) fn gguf_of(folder: &Path, embedding: GgmlDType) -> Vec<u8> {
    let config = Checkpoint::open(folder).unwrap().config().clone();
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let query_factor = (config.head_dim as f32 / config.query_pre_attn_scalar).sqrt();
    let mut tensors: Vec<(String, QTensor)> = Vec::new();
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
        let mut values: Vec<f32> = view
            .data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        let name = gguf_name(name);
        for value in &mut values {
            if name.contains("norm") {
                *value += 1.0;
            } else if name.contains("attn_q") {
                *value *= query_factor;
            }
        }
        let tensor = Tensor::from_vec(values, view.shape(), &Device::Cpu).unwrap();
        let dtype = match name.as_str() {
            "token_embd.weight" => embedding,
            _ => GgmlDType::F32,
        };
        tensors.push((name, QTensor::quantize(&tensor, dtype).unwrap()));
    }
    let number = |value: usize| Value::U32(u32::try_from(value).unwrap());
    let texts = |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::String).collect());
    let vocabulary = (0..config.vocab_size).map(|id| match id {
        1 => "<eos>".to_owned(),
        2 => "<bos>".to_owned(),
        // A list that is empty has no type to be written with.
        6 => "a".to_owned(),
        7 => "b".to_owned(),
        8 => "ab".to_owned(),
        id => format!("<unused{id}>"),
    });
    let metadata = [
        ("general.architecture", Value::String("gemma2".into())),
        (
            "gemma2.context_length",
            number(config.max_position_embeddings),
        ),
        ("gemma2.embedding_length", number(config.hidden_size)),
        ("gemma2.block_count", number(config.num_hidden_layers)),
        (
            "gemma2.feed_forward_length",
            number(config.intermediate_size),
        ),
        (
            "gemma2.attention.head_count",
            number(config.num_attention_heads),
        ),
        (
            "gemma2.attention.head_count_kv",
            number(config.num_key_value_heads),
        ),
        ("gemma2.attention.key_length", number(config.head_dim)),
        ("gemma2.attention.value_length", number(config.head_dim)),
        (
            "gemma2.attention.sliding_window",
            number(config.sliding_window.unwrap()),
        ),
        ("gemma2.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("gemma2.attn_logit_softcapping", Value::F32(50.0)),
        ("gemma2.final_logit_softcapping", Value::F32(30.0)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("gpt-2".into())),
        ("tokenizer.ggml.tokens", texts(vocabulary.collect())),
        ("tokenizer.ggml.merges", texts(vec!["a b".to_owned()])),
        ("tokenizer.ggml.eos_token_id", number(1)),
    ];
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let mut file = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    file.into_inner()
}

fn gguf_name(hub_name: &str) -> String {
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.layers", "blk"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ];
    names.iter().fold(hub_name.to_owned(), |name, (hub, gguf)| {
        name.replace(hub, gguf)
    })
}
