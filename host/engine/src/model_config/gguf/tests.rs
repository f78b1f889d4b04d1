use candle_core::quantized::{GgmlDType, gguf_file::Value};

use super::{super::*, *};
use crate::checkpoint::{
    Checkpoint,
    gguf::test_file::{TestGguf, integers, strings},
};

fn config_of(file: &TestGguf) -> Result<ModelConfig, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    Checkpoint::open(&file.write(dir.path())).map(|checkpoint| checkpoint.config().clone())
}

/// `file` under another architecture's keys.
fn renamed(mut file: TestGguf, architecture: &str) -> TestGguf {
    for (key, _) in &mut file.metadata {
        *key = key.replace("llama.", &format!("{architecture}."));
    }
    file.set(
        "general.architecture",
        Value::String(architecture.to_owned()),
    );
    file
}

#[test]
fn llama() {
    let config = config_of(&TestGguf::llama()).unwrap();
    let expected = ModelConfig {
        architecture: Architecture::Llama,
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 16,
        vocab_size: 5,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-6,
        rope: RopeConfig {
            theta: 500.0,
            local_theta: None,
            scaling: RopeScaling::None,
            style: RopeStyle::Interleaved,
        },
        query_pre_attn_scalar: 16.0,
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
        sliding_window: None,
        windowed_layers: vec![false],
        tie_word_embeddings: true,
        norm_offset: 0.0,
        embedding_scale: 1.0,
        bos_token_id: None,
        eos_token_ids: vec![TokenId(0)],
    };
    assert_eq!(config, expected);
}

#[test]
fn llama_with_its_own_output_layer_and_rope_divisors() {
    let mut file = TestGguf::llama();
    file.tensor("output.weight", &[5, 32], GgmlDType::F32);
    file.tensor("rope_freqs.weight", &[8], GgmlDType::F32);
    let error = config_of(&file).unwrap_err();
    assert!(
        error.to_string().contains("`rope_freqs.weight` holds -1"),
        "{error}"
    );
    file.tensors.pop();
    assert!(!config_of(&file).unwrap().tie_word_embeddings);
}

#[test]
fn gemma3_windows_five_layers_of_six() {
    let mut file = renamed(TestGguf::llama(), "gemma3");
    file.set("gemma3.block_count", Value::U32(12));
    file.set("gemma3.attention.sliding_window", Value::U32(8));
    file.set("gemma3.attention.key_length", Value::U32(16));
    file.set("gemma3.rope.scaling.type", Value::String("linear".into()));
    file.set("gemma3.rope.scaling.factor", Value::F32(8.0));
    let config = config_of(&file).unwrap();
    let full: Vec<usize> = (0..12)
        .filter(|layer| !config.windowed_layers[*layer])
        .collect();
    assert_eq!(full, [5, 11]);
    assert_eq!(config.sliding_window, Some(8));
    assert_eq!(config.rope.local_theta, Some(10_000.0));
    assert_eq!(config.rope.scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!(config.rope.style, RopeStyle::Halves);
    assert_eq!(config.embedding_scale, 32.0_f32.sqrt());
    assert_eq!(config.norm_offset, 0.0);
}

#[test]
fn gemma2_has_caps_and_windows_every_second_layer() {
    let mut file = renamed(TestGguf::llama(), "gemma2");
    file.set("gemma2.block_count", Value::U32(4));
    file.set("gemma2.attention.key_length", Value::U32(16));
    let config = config_of(&file).unwrap();
    assert_eq!(config.windowed_layers, [true, false, true, false]);
    assert_eq!(config.sliding_window, Some(4096));
    assert_eq!(config.attn_logit_softcapping, Some(50.0));
    assert_eq!(config.final_logit_softcapping, Some(30.0));
    assert_eq!(config.query_pre_attn_scalar, 16.0);
    // The 27B, known by its depth, scales by hidden size over heads.
    file.set("gemma2.block_count", Value::U32(46));
    file.set("gemma2.attention.head_count", Value::U32(4));
    assert_eq!(config_of(&file).unwrap().query_pre_attn_scalar, 8.0);
}

#[test]
fn end_tokens_are_the_union_of_ids_and_names() {
    let mut file = TestGguf::llama();
    file.set(
        "tokenizer.ggml.tokens",
        strings(&[
            "<|im_end|>",
            "a",
            "<end_of_turn>",
            "<|eot_id|>",
            "<|endoftext|>",
        ]),
    );
    // `<|eot_id|>` is ordinary text in this vocabulary.
    file.set("tokenizer.ggml.token_type", integers(&[3, 1, 3, 1, 3]));
    file.set("tokenizer.ggml.eos_token_id", Value::U32(1));
    let ids = [0, 1, 2, 4].map(TokenId);
    assert_eq!(config_of(&file).unwrap().eos_token_ids, ids);
}

#[test]
fn a_prompt_begins_with_bos_only_where_the_file_says_so() {
    let mut file = TestGguf::llama();
    file.set("tokenizer.ggml.bos_token_id", Value::U32(1));
    assert_eq!(config_of(&file).unwrap().bos_token_id, None);
    file.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    assert_eq!(config_of(&file).unwrap().bos_token_id, Some(TokenId(1)));
    file.set("tokenizer.ggml.bos_token_id", Value::U32(5));
    let error = config_of(&file).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("token 5 is outside the vocabulary of 5"),
        "{error}"
    );
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let error = config_of(&renamed(TestGguf::llama(), "qwen3moe")).unwrap_err();
    assert!(matches!(
        error,
        LoadError::UnsupportedArchitecture { ref architecture, .. } if architecture == "qwen3moe"
    ));
    let mut file = TestGguf::llama();
    file.set("llama.rope.scaling.type", Value::String("yarn".into()));
    let error = config_of(&file).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`llama.rope.scaling.type` = yarn"),
        "{error}"
    );
    let mut file = TestGguf::llama();
    file.set("llama.rope.dimension_count", Value::U32(8));
    let error = config_of(&file).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`llama.rope.dimension_count` = 8"),
        "{error}"
    );
}

#[test]
fn impossible_numbers_are_named() {
    for (key, value, reason) in [
        (
            "llama.block_count",
            0,
            "`llama.block_count` is 0, expected a whole number from 1",
        ),
        (
            "llama.block_count",
            1 << 20,
            "`llama.block_count` is 1048576",
        ),
        (
            "llama.attention.head_count_kv",
            3,
            "no multiple of `num_key_value_heads`, 3",
        ),
    ] {
        let mut file = TestGguf::llama();
        file.set(key, Value::U32(value));
        let error = config_of(&file).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let mut file = TestGguf::llama();
    file.unset("llama.context_length");
    assert!(
        config_of(&file)
            .unwrap_err()
            .to_string()
            .contains("`llama.context_length` is missing")
    );
}
