//! Checkpoints that contradict themselves or the machine: one typed error each, before anything
//! runs.

use std::{collections::BTreeMap, fs, path::Path};

use gapura_engine::{CpuOptions, CpuRunner, KvPlan, LoadError, ModelRunner as _};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::support::fixture;

type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

/// A copy of a fixture with other tensors.
fn changed(name: &str, change: impl FnOnce(&mut Tensors)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        fs::copy(fixture(name).join(file), dir.path().join(file)).unwrap();
    }
    let bytes = fs::read(fixture(name).join("model.safetensors")).unwrap();
    let mut tensors: Tensors = SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .map(|(name, view)| {
            (
                name.to_owned(),
                (view.shape().to_vec(), view.data().to_vec()),
            )
        })
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (shape, data))| {
        (
            name.as_str(),
            TensorView::new(Dtype::F32, shape.clone(), data).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    dir
}

fn load(path: &Path) -> LoadError {
    CpuRunner::load(path, CpuOptions::default())
        .err()
        .expect("it must not load")
}

#[test]
fn a_missing_tensor_is_named() {
    let name = "model.layers.2.mlp.up_proj.weight";
    let dir = changed("tiny-gemma2-b", |tensors| drop(tensors.remove(name)));
    assert!(matches!(load(dir.path()), LoadError::MissingTensor { tensor } if tensor == name));
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let name = "model.layers.0.self_attn.k_proj.weight";
    let dir = changed("tiny-llama", |tensors| {
        let (shape, data) = tensors.get_mut(name).unwrap();
        shape[0] -= 1;
        data.truncate(shape[0] * shape[1] * 4);
    });
    let LoadError::WrongShape {
        tensor,
        found,
        expected,
    } = load(dir.path())
    else {
        panic!("another error");
    };
    assert_eq!(
        (tensor.as_str(), found, expected),
        (name, vec![23, 48], vec![24, 48])
    );
}

#[test]
fn a_bias_is_refused_rather_than_lost() {
    let dir = changed("tiny-llama", |tensors| {
        tensors.insert(
            "model.layers.1.self_attn.q_proj.bias".into(),
            (vec![48], vec![0; 192]),
        );
    });
    let error = load(dir.path());
    assert!(
        matches!(&error, LoadError::UnsupportedFeature { feature, .. }
        if feature.contains("model.layers.1.self_attn.q_proj.bias")),
        "{error}"
    );
}

#[test]
fn a_model_larger_than_memory_is_refused_before_loading() {
    let dir = changed("tiny-llama", |_| {});
    // A file that claims 1.28 TB and occupies a page: its holes are never read.
    let header = r#"{"model.embed_tokens.weight":{"dtype":"F32","shape":[320,1000000000],"data_offsets":[0,1280000000000]}}"#;
    let file = fs::File::create(dir.path().join("model.safetensors")).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    std::io::Write::write_all(&mut &file, &bytes).unwrap();
    file.set_len(bytes.len() as u64 + 1_280_000_000_000)
        .unwrap();
    let error = load(dir.path());
    assert!(
        matches!(
            error,
            LoadError::NotEnoughMemory {
                required_bytes: 1_280_000_000_000,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_cache_larger_than_memory_is_said_before_it_is_made() {
    let path = fixture("tiny-gemma2-b");
    let mut model = CpuRunner::load(&path, CpuOptions::default()).unwrap();
    let plan = KvPlan {
        num_full_blocks: u32::MAX,
        num_windowed_blocks: u32::MAX,
    };
    let error = model.runner.allocate_kv(plan).unwrap_err();
    assert!(error.message.contains("--kv-memory-mib"), "{error}");
}
