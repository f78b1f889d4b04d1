use std::fs;

use serde_json::json;

use super::*;

/// Writes the named files into a folder and reads its configuration.
fn read_files(files: &[(&str, Value)]) -> Result<ModelConfig, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in files {
        fs::write(dir.path().join(name), value.to_string()).unwrap();
    }
    read(dir.path())
}

fn gemma2() -> Value {
    json!({
        "model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336,
        "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 256, "vocab_size": 256_000, "query_pre_attn_scalar": 256,
        "sliding_window": 4096, "rope_theta": 10_000.0, "torch_dtype": "bfloat16",
        "bos_token_id": 2, "eos_token_id": 1, "hidden_act": "gelu",
        "hidden_activation": "gelu_pytorch_tanh", "quantization_config": null,
    })
}

fn llama() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 2, "num_attention_heads": 9, "num_key_value_heads": 3,
        "vocab_size": 49_152, "rope_theta": 100_000, "hidden_act": "silu",
        "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": true,
    })
}

/// `base` with some fields replaced.
fn with(mut base: Value, changes: Value) -> Value {
    let Value::Object(changes) = changes else {
        panic!("changes are an object")
    };
    base.as_object_mut().unwrap().extend(changes);
    base
}

#[test]
fn gemma2_9b() {
    let config = read_files(&[("config.json", gemma2())]).unwrap();
    assert_eq!(config.architecture, Architecture::Gemma2);
    assert_eq!(
        config
            .windowed_layers
            .iter()
            .filter(|windowed| **windowed)
            .count(),
        21
    );
    assert!(config.windowed_layers[0] && !config.windowed_layers[1]);
    assert_eq!(config.sliding_window, Some(4096));
    assert_eq!(config.attn_logit_softcapping, Some(50.0));
    assert_eq!(config.final_logit_softcapping, Some(30.0));
    // sqrt(3584) = 59.867 is 59.75 in bf16.
    assert_eq!(config.embedding_scale, 59.75);
    assert_eq!(config.norm_offset, 1.0);
    assert!(config.tie_word_embeddings);
    assert_eq!(config.rope.style, RopeStyle::Halves);
    assert_eq!(
        (config.bos_token_id, config.eos_token_ids),
        (Some(TokenId(2)), vec![TokenId(1)])
    );
}

#[test]
fn both_spellings_of_rope_say_the_same() {
    let old = read_files(&[("config.json", gemma2())]).unwrap();
    let mut new = with(
        gemma2(),
        json!({
            "rope_parameters": { "rope_theta": 10_000.0, "rope_type": "default" },
            "dtype": "bfloat16",
        }),
    );
    for gone in ["rope_theta", "torch_dtype"] {
        new.as_object_mut().unwrap().remove(gone);
    }
    assert_eq!(read_files(&[("config.json", new)]).unwrap(), old);

    let gemma3 = json!({
        "model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048,
        "num_hidden_layers": 7, "sliding_window": 512,
    });
    let old = with(
        gemma3.clone(),
        json!({
            "rope_theta": 2e6, "rope_local_base_freq": 5000.0,
            "rope_scaling": { "rope_type": "linear", "factor": 8.0 },
            "sliding_window_pattern": 3,
        }),
    );
    let types = [
        "sliding", "sliding", "full", "sliding", "sliding", "full", "sliding",
    ];
    let new = with(
        gemma3,
        json!({
            "rope_parameters": {
                "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 2e6 },
                "sliding_attention": { "rope_type": "default", "rope_theta": 5000.0 },
            },
            "layer_types": types.map(|kind| format!("{kind}_attention")),
        }),
    );
    let old = read_files(&[("config.json", old)]).unwrap();
    assert_eq!(old.rope.theta, 2e6);
    assert_eq!(old.rope.local_theta, Some(5000.0));
    assert_eq!(old.rope.scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!(old.attn_logit_softcapping, None);
    assert_eq!(read_files(&[("config.json", new)]).unwrap(), old);
}

#[test]
fn text_config_of_a_multimodal_model() {
    let config = json!({
        "model_type": "gemma3", "eos_token_id": [1, 106], "torch_dtype": "bfloat16",
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10_240,
            "num_hidden_layers": 34, "sliding_window": 1024,
            "rope_scaling": { "rope_type": "linear", "factor": 8.0 },
        },
        "vision_config": { "hidden_size": 1152 },
    });
    let config = read_files(&[("config.json", config)]).unwrap();
    assert_eq!(
        (
            config.hidden_size,
            config.num_attention_heads,
            config.head_dim
        ),
        (2560, 8, 256)
    );
    assert_eq!(config.eos_token_ids, [1, 106].map(TokenId));
    assert_eq!(config.embedding_scale, 50.5);
}

#[test]
fn llama_has_no_gemma_in_it() {
    let config = read_files(&[("config.json", llama())]).unwrap();
    assert_eq!((config.head_dim, config.query_pre_attn_scalar), (64, 64.0));
    assert_eq!((config.embedding_scale, config.norm_offset), (1.0, 0.0));
    assert_eq!(
        (config.sliding_window, config.windowed_layers),
        (None, vec![false; 2])
    );
    let scaling = json!({
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let config = with(llama(), json!({ "rope_scaling": scaling }));
    let expected = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    assert_eq!(
        read_files(&[("config.json", config)]).unwrap().rope.scaling,
        expected
    );
}

#[test]
fn end_tokens_are_the_union_of_all_files() {
    let added = |id: u32, content: &str, special: bool| json!({ "id": id, "content": content, "special": special });
    let tokenizer = json!({ "added_tokens": [
        added(1, "<eos>", true), added(2, "<bos>", true), added(7, "<end_of_turn>", true),
        added(8, "<|endoftext|>", false),
    ] });
    let config = read_files(&[
        ("config.json", with(gemma2(), json!({ "eos_token_id": 3 }))),
        ("generation_config.json", json!({ "eos_token_id": [5, 3] })),
        ("tokenizer.json", tokenizer.clone()),
        (
            "tokenizer_config.json",
            json!({ "eos_token": { "content": "<eos>" } }),
        ),
    ]);
    assert_eq!(config.unwrap().eos_token_ids, [1, 3, 5, 7].map(TokenId));

    let without_bos = read_files(&[
        ("config.json", gemma2()),
        ("tokenizer.json", tokenizer),
        (
            "tokenizer_config.json",
            json!({ "add_bos_token": false, "bos_token": "<bos>" }),
        ),
    ]);
    assert_eq!(without_bos.unwrap().bos_token_id, None);
}

#[test]
fn bos_is_what_the_tokenizers_template_puts_first() {
    let tokenizer = json!({
        "added_tokens": [{ "id": 9, "content": "<|begin_of_text|>", "special": true }],
        "post_processor": { "type": "Sequence", "processors": [
            { "type": "ByteLevel" },
            { "type": "TemplateProcessing", "single": [
                { "SpecialToken": { "id": "<|begin_of_text|>", "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } },
            ] },
        ] },
    });
    let config = read_files(&[("config.json", llama()), ("tokenizer.json", tokenizer)]);
    assert_eq!(config.unwrap().bos_token_id, Some(TokenId(9)));
    let byte_level = json!({ "tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>" });
    let config = read_files(&[
        ("config.json", llama()),
        ("tokenizer.json", json!({ "added_tokens": [] })),
        ("tokenizer_config.json", byte_level),
    ]);
    assert_eq!(config.unwrap().bos_token_id, None);
}

#[test]
fn a_field_of_the_wrong_kind_is_named() {
    for (changes, expected) in [
        (
            json!({ "hidden_size": "3584" }),
            "`hidden_size` is \"3584\", expected a whole number",
        ),
        (
            json!({ "num_hidden_layers": -1 }),
            "`num_hidden_layers` is -1",
        ),
        (
            json!({ "num_hidden_layers": 1e18 }),
            "`num_hidden_layers` is 1e+18",
        ),
        (
            json!({ "intermediate_size": null }),
            "`intermediate_size` is missing",
        ),
        (
            json!({ "rms_norm_eps": [] }),
            "`rms_norm_eps` is [], expected a number",
        ),
        (
            json!({ "rms_norm_eps": 0 }),
            "`rms_norm_eps` is Some(0.0), expected a positive number",
        ),
        (
            json!({ "eos_token_id": "<eos>" }),
            "`eos_token_id` is \"<eos>\", expected a token id",
        ),
        (
            json!({ "eos_token_id": 256_000 }),
            "token 256000 is outside the vocabulary of 256000",
        ),
        (
            json!({ "num_key_value_heads": 5 }),
            "no multiple of `num_key_value_heads`, 5",
        ),
        (
            json!({ "layer_types": ["full_attention"] }),
            "1 layer types for 42 layers",
        ),
        (
            json!({ "layer_types": ["odd"] }),
            "`layer_types` is [\"odd\"]",
        ),
        (
            json!({ "rope_parameters": 1 }),
            "`rope_parameters` is 1, expected an object",
        ),
        (json!({ "model_type": null }), "`model_type` is missing"),
    ] {
        let error = read_files(&[("config.json", with(gemma2(), changes))]).unwrap_err();
        assert!(
            matches!(
                error,
                LoadError::Malformed {
                    expected: "config.json",
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for (changes, expected) in [
        (
            json!({ "quantization_config": { "quant_method": "bitsandbytes", "load_in_4bit": true } }),
            "`quantization_config.quant_method` = \"bitsandbytes\"",
        ),
        (
            json!({ "rope_scaling": { "type": "yarn", "factor": 4.0 } }),
            "`rope_scaling.type` = \"yarn\"",
        ),
        (json!({ "attention_bias": true }), "`attention_bias` = true"),
        (json!({ "hidden_act": "relu" }), "`hidden_act` = \"relu\""),
    ] {
        let error = read_files(&[("config.json", with(llama(), changes))]).unwrap_err();
        assert!(
            matches!(error, LoadError::UnsupportedFeature { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(expected), "{error}");
    }
    let error = read_files(&[(
        "config.json",
        with(llama(), json!({ "model_type": "mamba" })),
    )]);
    assert!(matches!(
        error,
        Err(LoadError::UnsupportedArchitecture { architecture, .. }) if architecture == "mamba"
    ));
}

#[test]
fn broken_json_says_where() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{\n \"model_type\": \n").unwrap();
    let error = read(dir.path()).unwrap_err();
    assert!(error.to_string().contains("line 3"), "{error}");
    fs::write(dir.path().join("config.json"), "[]").unwrap();
    assert!(
        read(dir.path())
            .unwrap_err()
            .to_string()
            .contains("no JSON object")
    );
}
