use std::{fs, sync::Arc};

use candle_core::{
    Device,
    quantized::{GgmlDType, gguf_file::Value},
};
use gapura_kernels::WeightType;

use super::{super::Checkpoint, test_file::TestGguf, *};

pub(super) fn read_bytes(bytes: &[u8]) -> Result<GgufFile, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    GgufFile::read(Arc::new(MappedFile::open(&path)?))
}

pub(super) fn reason_of(result: Result<GgufFile, LoadError>) -> String {
    match result {
        Err(LoadError::Malformed {
            expected: "GGUF file",
            reason,
            ..
        }) => reason,
        other => panic!("expected a malformed file, got {other:?}"),
    }
}

/// Every kind that the kernels read, as candle calls it and as we do.
const KINDS: [(GgmlDType, WeightType); 13] = [
    (GgmlDType::F32, WeightType::F32),
    (GgmlDType::F16, WeightType::F16),
    (GgmlDType::BF16, WeightType::BF16),
    (GgmlDType::Q4_0, WeightType::Q4_0),
    (GgmlDType::Q4_1, WeightType::Q4_1),
    (GgmlDType::Q5_0, WeightType::Q5_0),
    (GgmlDType::Q5_1, WeightType::Q5_1),
    (GgmlDType::Q8_0, WeightType::Q8_0),
    (GgmlDType::Q2K, WeightType::Q2K),
    (GgmlDType::Q3K, WeightType::Q3K),
    (GgmlDType::Q4K, WeightType::Q4K),
    (GgmlDType::Q5K, WeightType::Q5K),
    (GgmlDType::Q6K, WeightType::Q6K),
];

#[test]
fn reads_what_candle_writes() {
    let mut file = TestGguf::llama();
    file.set("a.u8", Value::U8(7));
    file.set("a.i64", Value::I64(-7));
    file.set("a.f64", Value::F64(0.5));
    file.set("a.bool", Value::Bool(true));
    file.set("a.floats", test_file::floats(&[1.0, -2.5]));
    file.tensor("q4k", &[3, 512], GgmlDType::Q4K);
    for (i, (dtype, _)) in KINDS.iter().enumerate() {
        file.tensor(&format!("kind{i}"), &[2, 512], *dtype);
    }
    file.tensor("f16", &[2, 3], GgmlDType::F16);
    let read = read_bytes(&file.bytes()).unwrap();

    assert_eq!(read.number("a.u8").unwrap(), Some(7));
    assert_eq!(read.float("a.i64").unwrap(), Some(-7.0));
    assert_eq!(read.float("a.f64").unwrap(), Some(0.5));
    assert_eq!(read.bool("a.bool").unwrap(), Some(true));
    assert_eq!(read.floats("a.floats").unwrap(), Some(vec![1.0, -2.5]));
    assert_eq!(
        read.integers("tokenizer.ggml.token_type").unwrap(),
        Some(vec![3, 1, 1, 1, 1])
    );
    assert_eq!(
        read.strings("tokenizer.ggml.merges").unwrap().unwrap(),
        ["a b"]
    );
    assert_eq!(
        read.string("general.architecture").unwrap().as_deref(),
        Some("llama")
    );
    assert_eq!(read.number("not.there").unwrap(), None);

    for (name, tensor) in &file.tensors {
        let weight = read.weight(name).unwrap();
        assert_eq!(weight.shape(), tensor.shape().dims());
        let expected = tensor
            .dequantize(&Device::Cpu)
            .unwrap()
            .flatten_all()
            .unwrap();
        let expected = expected.to_vec1::<f32>().unwrap();
        for (found, expected) in weight.to_f32().iter().zip(&expected) {
            assert!(
                (found - expected).abs() < 1e-6,
                "{name}: {found} is not {expected}"
            );
        }
    }
    for (i, (_, kind)) in KINDS.iter().enumerate() {
        let weight = read.weight(&format!("kind{i}")).unwrap();
        assert_eq!(weight.weight_type(), *kind);
    }
}

/// Whatever is missing at the end, opening says so, and neither panics nor aborts.
#[test]
fn every_truncation_is_refused() {
    let bytes = TestGguf::llama().bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    // The last tensor ends before the padding after it.
    let data_end = bytes.len() - bytes.len() % 32;
    for cut in 0..data_end - 31 {
        fs::write(&path, &bytes[..cut]).unwrap();
        let error = Checkpoint::open(&path).expect_err("a cut file");
        assert!(
            matches!(error, LoadError::Malformed { .. }),
            "cut at {cut}: {error}"
        );
    }
    fs::write(&path, &bytes).unwrap();
    Checkpoint::open(&path).unwrap().tokenizer().unwrap();
}

/// Opening and building the tokenizer end in `Ok` or a typed error for any single wrong byte.
#[test]
fn no_single_byte_can_cause_a_panic() {
    let bytes = TestGguf::llama().bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for position in 0..bytes.len() {
        for value in [0x00, 0x0d, 0xff] {
            let mut changed = bytes.clone();
            changed[position] = value;
            fs::write(&path, &changed).unwrap();
            if let Ok(checkpoint) = Checkpoint::open(&path) {
                let _ = checkpoint.tokenizer();
                for name in ["model.embed_tokens.weight", "model.norm.weight"] {
                    let _ = checkpoint.tensor(name).map(|weight| weight.to_f32());
                }
            }
        }
    }
}

#[test]
fn foreign_files_are_refused() {
    assert_eq!(reason_of(read_bytes(b"")), "it is empty");
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0";
    assert_eq!(reason_of(read_bytes(png)), "it does not begin with `GGUF`");
    let mut old = TestGguf::llama().bytes();
    old[4] = 1;
    assert!(reason_of(read_bytes(&old)).contains("its version is 1"));
    let dir = tempfile::tempdir().unwrap();
    let missing = Checkpoint::open(&dir.path().join("none.gguf"));
    assert!(matches!(missing, Err(LoadError::Read { .. })));
}

#[test]
fn counts_beyond_the_file_allocate_nothing() {
    for field in [8, 16] {
        let mut bytes = TestGguf::llama().bytes();
        bytes[field..field + 8].copy_from_slice(&(u64::MAX / 32).to_le_bytes());
        assert!(reason_of(read_bytes(&bytes)).contains("cannot hold"));
    }
    // A string array whose length is absurd.
    let mut bytes = TestGguf::llama().bytes();
    let key = b"tokenizer.ggml.tokens";
    let at = bytes
        .windows(key.len())
        .position(|window| window == key)
        .unwrap()
        + key.len()
        + 8;
    bytes[at..at + 8].copy_from_slice(&(1_u64 << 61).to_le_bytes());
    assert!(reason_of(read_bytes(&bytes)).contains("`tokenizer.ggml.tokens`: a list of"));
}

#[test]
fn an_unknown_tensor_type_is_named() {
    for (kind, name) in [
        (9_u32, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (23, "IQ4_XS"),
        (24, "I8"),
        (34, "TQ1_0"),
        (39, "MXFP4"),
        (99, "number 99"),
        (u32::MAX, "number 4294967295"),
    ] {
        let mut bytes = TestGguf::llama().bytes();
        let key = b"token_embd.weight";
        let at = bytes
            .windows(key.len())
            .position(|window| window == key)
            .unwrap();
        let at = at + key.len() + 4 + 2 * 8;
        bytes[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        match read_bytes(&bytes) {
            Err(LoadError::UnsupportedDtype {
                tensor,
                dtype,
                supported,
            }) => {
                assert_eq!(
                    (tensor.as_str(), dtype.as_str()),
                    ("token_embd.weight", name)
                );
                assert!(supported.contains("Q2_K"));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn alignment_must_be_a_power_of_two() {
    for alignment in [0, 24, 1 << 30] {
        let mut file = TestGguf::llama();
        file.set("general.alignment", Value::U32(alignment));
        assert!(reason_of(read_bytes(&file.bytes())).contains("`general.alignment`"));
    }
}

#[test]
fn deep_lists_do_not_overflow_the_stack() {
    let mut file = TestGguf::llama();
    let deep = (0..60).fold(Value::U8(0), |value, _| Value::Array(vec![value]));
    file.set("deep", deep);
    assert!(reason_of(read_bytes(&file.bytes())).contains("nested"));
}

#[test]
fn one_part_of_several_is_refused() {
    let mut file = TestGguf::llama();
    file.set("split.count", Value::U16(3));
    let error = read_bytes(&file.bytes()).unwrap_err();
    assert!(error.to_string().contains("`split.count` = 3"), "{error}");
}

#[test]
fn a_value_of_the_wrong_kind_is_named() {
    let mut file = TestGguf::llama();
    file.set("llama.block_count", Value::String("one".into()));
    let dir = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(&file.write(dir.path())).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`llama.block_count` is text, expected a whole number")
    );
}
