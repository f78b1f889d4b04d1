//! The directory of tensors: what the file claims, and where that lies.

use std::{collections::HashMap, ops::Range};

use gapura_kernels::WeightType;

use super::{GgufTensor, reader::Reader};
use crate::checkpoint::weight::byte_size;

const MAX_DIMENSIONS: u32 = 4;
/// GGUF's own limit.
const MAX_NAME_BYTES: usize = 64;

/// A tensor as the directory lists it.
pub(super) struct TensorEntry {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

/// The next entry.
pub(super) fn read_entry(reader: &mut Reader<'_>) -> Result<TensorEntry, String> {
    let name = reader.name(MAX_NAME_BYTES, "a tensor's name")?;
    let num_dimensions = reader.u32("a tensor's rank")?;
    if !(1..=MAX_DIMENSIONS).contains(&num_dimensions) {
        return Err(format!(
            "tensor `{name}` has {num_dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}"
        ));
    }
    let mut shape = Vec::new();
    for _ in 0..num_dimensions {
        let dimension = reader.u64("a tensor's shape")?;
        shape
            .push(usize::try_from(dimension).map_err(|_| format!("tensor `{name}` is too large"))?);
    }
    shape.reverse();
    let kind = reader.u32("a tensor's type")?;
    let offset = reader.u64("a tensor's offset")?;
    Ok(TensorEntry {
        name,
        shape,
        kind,
        offset,
    })
}

/// Where the listed tensors lie in a file of `file_len` bytes whose data begin at `data_start`,
/// a multiple of `alignment`. Each begins at a multiple of it too, and no two share a byte.
///
/// # Errors
/// [`PlaceError`] for the first tensor that is not so.
pub(super) fn place(
    entries: Vec<TensorEntry>,
    data_start: u64,
    alignment: u64,
    file_len: usize,
) -> Result<HashMap<String, GgufTensor>, PlaceError> {
    let mut tensors = HashMap::with_capacity(entries.len());
    for entry in entries {
        let Some(kind) = weight_type(entry.kind) else {
            return Err(PlaceError::Unsupported {
                dtype: type_name(entry.kind),
                tensor: entry.name,
            });
        };
        let range = range(&entry, kind, data_start, alignment, file_len)
            .map_err(|reason| format!("tensor `{}` {reason}", entry.name))?;
        let tensor = GgufTensor {
            kind,
            shape: entry.shape,
            range,
        };
        if tensors.contains_key(&entry.name) {
            return Err(format!("tensor `{}` is there twice", entry.name).into());
        }
        tensors.insert(entry.name, tensor);
    }
    refuse_overlaps(&tensors)?;
    Ok(tensors)
}

/// Why the tensors of a file cannot be used.
pub(super) enum PlaceError {
    /// The file is broken, in these words.
    Malformed(String),
    /// A tensor is of a type that no kernel reads.
    Unsupported { tensor: String, dtype: String },
}

impl From<String> for PlaceError {
    fn from(reason: String) -> Self {
        Self::Malformed(reason)
    }
}

fn range(
    entry: &TensorEntry,
    kind: WeightType,
    data_start: u64,
    alignment: u64,
    file_len: usize,
) -> Result<Range<usize>, String> {
    let size = byte_size(kind, &entry.shape)?;
    if !entry.offset.is_multiple_of(alignment) {
        return Err(format!(
            "begins at byte {} of the data, no multiple of the alignment of {alignment}",
            entry.offset
        ));
    }
    let start = data_start
        .checked_add(entry.offset)
        .and_then(|start| usize::try_from(start).ok());
    let end = start.and_then(|start| start.checked_add(size));
    match (start, end) {
        (Some(start), Some(end)) if end <= file_len => Ok(start..end),
        _ => Err(format!(
            "takes {size} bytes from byte {} of its data, and the file ends at byte {file_len}",
            entry.offset
        )),
    }
}

/// Shared bytes would let a small file claim any number of weights.
fn refuse_overlaps(tensors: &HashMap<String, GgufTensor>) -> Result<(), String> {
    let mut in_order: Vec<(&String, &Range<usize>)> = tensors
        .iter()
        .map(|(name, tensor)| (name, &tensor.range))
        .collect();
    in_order.sort_by_key(|(name, range)| (range.start, *name));
    match in_order
        .windows(2)
        .find(|pair| pair[1].1.start < pair[0].1.end)
    {
        Some(pair) => Err(format!(
            "tensors `{}` and `{}` overlap",
            pair[0].0, pair[1].0
        )),
        None => Ok(()),
    }
}

fn weight_type(kind: u32) -> Option<WeightType> {
    Some(match kind {
        0 => WeightType::F32,
        1 => WeightType::F16,
        2 => WeightType::Q4_0,
        3 => WeightType::Q4_1,
        6 => WeightType::Q5_0,
        7 => WeightType::Q5_1,
        8 => WeightType::Q8_0,
        10 => WeightType::Q2K,
        11 => WeightType::Q3K,
        12 => WeightType::Q4K,
        13 => WeightType::Q5K,
        14 => WeightType::Q6K,
        30 => WeightType::BF16,
        _ => return None,
    })
}

/// For messages only; numbers and names, those of withdrawn types too, of ggml's `enum ggml_type`.
fn type_name(kind: u32) -> String {
    let name = match kind {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        34 => "TQ1_0",
        35 => "TQ2_0",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        42 => "Q2_0",
        _ => return format!("number {kind}"),
    };
    name.to_owned()
}
