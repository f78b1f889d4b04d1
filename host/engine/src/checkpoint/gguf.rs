//! The GGUF container: metadata and a directory of tensors, read in place from the map.
//!
//! Nothing in the file is trusted: every count and offset is checked against the bytes that are
//! there before anything is allocated or indexed. That, and errors that name tensor and key, is
//! why this is not `candle_core::quantized::gguf_file`, which the tests compare it with.

use std::{borrow::Cow, collections::HashMap, ops::Range, path::Path, sync::Arc};

use gapura_kernels::WeightType;

use self::{
    directory::{PlaceError, TensorEntry},
    reader::Reader,
    value::{Value, ValueKind},
};
use super::{SUPPORTED_DTYPES, mapped_file::MappedFile, weight::Weight};
use crate::error::LoadError;

mod directory;
mod reader;
mod value;

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// Of tensors, and of metadata. The largest models have some thousands; without a limit the
/// directory of a large file could fill the memory.
const MAX_ENTRIES: usize = 1 << 16;

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

impl GgufFile {
    /// Reads the directory of a mapped file.
    ///
    /// # Errors
    /// [`LoadError::Malformed`] with what is wrong and where; [`LoadError::UnsupportedDtype`] for
    /// tensors in a format that no kernel reads; [`LoadError::UnsupportedFeature`] for a file
    /// that is one part of several.
    pub(crate) fn read(map: Arc<MappedFile>) -> Result<Self, LoadError> {
        let malformed = |reason| malformed(map.path(), reason);
        let mut reader = Reader::new(map.bytes(), 0);
        let (num_tensors, num_values) = read_header(&mut reader).map_err(malformed)?;

        let mut metadata = HashMap::with_capacity(num_values);
        for _ in 0..num_values {
            let (key, value) = value::read_entry(&mut reader).map_err(malformed)?;
            if metadata.contains_key(&key) {
                return Err(malformed(format!("metadata `{key}` is there twice")));
            }
            metadata.insert(key, value);
        }
        let mut entries = Vec::with_capacity(num_tensors);
        for _ in 0..num_tensors {
            entries.push(directory::read_entry(&mut reader).map_err(malformed)?);
        }
        let directory_end = reader.position();
        let mut file = Self {
            map: map.clone(),
            metadata,
            tensors: HashMap::new(),
        };
        file.place_tensors(entries, directory_end)?;
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
        entries: Vec<TensorEntry>,
        directory_end: usize,
    ) -> Result<(), LoadError> {
        let alignment = self
            .number("general.alignment")?
            .unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || !(8..=1 << 20).contains(&alignment) {
            let reason = format!(
                "`general.alignment` is {alignment}, expected a power of two from 8 to 1048576"
            );
            return Err(malformed(self.path(), reason));
        }
        let data_start = (directory_end as u64).next_multiple_of(alignment);
        let file_len = self.map.bytes().len();
        self.tensors = directory::place(entries, data_start, alignment, file_len).map_err(
            |error| match error {
                PlaceError::Malformed(reason) => malformed(self.path(), reason),
                PlaceError::Unsupported { tensor, dtype } => LoadError::UnsupportedDtype {
                    tensor,
                    dtype,
                    supported: SUPPORTED_DTYPES,
                },
            },
        )?;
        Ok(())
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        self.map.path()
    }

    /// A tensor's data, by its name in the file.
    pub(crate) fn weight(&self, name: &str) -> Option<Weight> {
        let GgufTensor { kind, shape, range } = self.tensor(name)?.clone();
        Some(Weight::new(name, self.map.clone(), range, kind, shape))
    }

    /// A tensor's place and shape, by its name in the file.
    pub(crate) fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.get(name)
    }

    /// The data of all tensors, in no order.
    pub(crate) fn weights(&self) -> impl Iterator<Item = Weight> {
        self.tensors.keys().filter_map(|name| self.weight(name))
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
        let mut reader = Reader::new(&self.map.bytes()[..range.end], range.start);
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
    if reader.rest() == 0 {
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
    let size = |count: u64| match usize::try_from(count) {
        Ok(size) if size <= MAX_ENTRIES => Ok(size),
        _ => Err(format!(
            "it claims {count} entries, at most {MAX_ENTRIES} are allowed"
        )),
    };
    Ok((size(num_tensors)?, size(num_values)?))
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
pub(crate) mod test_file;
#[cfg(test)]
mod tests;
