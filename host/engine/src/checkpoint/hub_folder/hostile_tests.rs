//! Safetensors and indexes that someone made to do harm: each is refused in words that say what
//! is wrong.

use std::fs;

use serde_json::{Value, json};

use super::HubFolder;
use crate::error::LoadError;

/// A file with this header and so many bytes of data.
fn safetensors(header: &str, data_len: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data_len, 0);
    bytes
}

fn tensor(dtype: &str, shape: &[u64], offsets: [u64; 2]) -> Value {
    json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets })
}

fn open(bytes: &[u8]) -> Result<HubFolder, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    HubFolder::open(dir.path())
}

fn refusal(bytes: &[u8]) -> String {
    match open(bytes) {
        Err(LoadError::Malformed {
            expected: "safetensors file",
            reason,
            ..
        }) => reason,
        other => panic!("expected a malformed file, got {other:?}"),
    }
}

#[test]
fn a_file_that_tells_the_truth_is_read() {
    let header = json!({ "x": tensor("F32", &[3, 4], [0, 48]) }).to_string();
    let folder = open(&safetensors(&header, 48)).unwrap();
    assert_eq!(folder.tensor("x").unwrap().shape(), [3, 4]);
}

#[test]
fn header_lengths() {
    for len in [100, 1 << 20, 1 << 60, u64::MAX, u64::MAX - 7] {
        let mut bytes = safetensors("{}", 16);
        bytes[..8].copy_from_slice(&len.to_le_bytes());
        assert!(!refusal(&bytes).is_empty(), "{len}");
    }
    for bytes in [&b""[..], b"\x02\0\0\0", b"\0\0\0\0\0\0\0\0"] {
        assert!(!refusal(bytes).is_empty());
    }
}

#[test]
fn headers_that_are_no_header() {
    let deep = "[".repeat(100_000);
    let deep_metadata = format!(r#"{{"__metadata__":{{"a":{}"#, "{\"a\":".repeat(100_000));
    for header in ["", "{", "[]", "\u{0}", "null", &deep, &deep_metadata] {
        assert!(!refusal(&safetensors(header, 0)).is_empty(), "{header:.20}");
    }
    let mut not_utf8 = safetensors("{}", 0);
    not_utf8[8] = 0xff;
    assert!(!refusal(&not_utf8).is_empty());
}

#[test]
fn offsets() {
    let wrong = [
        // Past the end, before the beginning, the wrong way round, with a hole, unaccounted for.
        json!({ "x": tensor("F32", &[12], [0, 48]), "y": tensor("F32", &[4], [48, 64]) }),
        json!({ "x": tensor("F32", &[1 << 40], [0, 1 << 42]) }),
        json!({ "x": tensor("F32", &[0], [48, 0]) }),
        json!({ "x": tensor("F32", &[8], [16, 48]) }),
        json!({ "x": tensor("F32", &[8], [0, 32]) }),
        // Overlapping, whole and in part.
        json!({ "x": tensor("F32", &[12], [0, 48]), "y": tensor("F32", &[12], [0, 48]) }),
        json!({ "x": tensor("F32", &[8], [0, 32]), "y": tensor("F32", &[8], [16, 48]) }),
        // Another dtype or shape than the bytes are for.
        json!({ "x": tensor("F16", &[12], [0, 48]) }),
        json!({ "x": tensor("F32", &[13], [0, 48]) }),
        json!({ "x": tensor("Q4_0", &[12], [0, 48]) }),
        json!({ "x": { "dtype": "F32", "shape": [-12], "data_offsets": [0, 48] } }),
        json!({ "x": { "dtype": "F32", "shape": [12], "data_offsets": [0] } }),
        // Products that overflow, or wrap to what is there.
        json!({ "x": tensor("F32", &[1 << 32, 1 << 32], [0, 48]) }),
        json!({ "x": tensor("F32", &[(1 << 62) + 12], [0, 48]) }),
        json!({ "x": tensor("F32", &[u64::MAX, u64::MAX], [0, 48]) }),
    ];
    for header in wrong {
        assert!(
            !refusal(&safetensors(&header.to_string(), 48)).is_empty(),
            "{header}"
        );
    }
}

/// Eight tensors of 2^61 bytes end where the address space does, so that the end of the data
/// plus the header wraps to the length of the file.
#[test]
fn offsets_whose_sum_wraps() {
    let size = 1_u64 << 61;
    let header_of = |end: u64| {
        let mut header = serde_json::Map::new();
        for i in 0..8 {
            let stop = if i == 7 { end } else { (i + 1) * size };
            let elements = (stop - i * size) / 4;
            header.insert(
                format!("x{i}"),
                tensor("F32", &[elements], [i * size, stop]),
            );
        }
        Value::Object(header).to_string()
    };
    let header_len = header_of(u64::MAX - 1023).len() as u64;
    for data_len in 0..64 {
        let end = 0_u64.wrapping_sub(8 + header_len).wrapping_add(data_len);
        let header = header_of(end);
        let bytes = safetensors(&header, data_len as usize);
        assert!(!refusal(&bytes).is_empty(), "{data_len}");
    }
}

#[test]
fn empty_shapes() {
    let header = json!({ "x": tensor("F32", &[4, 0], [0, 0]) }).to_string();
    assert_eq!(
        refusal(&safetensors(&header, 0)),
        "tensor `x` has the empty shape [4, 0]"
    );
}

#[test]
fn kinds_that_no_kernel_reads() {
    for dtype in ["I64", "BOOL", "F64", "F8_E4M3"] {
        let bytes = if dtype == "I64" || dtype == "F64" {
            8
        } else {
            1
        };
        let header = json!({ "x": tensor(dtype, &[4], [0, 4 * bytes]) }).to_string();
        match open(&safetensors(&header, 4 * bytes as usize)) {
            Err(LoadError::UnsupportedDtype { tensor, dtype, .. }) => {
                assert_eq!(tensor, "x");
                assert!(!dtype.is_empty());
            }
            other => panic!("{other:?}"),
        }
    }
}

fn file_of(name: &str) -> Vec<u8> {
    let header = json!({ name: tensor("F32", &[4], [0, 16]) }).to_string();
    safetensors(&header, 16)
}

fn with_index(weight_map: &str, files: &[(&str, &str)]) -> Result<HubFolder, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    let index = format!(r#"{{"weight_map":{weight_map}}}"#);
    fs::write(dir.path().join(super::INDEX_FILE), index).unwrap();
    for (file, tensor) in files {
        fs::write(dir.path().join(file), file_of(tensor)).unwrap();
    }
    HubFolder::open(dir.path())
}

#[test]
fn a_tensor_in_two_files_or_under_two_names() {
    let index = r#"{"x": "a.safetensors", "y": "b.safetensors"}"#;
    let error = with_index(index, &[("a.safetensors", "x"), ("b.safetensors", "x")]).unwrap_err();
    assert!(
        error.to_string().ends_with("tensor `x` is there twice"),
        "{error}"
    );
    let header = json!({
        "model.x": tensor("F32", &[4], [0, 16]),
        "language_model.model.x": tensor("F32", &[4], [16, 32]),
    });
    let reason = refusal(&safetensors(&header.to_string(), 32));
    assert!(reason.ends_with("is there twice"), "{reason}");
}

#[test]
fn indexes() {
    let files = [("a.safetensors", "x")];
    for outside in [
        "../a.safetensors",
        "/etc/passwd",
        "a/../../b",
        "sub/a.safetensors",
        ".",
        "..",
        "",
    ] {
        let error = with_index(&json!({ "x": outside }).to_string(), &files).unwrap_err();
        assert!(
            error.to_string().contains("not a file of the folder"),
            "{outside}: {error}"
        );
    }
    let error = with_index(r#"{"x": "b.safetensors"}"#, &files).unwrap_err();
    assert!(matches!(error, LoadError::MissingFile { file, .. } if file == "b.safetensors"));
    let error = with_index(r#"{"y": "a.safetensors"}"#, &files).unwrap_err();
    assert!(matches!(error, LoadError::MissingTensor { tensor } if tensor == "y"));
    for broken in ["7", "[]", "{\"x\": 7}", "{\"x\": ", &"[".repeat(100_000)] {
        let error = with_index(broken, &files).unwrap_err();
        assert!(
            matches!(error, LoadError::Malformed { .. }),
            "{broken:.20}: {error}"
        );
    }
}

/// A folder in the place of a file is named; so is a pipe, which is not waited for.
#[test]
fn shards_that_are_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    fs::create_dir(&path).unwrap();
    let error = HubFolder::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
    fs::remove_dir(&path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    if made.is_ok_and(|status| status.success()) {
        let error = HubFolder::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
}
