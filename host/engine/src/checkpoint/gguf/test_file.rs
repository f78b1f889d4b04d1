//! GGUF files for tests, written by candle, so that reader and writer have nothing in common.

use std::path::{Path, PathBuf};

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value},
    },
};

/// Metadata and tensors to write.
pub(crate) struct TestGguf {
    pub(crate) metadata: Vec<(String, Value)>,
    pub(crate) tensors: Vec<(String, QTensor)>,
}

impl TestGguf {
    /// A Llama of one layer without its layer's tensors: enough for configuration and vocabulary.
    /// Its vocabulary is byte-level: `<|im_end|>` (0), `a` (1), `b` (2), `ab` (3), `Ġ` (4).
    pub(crate) fn llama() -> Self {
        let mut file = Self {
            metadata: Vec::new(),
            tensors: Vec::new(),
        };
        file.set("general.architecture", Value::String("llama".into()));
        for (key, value) in [
            ("context_length", 64),
            ("embedding_length", 32),
            ("block_count", 1),
            ("feed_forward_length", 64),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
            ("rope.dimension_count", 16),
        ] {
            file.set(&format!("llama.{key}"), Value::U32(value));
        }
        file.set("llama.rope.freq_base", Value::F32(500.0));
        file.set("tokenizer.ggml.model", Value::String("gpt2".into()));
        file.set("tokenizer.ggml.pre", Value::String("smollm".into()));
        file.set(
            "tokenizer.ggml.tokens",
            strings(&["<|im_end|>", "a", "b", "ab", "Ġ"]),
        );
        file.set("tokenizer.ggml.token_type", integers(&[3, 1, 1, 1, 1]));
        file.set("tokenizer.ggml.merges", strings(&["a b"]));
        file.set("tokenizer.ggml.eos_token_id", Value::U32(0));
        file.tensor("token_embd.weight", &[5, 32], GgmlDType::Q8_0);
        file.tensor("output_norm.weight", &[32], GgmlDType::F32);
        file
    }

    /// Adds or replaces a metadata entry.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.unset(key);
        self.metadata.push((key.to_owned(), value));
    }

    /// Takes a metadata entry out.
    pub(crate) fn unset(&mut self, key: &str) {
        self.metadata.retain(|(name, _)| name != key);
    }

    /// Adds a tensor of values between -1 and 1.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize], dtype: GgmlDType) {
        let len: usize = shape.iter().product();
        let values: Vec<f32> = (0..len)
            .map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0)
            .collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        self.tensors
            .push((name.to_owned(), QTensor::quantize(&tensor, dtype).unwrap()));
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let metadata: Vec<(&str, &Value)> = self
            .metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        let tensors: Vec<(&str, &QTensor)> = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        let mut file = std::io::Cursor::new(Vec::new());
        gguf_file::write(&mut file, &metadata, &tensors).unwrap();
        file.into_inner()
    }

    /// Writes `model.gguf` into `dir`.
    pub(crate) fn write(&self, dir: &Path) -> PathBuf {
        let path = dir.join("model.gguf");
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}

pub(crate) fn strings(texts: &[&str]) -> Value {
    Value::Array(
        texts
            .iter()
            .map(|text| Value::String((*text).to_owned()))
            .collect(),
    )
}

pub(crate) fn integers(numbers: &[i32]) -> Value {
    Value::Array(numbers.iter().copied().map(Value::I32).collect())
}

pub(crate) fn floats(numbers: &[f32]) -> Value {
    Value::Array(numbers.iter().copied().map(Value::F32).collect())
}
