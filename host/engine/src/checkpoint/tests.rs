use std::{collections::HashMap, fs};

use candle_core::quantized::GgmlDType;
use safetensors::tensor::TensorView;
use serde_json::json;

use super::{gguf::test_file::TestGguf, *};

/// A folder with a Llama's configuration and the given shards.
fn folder(shards: &[(&str, &[(&str, safetensors::Dtype)])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "model_type": "llama", "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 3,
    });
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    for (file, tensors) in shards {
        let data: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let views: HashMap<&str, TensorView<'_>> = tensors
            .iter()
            .map(|(name, dtype)| {
                let size = 12 * dtype.bitsize() / 8;
                let view = TensorView::new(*dtype, vec![3, 4], data.get(..size).unwrap_or(&[]));
                (*name, view.unwrap())
            })
            .collect();
        fs::write(
            dir.path().join(file),
            safetensors::serialize(views, None).unwrap(),
        )
        .unwrap();
    }
    dir
}

fn index(dir: &tempfile::TempDir, entries: &[(&str, &str)]) {
    let weight_map: HashMap<&str, &str> = entries.iter().copied().collect();
    let text = json!({ "weight_map": weight_map }).to_string();
    fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
}

const F32: safetensors::Dtype = safetensors::Dtype::F32;

#[test]
fn shards_are_one_model() {
    let dir = folder(&[
        ("a.safetensors", &[("x", F32)]),
        ("b.safetensors", &[("y", F32)]),
    ]);
    index(&dir, &[("x", "a.safetensors"), ("y", "b.safetensors")]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let x = checkpoint.tensor("x").unwrap();
    assert_eq!((x.rows(), x.cols()), (3, 4));
    assert_eq!(x.to_f32(), (0..12).map(|i| i as f32).collect::<Vec<_>>());
    assert_eq!((x.matrix().rows(), x.matrix().cols()), (3, 4));
    assert_eq!(checkpoint.weight_bytes(), 96);
    assert!(checkpoint.has_tensor("y"));
    assert!(matches!(
        checkpoint.tensor("z"),
        Err(LoadError::MissingTensor { tensor }) if tensor == "z"
    ));
}

#[test]
fn a_text_models_tensors_lose_their_multimodal_prefix() {
    let names = [
        ("language_model.model.a", F32),
        ("model.language_model.b", F32),
    ];
    let dir = folder(&[("model.safetensors", &names)]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert!(checkpoint.has_tensor("model.a") && checkpoint.has_tensor("model.b"));
}

#[test]
fn what_is_missing_is_named() {
    let dir = folder(&[("a.safetensors", &[("x", F32)])]);
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(
        matches!(error, LoadError::MissingFile { ref file, .. } if file == "model.safetensors")
    );
    index(&dir, &[("x", "a.safetensors"), ("y", "b.safetensors")]);
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(matches!(error, LoadError::MissingFile { ref file, .. } if file == "b.safetensors"));
    index(&dir, &[("x", "a.safetensors"), ("y", "a.safetensors")]);
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(matches!(error, LoadError::MissingTensor { ref tensor } if tensor == "y"));
    fs::remove_file(dir.path().join("config.json")).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("has no config.json"), "{error}");
}

#[test]
fn an_index_cannot_point_outside_its_folder() {
    let dir = folder(&[("a.safetensors", &[("x", F32)])]);
    for file in [
        "../a.safetensors",
        "/etc/passwd",
        "sub/a.safetensors",
        "..",
        "",
    ] {
        index(&dir, &[("x", file)]);
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert!(
            error.to_string().contains("not a file of the folder"),
            "{file}: {error}"
        );
    }
}

#[test]
fn broken_safetensors_are_refused() {
    let dir = folder(&[("model.safetensors", &[("x", F32)])]);
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert!(
            matches!(error, LoadError::Malformed { .. }),
            "cut at {cut}: {error}"
        );
    }
    let dir = folder(&[("model.safetensors", &[("ids", safetensors::Dtype::U8)])]);
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(matches!(
        error,
        LoadError::UnsupportedDtype { ref tensor, ref dtype, .. } if tensor == "ids" && dtype == "U8"
    ));
}

#[test]
fn gguf_tensors_have_the_hubs_names() {
    let mut file = TestGguf::llama();
    for (name, shape) in [
        ("blk.0.attn_q.weight", [32, 32]),
        ("blk.0.attn_output.weight", [32, 32]),
        ("blk.0.ffn_down.weight", [32, 64]),
    ] {
        file.tensor(name, &shape, GgmlDType::Q4_0);
    }
    file.tensor("blk.0.ffn_norm.weight", &[32], GgmlDType::F32);
    let dir = tempfile::tempdir().unwrap();
    file.write(dir.path());
    // A folder that holds nothing else stands for the file.
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    for (name, shape) in [
        ("model.embed_tokens.weight", vec![5, 32]),
        ("model.norm.weight", vec![32]),
        ("model.layers.0.self_attn.q_proj.weight", vec![32, 32]),
        ("model.layers.0.mlp.down_proj.weight", vec![32, 64]),
        ("model.layers.0.post_attention_layernorm.weight", vec![32]),
    ] {
        assert_eq!(checkpoint.tensor(name).unwrap().shape(), shape, "{name}");
    }
    assert!(!checkpoint.has_tensor("lm_head.weight"));
    assert!(!checkpoint.has_tensor("model.layers.0.self_attn.q_proj.bias"));
    assert_eq!(checkpoint.chat_template(), None);
}

#[test]
fn gemmas_four_norms_keep_apart() {
    use crate::model_config::Architecture::{Gemma3, Llama};
    let name = |architecture, norm: &str| {
        gguf_names::gguf_name(architecture, &format!("model.layers.7.{norm}.weight")).unwrap()
    };
    assert_eq!(name(Gemma3, "input_layernorm"), "blk.7.attn_norm.weight");
    assert_eq!(
        name(Gemma3, "post_attention_layernorm"),
        "blk.7.post_attention_norm.weight"
    );
    assert_eq!(
        name(Gemma3, "pre_feedforward_layernorm"),
        "blk.7.ffn_norm.weight"
    );
    assert_eq!(
        name(Gemma3, "post_feedforward_layernorm"),
        "blk.7.post_ffw_norm.weight"
    );
    assert_eq!(name(Gemma3, "self_attn.q_norm"), "blk.7.attn_q_norm.weight");
    assert_eq!(
        name(Llama, "post_attention_layernorm"),
        "blk.7.ffn_norm.weight"
    );
}

#[test]
fn names_for_clients() {
    for (path, id) in [
        ("x/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("x/gemma-3-270m-Q4_K_M.gguf", "gemma-3-270m"),
        ("x/gemma-2-9b-it.bf16.gguf", "gemma-2-9b-it"),
        ("x/gemma-3-270m.gguf", "gemma-3-270m"),
        ("x/Llama-3.2-1B-IQ4_XS.gguf", "Llama-3.2-1B"),
        (
            "x/models--google--gemma-2-9b-it/snapshots/0123abc",
            "google/gemma-2-9b-it",
        ),
        ("x/my-model", "my-model"),
    ] {
        assert_eq!(model_id(Path::new(path)), id);
    }
}

#[test]
fn chat_templates_in_all_their_places() {
    let dir = folder(&[("model.safetensors", &[("x", F32)])]);
    let template = || {
        Checkpoint::open(dir.path())
            .unwrap()
            .chat_template()
            .map(str::to_owned)
    };
    assert_eq!(template(), None);
    let config = dir.path().join("tokenizer_config.json");
    let named = json!({ "chat_template": [
        { "name": "tool_use", "template": "t" }, { "name": "default", "template": "d" },
    ] });
    fs::write(&config, named.to_string()).unwrap();
    assert_eq!(template().as_deref(), Some("d"));
    fs::write(&config, json!({ "chat_template": "one" }).to_string()).unwrap();
    assert_eq!(template().as_deref(), Some("one"));
    fs::write(dir.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(template().as_deref(), Some("file"));
}
