//! A model in the hub's layout: `config.json`, safetensors in one file or in shards, and the
//! tokenizer's files beside them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use gapura_kernels::WeightType;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::{SUPPORTED_DTYPES, mapped_file::MappedFile, weight::Weight};
use crate::error::LoadError;

const INDEX_FILE: &str = "model.safetensors.index.json";
const SINGLE_FILE: &str = "model.safetensors";

/// The folder and the tensors of all its shards.
#[derive(Debug)]
pub(crate) struct HubFolder {
    dir: PathBuf,
    tensors: HashMap<String, Weight>,
}

/// What `model.safetensors.index.json` says.
#[derive(Deserialize)]
struct ShardIndex {
    /// Tensor to file.
    weight_map: BTreeMap<String, String>,
}

impl HubFolder {
    /// Maps the folder's safetensors and reads their headers.
    ///
    /// # Errors
    /// [`LoadError::MissingFile`] for weights or a shard that is not there,
    /// [`LoadError::Malformed`] for a broken file, a tensor that is there twice or an index that
    /// points outside the folder,
    /// [`LoadError::UnsupportedDtype`], and [`LoadError::MissingTensor`] for one that the index
    /// lists and its shard has not.
    pub(crate) fn open(dir: &Path) -> Result<Self, LoadError> {
        let mut folder = Self {
            dir: dir.to_path_buf(),
            tensors: HashMap::new(),
        };
        let Some(index) = folder.read_index()? else {
            folder.add_shard(SINGLE_FILE)?;
            return Ok(folder);
        };
        let shards: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
        for shard in shards {
            folder.add_shard(shard)?;
        }
        match index
            .weight_map
            .keys()
            .find(|name| !folder.tensors.contains_key(canonical(name).as_str()))
        {
            Some(tensor) => Err(LoadError::MissingTensor {
                tensor: tensor.clone(),
            }),
            None => Ok(folder),
        }
    }

    fn read_index(&self) -> Result<Option<ShardIndex>, LoadError> {
        let Some(text) = self.read_optional(INDEX_FILE)? else {
            return Ok(None);
        };
        let malformed = |reason: String| LoadError::Malformed {
            path: self.dir.join(INDEX_FILE),
            expected: "safetensors index",
            reason,
        };
        let index: ShardIndex =
            serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        for (tensor, file) in &index.weight_map {
            if !is_plain_file_name(file) {
                return Err(malformed(format!(
                    "tensor `{tensor}` is said to lie in `{file}`, which is not a file of the folder"
                )));
            }
        }
        Ok(Some(index))
    }

    fn add_shard(&mut self, file: &str) -> Result<(), LoadError> {
        let path = self.dir.join(file);
        if !path.exists() {
            return Err(LoadError::MissingFile {
                dir: self.dir.clone(),
                file: file.to_owned(),
            });
        }
        let map = Arc::new(MappedFile::open(&path)?);
        let malformed = |reason: String| LoadError::Malformed {
            path: path.clone(),
            expected: "safetensors file",
            reason,
        };
        let (header_len, header) = SafeTensors::read_metadata(map.bytes())
            .map_err(|error| malformed(error.to_string()))?;
        // The header follows its own length, 8 bytes; the data follows the header.
        let data_start = 8 + header_len;
        for (name, info) in header.tensors() {
            let Some(weight_type) = weight_type(info.dtype) else {
                return Err(LoadError::UnsupportedDtype {
                    tensor: name,
                    dtype: format!("{:?}", info.dtype),
                    supported: SUPPORTED_DTYPES,
                });
            };
            let (start, end) = info.data_offsets;
            let size = super::weight::byte_size(weight_type, &info.shape)
                .map_err(|reason| malformed(format!("tensor `{name}` {reason}")))?;
            if end.checked_sub(start) != Some(size) || end > map.bytes().len() - data_start {
                let reason =
                    format!("tensor `{name}` takes {size} bytes, its data is {start}..{end}");
                return Err(malformed(reason));
            }
            let range = data_start + start..data_start + end;
            let own = canonical(&name);
            let weight = Weight::new(&own, map.clone(), range, weight_type, info.shape.clone());
            // Under its own name in two files, or under two names that mean the same.
            if self.tensors.insert(own, weight).is_some() {
                return Err(malformed(format!("tensor `{name}` is there twice")));
            }
        }
        Ok(())
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// By its canonical name.
    pub(crate) fn tensor(&self, name: &str) -> Option<&Weight> {
        self.tensors.get(name)
    }

    /// All of them, in no order.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = Weight> {
        self.tensors.values().cloned()
    }

    fn read_optional(&self, file: &str) -> Result<Option<String>, LoadError> {
        read_optional(&self.dir.join(file))
    }
}

/// The text of a file, `None` if there is none.
///
/// # Errors
/// [`LoadError::Read`], for text that is not UTF-8 too.
pub(crate) fn read_optional(path: &Path) -> Result<Option<String>, LoadError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::Read {
            path: path.to_path_buf(),
            source,
        }),
    }
}

/// Whether `name` stays in the folder it is joined to.
pub(crate) fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(_)), None)
    )
}

/// Text models that were cut out of multimodal ones keep a prefix, in one of two orders.
fn canonical(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        format!("model.{rest}")
    } else {
        name.strip_prefix("language_model.")
            .unwrap_or(name)
            .to_owned()
    }
}

fn weight_type(dtype: Dtype) -> Option<WeightType> {
    match dtype {
        Dtype::F32 => Some(WeightType::F32),
        Dtype::F16 => Some(WeightType::F16),
        Dtype::BF16 => Some(WeightType::BF16),
        _ => None,
    }
}

#[cfg(test)]
mod hostile_tests;
