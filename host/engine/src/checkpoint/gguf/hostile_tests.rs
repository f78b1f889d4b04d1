//! Files that someone made to do harm: each is refused in words that say what is wrong, and none
//! makes the reader allocate by what the file claims.

use super::tests::{read_bytes, reason_of};

/// GGUF byte by byte, so that it can lie.
struct Raw {
    num_tensors: u64,
    num_values: u64,
    metadata: Vec<u8>,
    directory: Vec<u8>,
    data: Vec<u8>,
}

impl Raw {
    fn new() -> Self {
        Self {
            num_tensors: 0,
            num_values: 0,
            metadata: Vec::new(),
            directory: Vec::new(),
            data: vec![0; 256],
        }
    }

    /// A metadata entry with the bytes of its value.
    fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.num_values += 1;
        put_text(&mut self.metadata, key);
        self.metadata.extend(kind.to_le_bytes());
        self.metadata.extend(value);
        self
    }

    /// A float32 tensor; dimensions as the file has them, fastest first.
    fn tensor(self, name: &str, dimensions: &[u64], offset: u64) -> Self {
        self.tensor_of(0, name, dimensions, offset)
    }

    fn tensor_of(mut self, kind: u32, name: &str, dimensions: &[u64], offset: u64) -> Self {
        self.num_tensors += 1;
        put_text(&mut self.directory, name);
        self.directory
            .extend((dimensions.len() as u32).to_le_bytes());
        for dimension in dimensions {
            self.directory.extend(dimension.to_le_bytes());
        }
        self.directory.extend(kind.to_le_bytes());
        self.directory.extend(offset.to_le_bytes());
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(self.num_tensors.to_le_bytes());
        bytes.extend(self.num_values.to_le_bytes());
        bytes.extend(&self.metadata);
        bytes.extend(&self.directory);
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }

    fn refusal(&self) -> String {
        reason_of(read_bytes(&self.bytes()))
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

const ARRAY: u32 = 9;
const STRING: u32 = 8;
const U8: u32 = 0;
const U32: u32 = 4;

/// An array's value: its kind, length and first bytes.
fn array(kind: u32, len: u64, rest: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), rest].concat()
}

#[test]
fn a_file_that_tells_the_truth_is_read() {
    let file = Raw::new()
        .entry("a", U8, &[7])
        .tensor("x", &[4, 3], 0)
        .tensor("y", &[8], 64);
    let read = read_bytes(&file.bytes()).unwrap();
    assert_eq!(read.number("a").unwrap(), Some(7));
    assert_eq!(read.weight("x").unwrap().shape(), [3, 4]);
    let bytes = read.weights().map(|weight| weight.bytes().len());
    assert_eq!(bytes.sum::<usize>(), 48 + 32);
}

#[test]
fn counts_of_2_to_the_60() {
    let mut file = Raw::new();
    file.num_tensors = 1 << 60;
    assert!(
        file.refusal()
            .contains("claims 1152921504606846976 tensors")
    );
    let mut file = Raw::new();
    file.num_values = 1 << 60;
    assert!(file.refusal().contains("bytes cannot hold"));
    // Few bytes an entry, and bytes enough: the limit holds all the same.
    let mut file = Raw::new();
    file.num_values = 100_000;
    file.data.resize(4 << 20, 0);
    assert_eq!(
        file.refusal(),
        "it claims 100000 entries, at most 65536 are allowed"
    );
}

#[test]
fn texts_longer_than_the_file() {
    for len in [1_u64 << 60, u64::MAX, 300] {
        let file = Raw::new().entry("a", STRING, &len.to_le_bytes());
        let reason = file.refusal();
        assert!(reason.starts_with("`a`: it ends at byte"), "{reason}");
    }
    let mut file = Raw::new();
    file.num_values = 1;
    file.metadata = u64::MAX.to_le_bytes().to_vec();
    assert!(file.refusal().starts_with("a metadata key: it ends"));
}

#[test]
fn names_longer_than_the_format_allows() {
    let file = Raw::new().tensor(&"x".repeat(65), &[4], 0);
    assert_eq!(
        file.refusal(),
        "a tensor's name of 65 bytes, at most 64 are allowed"
    );
    let file = Raw::new().entry(&"k".repeat(70_000), U8, &[0]);
    assert_eq!(
        file.refusal(),
        "a metadata key of 70000 bytes, at most 65535 are allowed"
    );
}

#[test]
fn lists_longer_than_the_file() {
    for kind in [U8, U32, STRING, ARRAY] {
        for len in [1 << 60, u64::MAX, 1 << 20] {
            let file = Raw::new().entry("a", ARRAY, &array(kind, len, &[]));
            let reason = file.refusal();
            assert!(reason.contains("entries does not fit"), "{reason}");
        }
    }
}

/// Metadata cannot refer to itself; lists in lists are as near to a cycle as it comes.
#[test]
fn lists_in_lists_without_end() {
    let deep = (0..10_000).fold(array(U8, 0, &[]), |inner, _| array(ARRAY, 1, &inner));
    let reason = Raw::new().entry("a", ARRAY, &deep).refusal();
    assert_eq!(reason, "`a`: lists are nested more than 4 deep");
    // Wide ones end with the file.
    let wide = array(ARRAY, 10, &array(ARRAY, 10, &array(U8, 1 << 40, &[])));
    let reason = Raw::new().entry("a", ARRAY, &wide).refusal();
    assert!(reason.contains("entries does not fit"), "{reason}");
}

#[test]
fn unknown_metadata() {
    let reason = Raw::new().entry("a", 13, &[0; 8]).refusal();
    assert_eq!(reason, "`a`: metadata of the unknown kind 13");
    let reason = Raw::new().entry("a", ARRAY, &array(77, 1, &[0; 8]));
    assert_eq!(reason.refusal(), "`a`: metadata of the unknown kind 77");
}

#[test]
fn dimensions_whose_product_overflows() {
    for dimensions in [
        vec![1 << 32, 1 << 32],
        vec![u64::MAX],
        vec![u64::MAX, u64::MAX, u64::MAX, u64::MAX],
        vec![1 << 62],
    ] {
        let reason = Raw::new().tensor("x", &dimensions, 0).refusal();
        assert!(
            reason.starts_with("tensor `x` has the impossible shape"),
            "{reason}"
        );
    }
    // A product that wraps to what the file holds.
    let reason = Raw::new().tensor("x", &[(1 << 63) + 4, 2], 0).refusal();
    assert!(reason.contains("impossible shape"), "{reason}");
    // One that does not overflow, and is too large all the same.
    let reason = Raw::new().tensor("x", &[1 << 40], 0).refusal();
    assert!(reason.contains("the file ends at byte"), "{reason}");
}

#[test]
fn ranks_and_empty_dimensions() {
    let reason = Raw::new().tensor("x", &[4, 0], 0).refusal();
    assert_eq!(reason, "tensor `x` has the empty shape [0, 4]");
    for rank in [0_usize, 5] {
        let reason = Raw::new().tensor("x", &vec![1; rank], 0).refusal();
        assert!(
            reason.contains(&format!("{rank} dimensions, expected 1 to 4")),
            "{reason}"
        );
    }
    // Four thousand million dimensions are refused before the first is read.
    let mut file = Raw::new().tensor("x", &[1], 0);
    file.directory[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(file.refusal().contains("4294967295 dimensions"));
    let q4_k = 12;
    let reason = Raw::new().tensor_of(q4_k, "x", &[100, 3], 0).refusal();
    assert!(
        reason.contains("rows of 100, no multiple of Q4_K's block of 256"),
        "{reason}"
    );
}

#[test]
fn offsets_past_the_end_or_unaligned() {
    for offset in [256, 224, 1 << 62, u64::MAX - 31] {
        let reason = Raw::new().tensor("x", &[16], offset).refusal();
        assert!(
            reason.starts_with(&format!("tensor `x` takes 64 bytes from byte {offset}")),
            "{reason}"
        );
    }
    for offset in [1, 16, 33, u64::MAX] {
        let reason = Raw::new().tensor("x", &[4], offset).refusal();
        assert!(
            reason.contains("no multiple of the alignment of 32"),
            "{reason}"
        );
    }
}

#[test]
fn tensors_that_overlap() {
    let file = Raw::new().tensor("a", &[16], 0).tensor("b", &[4], 32);
    assert_eq!(file.refusal(), "tensors `a` and `b` overlap");
    // Ten thousand names for the same bytes.
    let many = (0..10_000).fold(Raw::new(), |file, i| {
        file.tensor(&format!("x{i}"), &[64], 0)
    });
    assert_eq!(many.refusal(), "tensors `x0` and `x1` overlap");
}

#[test]
fn names_that_are_there_twice() {
    let file = Raw::new().tensor("a", &[4], 0).tensor("a", &[4], 32);
    assert_eq!(file.refusal(), "tensor `a` is there twice");
    let file = Raw::new().entry("a", U8, &[1]).entry("a", U8, &[2]);
    assert_eq!(file.refusal(), "metadata `a` is there twice");
}

#[test]
fn alignments_that_are_none() {
    for alignment in [0_u32, 1, 3, 1 << 30, u32::MAX] {
        let file = Raw::new().entry("general.alignment", U32, &alignment.to_le_bytes());
        assert_eq!(
            file.refusal(),
            format!(
                "`general.alignment` is {alignment}, expected a power of two from 8 to 1048576"
            )
        );
    }
    let file = Raw::new().entry("general.alignment", STRING, &[0; 8]);
    assert!(file.refusal().contains("is text, expected a whole number"));
}
