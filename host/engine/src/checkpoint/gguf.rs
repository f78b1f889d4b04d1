//! The GGUF container: metadata and a directory of tensors, read in place from the map.
//!
//! Nothing in the file is trusted: every count and offset is checked against the bytes that are
//! there before anything is allocated or indexed. That, and errors that name tensor and key, is
//! why this is not `candle_core::quantized::gguf_file`, which the tests compare it with.

use std::{borrow::Cow, collections::HashMap, ops::Range, path::Path, sync::Arc};

use gapura_kernels::WeightType;

use super::{SUPPORTED_DTYPES, mapped_file::MappedFile, weight::Weight};
use crate::error::LoadError;

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMENSIONS: u32 = 4;
/// Arrays of arrays are legal but no model has them; deeper than this is an attack on the stack.
const MAX_ARRAY_DEPTH: u32 = 4;

/// A GGUF file whose structure has been checked: all tensors lie inside it.
#[derive(Debug)]
pub(crate) struct GgufFile {
    map: Arc<MappedFile>,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, GgufTensor>,
}

/// Where a tensor lies and what it is.
#[derive(Debug, Clone)]
pub(crate) struct GgufTensor {
    pub(crate) kind: WeightType,
    /// Slowest dimension first, the other way round than in the file.
    pub(crate) shape: Vec<usize>,
    /// Of the map.
    pub(crate) range: Range<usize>,
}

/// A metadata value. Strings and arrays stay in the map.
#[derive(Debug, Clone)]
enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(Range<usize>),
    Array {
        kind: ValueKind,
        len: usize,
        range: Range<usize>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueKind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl GgufFile {
    /// Reads the directory of a mapped file.
    ///
    /// # Errors
    /// [`LoadError::Malformed`] with what is wrong and where; [`LoadError::UnsupportedDtype`] for
    /// tensors in a format that no kernel reads; [`LoadError::UnsupportedFeature`] for a file
    /// that is one part of several.
    pub(crate) fn read(map: Arc<MappedFile>) -> Result<Self, LoadError> {
        let malformed = |reason| malformed(map.path(), reason);
        let mut reader = Reader {
            bytes: map.bytes(),
            position: 0,
        };
        let (num_tensors, num_values) = read_header(&mut reader).map_err(malformed)?;

        let mut metadata = HashMap::with_capacity(num_values);
        for _ in 0..num_values {
            let (key, value) = read_entry(&mut reader).map_err(malformed)?;
            metadata.insert(key, value);
        }
        let mut directory = Vec::with_capacity(num_tensors);
        for _ in 0..num_tensors {
            directory.push(read_tensor_entry(&mut reader).map_err(malformed)?);
        }
        let data_start = reader.position;
        let mut file = Self {
            map: map.clone(),
            metadata,
            tensors: HashMap::new(),
        };
        file.place_tensors(directory, data_start)?;
        match file.number("split.count")? {
            Some(count) if count > 1 => Err(LoadError::UnsupportedFeature {
                path: file.path().to_path_buf(),
                feature: format!("`split.count` = {count}, one of several files of a model"),
                supported: "GGUF models in one file (join them with llama-gguf-split --merge)",
            }),
            _ => Ok(file),
        }
    }

    fn place_tensors(
        &mut self,
        directory: Vec<TensorEntry>,
        data_start: usize,
    ) -> Result<(), LoadError> {
        let alignment = self
            .number("general.alignment")?
            .unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || !(8..=1 << 20).contains(&alignment) {
            let reason =
                format!("`general.alignment` is {alignment}, expected a power of two from 8");
            return Err(malformed(self.path(), reason));
        }
        let data_start = (data_start as u64).next_multiple_of(alignment);
        for entry in directory {
            let Some(kind) = weight_type(entry.kind) else {
                return Err(LoadError::UnsupportedDtype {
                    tensor: entry.name,
                    dtype: ggml_type_name(entry.kind),
                    supported: SUPPORTED_DTYPES,
                });
            };
            let range = tensor_range(&entry, kind, data_start, self.map.bytes().len()).map_err(
                |reason| malformed(self.path(), format!("tensor `{}` {reason}", entry.name)),
            )?;
            let tensor = GgufTensor {
                kind,
                shape: entry.shape,
                range,
            };
            if self.tensors.insert(entry.name.clone(), tensor).is_some() {
                return Err(malformed(
                    self.path(),
                    format!("tensor `{}` is there twice", entry.name),
                ));
            }
        }
        Ok(())
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        self.map.path()
    }

    /// A tensor's data, by its name in the file.
    pub(crate) fn weight(&self, name: &str) -> Option<Weight> {
        let GgufTensor { kind, shape, range } = self.tensor(name)?.clone();
        Some(Weight::new(self.map.clone(), range, kind, shape))
    }

    /// A tensor's place and shape, by its name in the file.
    pub(crate) fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.get(name)
    }

    /// Bytes of all tensors.
    pub(crate) fn tensor_bytes(&self) -> u64 {
        self.tensors
            .values()
            .map(|tensor| tensor.range.len() as u64)
            .sum()
    }

    /// A whole number that is not negative, `None` where the key is missing.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, LoadError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(value)) => Ok(Some(*value)),
            Some(Value::Signed(value)) if *value >= 0 => Ok(Some(value.unsigned_abs())),
            Some(other) => Err(self.wrong_kind(key, other, "a whole number")),
        }
    }

    /// A number of any kind.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f32>, LoadError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) => Ok(Some(*value as f32)),
            Some(Value::Unsigned(value)) => Ok(Some(*value as f32)),
            Some(Value::Signed(value)) => Ok(Some(*value as f32)),
            Some(other) => Err(self.wrong_kind(key, other, "a number")),
        }
    }

    /// True or false.
    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, LoadError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong_kind(key, other, "a truth value")),
        }
    }

    /// Text; what is not UTF-8 in it becomes U+FFFD.
    pub(crate) fn string(&self, key: &str) -> Result<Option<Cow<'_, str>>, LoadError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(range)) => Ok(Some(String::from_utf8_lossy(
                &self.map.bytes()[range.clone()],
            ))),
            Some(other) => Err(self.wrong_kind(key, other, "text")),
        }
    }

    /// A list of texts.
    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<Cow<'_, str>>>, LoadError> {
        let Some((len, range)) = self.array(key, ValueKind::String, "a list of texts")? else {
            return Ok(None);
        };
        let mut reader = Reader {
            bytes: &self.map.bytes()[..range.end],
            position: range.start,
        };
        (0..len)
            .map(|_| {
                reader
                    .string()
                    .map(|range| String::from_utf8_lossy(&self.map.bytes()[range]))
            })
            .collect::<Result<_, _>>()
            .map(Some)
            .map_err(|reason| malformed(self.path(), reason))
    }

    /// A list of 32-bit floats.
    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, LoadError> {
        Ok(self
            .words(key, ValueKind::F32, "a list of 32-bit floats")?
            .map(|words| words.map(f32::from_le_bytes).collect()))
    }

    /// A list of 32-bit integers.
    pub(crate) fn integers(&self, key: &str) -> Result<Option<Vec<i32>>, LoadError> {
        let kind = match self.metadata.get(key) {
            Some(Value::Array {
                kind: ValueKind::U32,
                ..
            }) => ValueKind::U32,
            _ => ValueKind::I32,
        };
        Ok(self
            .words(key, kind, "a list of 32-bit integers")?
            .map(|words| words.map(i32::from_le_bytes).collect()))
    }

    fn words(
        &self,
        key: &str,
        kind: ValueKind,
        expected: &str,
    ) -> Result<Option<impl Iterator<Item = [u8; 4]> + '_>, LoadError> {
        Ok(self
            .array(key, kind, expected)?
            .map(|(_, range)| self.map.bytes()[range].as_chunks::<4>().0.iter().copied()))
    }

    fn array(
        &self,
        key: &str,
        wanted: ValueKind,
        expected: &str,
    ) -> Result<Option<(usize, Range<usize>)>, LoadError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array { kind, len, range }) if *kind == wanted => {
                Ok(Some((*len, range.clone())))
            }
            Some(other) => Err(self.wrong_kind(key, other, expected)),
        }
    }

    fn wrong_kind(&self, key: &str, value: &Value, expected: &str) -> LoadError {
        let found = match value {
            Value::Unsigned(value) => value.to_string(),
            Value::Signed(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::String(_) => "text".to_owned(),
            Value::Array { kind, .. } => format!("a list of {kind:?}"),
        };
        malformed(
            self.path(),
            format!("`{key}` is {found}, expected {expected}"),
        )
    }
}

fn malformed(path: &Path, reason: String) -> LoadError {
    LoadError::Malformed {
        path: path.to_path_buf(),
        expected: "GGUF file",
        reason,
    }
}

/// Magic, version, and the numbers of tensors and of metadata entries.
fn read_header(reader: &mut Reader<'_>) -> Result<(usize, usize), String> {
    if reader.bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    if reader.take(4, "the magic number")? != MAGIC {
        return Err("it does not begin with `GGUF`".to_owned());
    }
    let version = reader.u32("the version")?;
    if !(2..=3).contains(&version) {
        return Err(format!(
            "its version is {version}, expected 2 or 3 in little-endian"
        ));
    }
    let num_tensors = reader.u64("the number of tensors")?;
    let num_values = reader.u64("the number of metadata entries")?;
    // What the smallest entry of each kind takes: the counts are checked before they size
    // anything.
    let least = num_tensors
        .saturating_mul(24)
        .saturating_add(num_values.saturating_mul(13));
    let rest = reader.rest() as u64;
    if least > rest {
        return Err(format!(
            "it claims {num_tensors} tensors and {num_values} metadata entries, \
             which {rest} bytes cannot hold"
        ));
    }
    let size =
        |count: u64| usize::try_from(count).map_err(|_| format!("{count} entries are too many"));
    Ok((size(num_tensors)?, size(num_values)?))
}

fn read_entry(reader: &mut Reader<'_>) -> Result<(String, Value), String> {
    let key = reader.owned_string("a metadata key")?;
    let value = reader.u32("a metadata kind").and_then(|kind| {
        let kind = value_kind(kind)?;
        read_value(reader, kind, 0)
    });
    match value {
        Ok(value) => Ok((key, value)),
        Err(reason) => Err(format!("`{key}`: {reason}")),
    }
}

fn read_value(reader: &mut Reader<'_>, kind: ValueKind, depth: u32) -> Result<Value, String> {
    const WHAT: &str = "a metadata value";
    Ok(match kind {
        ValueKind::U8 => Value::Unsigned(u64::from(reader.array::<1>(WHAT)?[0])),
        ValueKind::U16 => Value::Unsigned(u64::from(u16::from_le_bytes(reader.array(WHAT)?))),
        ValueKind::U32 => Value::Unsigned(u64::from(reader.u32(WHAT)?)),
        ValueKind::U64 => Value::Unsigned(reader.u64(WHAT)?),
        ValueKind::I8 => Value::Signed(i64::from(i8::from_le_bytes(reader.array(WHAT)?))),
        ValueKind::I16 => Value::Signed(i64::from(i16::from_le_bytes(reader.array(WHAT)?))),
        ValueKind::I32 => Value::Signed(i64::from(i32::from_le_bytes(reader.array(WHAT)?))),
        ValueKind::I64 => Value::Signed(i64::from_le_bytes(reader.array(WHAT)?)),
        ValueKind::F32 => Value::Float(f64::from(f32::from_le_bytes(reader.array(WHAT)?))),
        ValueKind::F64 => Value::Float(f64::from_le_bytes(reader.array(WHAT)?)),
        ValueKind::Bool => Value::Bool(reader.array::<1>(WHAT)?[0] != 0),
        ValueKind::String => Value::String(reader.string()?),
        ValueKind::Array => read_array(reader, depth)?,
    })
}

fn read_array(reader: &mut Reader<'_>, depth: u32) -> Result<Value, String> {
    if depth >= MAX_ARRAY_DEPTH {
        return Err(format!("lists are nested more than {MAX_ARRAY_DEPTH} deep"));
    }
    let kind = value_kind(reader.u32("a list's kind")?)?;
    let len = reader.u64("a list's length")?;
    // A string takes its length at least, a list its kind and length.
    let (least, fixed) = match kind {
        ValueKind::U8 | ValueKind::I8 | ValueKind::Bool => (1, true),
        ValueKind::U16 | ValueKind::I16 => (2, true),
        ValueKind::U32 | ValueKind::I32 | ValueKind::F32 => (4, true),
        ValueKind::U64 | ValueKind::I64 | ValueKind::F64 => (8, true),
        ValueKind::String => (8, false),
        ValueKind::Array => (12, false),
    };
    let size = len
        .checked_mul(least)
        .filter(|size| *size <= reader.rest() as u64);
    let (Some(size), Ok(len)) = (size, usize::try_from(len)) else {
        return Err(format!(
            "a list of {len} entries does not fit {} bytes",
            reader.rest()
        ));
    };
    let start = reader.position;
    if fixed {
        reader.position += size as usize; // checked against the rest above
    } else {
        for _ in 0..len {
            read_value(reader, kind, depth + 1)?;
        }
    }
    Ok(Value::Array {
        kind,
        len,
        range: start..reader.position,
    })
}

fn value_kind(kind: u32) -> Result<ValueKind, String> {
    const KINDS: [ValueKind; 13] = [
        ValueKind::U8,
        ValueKind::I8,
        ValueKind::U16,
        ValueKind::I16,
        ValueKind::U32,
        ValueKind::I32,
        ValueKind::F32,
        ValueKind::Bool,
        ValueKind::String,
        ValueKind::Array,
        ValueKind::U64,
        ValueKind::I64,
        ValueKind::F64,
    ];
    let known = usize::try_from(kind)
        .ok()
        .and_then(|kind| KINDS.get(kind).copied());
    known.ok_or_else(|| format!("metadata of the unknown kind {kind}"))
}

struct TensorEntry {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

fn read_tensor_entry(reader: &mut Reader<'_>) -> Result<TensorEntry, String> {
    let name = reader.owned_string("a tensor's name")?;
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

fn tensor_range(
    entry: &TensorEntry,
    kind: WeightType,
    data_start: u64,
    file_len: usize,
) -> Result<Range<usize>, String> {
    let size = super::weight::byte_size(kind, &entry.shape)?;
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

fn weight_type(kind: u32) -> Option<WeightType> {
    Some(match kind {
        0 => WeightType::F32,
        1 => WeightType::F16,
        2 => WeightType::Q4_0,
        3 => WeightType::Q4_1,
        6 => WeightType::Q5_0,
        7 => WeightType::Q5_1,
        8 => WeightType::Q8_0,
        12 => WeightType::Q4K,
        13 => WeightType::Q5K,
        14 => WeightType::Q6K,
        30 => WeightType::BF16,
        _ => return None,
    })
}

/// For messages only; numbers and names of ggml's `enum ggml_type`.
fn ggml_type_name(kind: u32) -> String {
    let name = match kind {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
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
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("number {kind}"),
    };
    name.to_owned()
}

/// Little-endian values in order. Errors say what was cut off.
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> usize {
        self.bytes.len() - self.position
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], String> {
        let Some(taken) = self.bytes[self.position..].get(..len) else {
            return Err(format!(
                "it ends at byte {} within {what}",
                self.bytes.len()
            ));
        };
        self.position += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let taken = self.take(N, what)?;
        Ok(taken
            .try_into()
            .expect("take returns as many bytes as asked"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// The range of a string's bytes.
    fn string(&mut self) -> Result<Range<usize>, String> {
        let len = self.u64("a text's length")?;
        let Ok(len) = usize::try_from(len) else {
            return Err(format!("a text of {len} bytes is too long"));
        };
        self.take(len, "a text")?;
        Ok(self.position - len..self.position)
    }

    fn owned_string(&mut self, what: &str) -> Result<String, String> {
        let range = self
            .string()
            .map_err(|reason| format!("{what}: {reason}"))?;
        Ok(String::from_utf8_lossy(&self.bytes[range]).into_owned())
    }
}

#[cfg(test)]
pub(crate) mod test_file;
#[cfg(test)]
mod tests;
