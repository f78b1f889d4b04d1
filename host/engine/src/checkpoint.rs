//! A model's files: configuration, weights by the hub's names, tokenizer. Two containers, a GGUF
//! file and a folder in the hub's layout, look the same from outside.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use crate::{
    error::LoadError,
    model_config::{self, ModelConfig},
    tokenizer::Tokenizer,
};

pub(crate) mod gguf;
mod gguf_names;
pub(crate) mod hub_folder;
mod mapped_file;
mod weight;

use gguf::GgufFile;
use hub_folder::HubFolder;
use mapped_file::MappedFile;
pub use weight::Weight;

/// The weight formats that the kernels read, as error messages list them.
pub(crate) const SUPPORTED_DTYPES: &str =
    "F32, F16, BF16, and in GGUF Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K";

/// An opened model. Weights stay in the files, which are mapped, not read.
#[derive(Debug)]
pub struct Checkpoint {
    source: Source,
    config: ModelConfig,
    model_id: String,
    chat_template: Option<String>,
}

#[derive(Debug)]
enum Source {
    Gguf(GgufFile),
    Hub(HubFolder),
}

impl Checkpoint {
    /// Opens a `.gguf` file, or a folder with `config.json`, safetensors (one file, or shards
    /// with their index) and `tokenizer.json`. A folder without `config.json` that holds exactly
    /// one `.gguf` file stands for that file.
    ///
    /// Headers and configuration are read and checked here; tensor data are not touched.
    ///
    /// # Errors
    /// [`LoadError`], for every way in which files can be missing, broken, or of a kind that is
    /// not supported. Nothing in a file makes this panic.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let metadata = fs::metadata(path).map_err(|source| LoadError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        if !metadata.is_dir() {
            return Self::open_gguf(path);
        }
        if path.join("config.json").exists() {
            return Self::open_folder(path);
        }
        match single_gguf(path)? {
            Some(file) => Self::open_gguf(&file),
            None => Err(LoadError::MissingFile {
                dir: path.to_path_buf(),
                file: "config.json, nor one single .gguf file".to_owned(),
            }),
        }
    }

    fn open_gguf(path: &Path) -> Result<Self, LoadError> {
        let file = GgufFile::read(Arc::new(MappedFile::open(path)?))?;
        let config = model_config::gguf::read(&file)?;
        let chat_template = file
            .string("tokenizer.chat_template")?
            .map(|text| text.into_owned());
        Ok(Self {
            source: Source::Gguf(file),
            config,
            model_id: model_id(path),
            chat_template,
        })
    }

    fn open_folder(dir: &Path) -> Result<Self, LoadError> {
        // The small files first: what they refuse needs no weights to be mapped.
        let config = model_config::hub::read(dir)?;
        let chat_template = hub_chat_template(dir)?;
        let folder = HubFolder::open(dir)?;
        Ok(Self {
            source: Source::Hub(folder),
            config,
            model_id: model_id(dir),
            chat_template,
        })
    }

    /// Where the model is: its file or folder.
    pub fn path(&self) -> &Path {
        match &self.source {
            Source::Gguf(file) => file.path(),
            Source::Hub(folder) => folder.dir(),
        }
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// A name for clients: `owner/name` in the hub's cache, else the folder's name or the file's
    /// without its quantization (`SmolLM2-135M-Instruct.Q4_1.gguf`: `SmolLM2-135M-Instruct`).
    pub fn model_id(&self) -> &str {
        &self.model_id
    }

    /// A tensor by its name on the hub, such as `model.layers.0.self_attn.q_proj.weight`.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<Weight, LoadError> {
        self.find(name).ok_or_else(|| LoadError::MissingTensor {
            tensor: name.to_owned(),
        })
    }

    /// Whether there is such a tensor.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<Weight> {
        match &self.source {
            Source::Hub(folder) => folder.tensor(name).cloned(),
            Source::Gguf(file) => {
                file.weight(&gguf_names::gguf_name(self.config.architecture, name)?)
            }
        }
    }

    /// Builds the tokenizer; for a vocabulary of 262,144 this takes a second or so.
    ///
    /// # Errors
    /// [`LoadError::MissingFile`] without `tokenizer.json`, [`LoadError::Malformed`] and
    /// [`LoadError::UnsupportedFeature`] for vocabularies that cannot be used.
    pub fn tokenizer(&self) -> Result<Tokenizer, LoadError> {
        match &self.source {
            Source::Gguf(file) => Tokenizer::from_gguf(file),
            Source::Hub(folder) => Tokenizer::from_folder(folder.dir()),
        }
    }

    /// The model's own chat template (Jinja), where the files have one.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Bytes of all weights in the files.
    pub fn weight_bytes(&self) -> u64 {
        let tensors = self.tensors().into_iter();
        tensors.map(|tensor| tensor.bytes().len() as u64).sum()
    }

    /// Every tensor, by name.
    pub(crate) fn tensors(&self) -> Vec<Weight> {
        let mut tensors: Vec<Weight> = match &self.source {
            Source::Gguf(file) => file.weights().collect(),
            Source::Hub(folder) => folder.tensors().collect(),
        };
        tensors.sort_by(|a, b| a.name().cmp(b.name()));
        tensors
    }
}

/// The only `.gguf` file of a folder.
fn single_gguf(dir: &Path) -> Result<Option<PathBuf>, LoadError> {
    let read_error = |source| LoadError::Read {
        path: dir.to_path_buf(),
        source,
    };
    let mut found = None;
    for entry in fs::read_dir(dir).map_err(read_error)? {
        let path = entry.map_err(read_error)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "gguf")
            && found.replace(path).is_some()
        {
            return Ok(None);
        }
    }
    Ok(found)
}

/// `chat_template.jinja`, or the `chat_template` of `tokenizer_config.json`: a text, or a list
/// of named ones.
fn hub_chat_template(dir: &Path) -> Result<Option<String>, LoadError> {
    if let Some(template) = hub_folder::read_optional(&dir.join("chat_template.jinja"))? {
        return Ok(Some(template));
    }
    let Some(config) = model_config::hub::read_json(&dir.join("tokenizer_config.json"))? else {
        return Ok(None);
    };
    Ok(match config.get("chat_template") {
        Some(Value::String(template)) => Some(template.clone()),
        Some(Value::Array(named)) => named
            .iter()
            .find(|entry| entry["name"] == "default")
            .and_then(|entry| entry["template"].as_str())
            .map(str::to_owned),
        _ => None,
    })
}

/// See [`Checkpoint::model_id`].
fn model_id(path: &Path) -> String {
    let canonical = fs::canonicalize(path);
    let path = canonical.as_deref().unwrap_or(path);
    let in_hub_cache = path
        .ancestors()
        .filter_map(|folder| folder.file_name()?.to_str())
        .find_map(|folder| folder.strip_prefix("models--"));
    let is_file = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    match in_hub_cache {
        Some(repository) if !is_file => repository.replacen("--", "/", 1),
        _ if is_file => {
            without_quantization(&path.file_stem().unwrap_or_default().to_string_lossy())
        }
        _ => path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    }
}

/// `gemma-3-270m-Q4_K_M` and `model.q8_0` without what follows the last dash or dot, if that
/// names a quantization.
fn without_quantization(stem: &str) -> String {
    let Some(cut) = stem.rfind(['.', '-']) else {
        return stem.to_owned();
    };
    let suffix = stem[cut + 1..].to_ascii_lowercase();
    let digits_follow = |prefix: &str| {
        suffix
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let is_quantization = matches!(suffix.as_str(), "f32" | "f16" | "bf16" | "fp16")
        || digits_follow("q")
        || digits_follow("iq");
    match is_quantization && cut > 0 {
        true => stem[..cut].to_owned(),
        false => stem.to_owned(),
    }
}

#[cfg(test)]
mod tests;
