//! Models from the hub: which files one needs, and fetching them into the hub's own cache layout,
//! resumed and checked. The protocol is `hf-hub`'s; choosing, checking and naming errors is ours.

use std::{
    fs,
    path::{Path, PathBuf},
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{Api, ApiBuilder},
};
use serde_json::Value;

use crate::error::LoadError;

mod download;
mod spec;

use download::Downloader;
pub use spec::{HubModel, ModelLocation, resolve};

/// The public hub.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// What a model's folder needs beside its weights, where the hub has it.
const SMALL_FILES: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];
const SINGLE_WEIGHTS: &str = "model.safetensors";
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";

/// Where from, where to, and who is told.
pub struct PullOptions<'a> {
    /// Branch, tag or commit for models that name none themselves. Default `main`.
    pub revision: Option<String>,
    /// Sent as a bearer token to the hub alone, never to where it redirects.
    pub token: Option<String>,
    /// The hub's address, without a slash at its end. Default [`DEFAULT_ENDPOINT`].
    pub endpoint: String,
    /// Default `~/.cache/huggingface/hub`, shared with other programs.
    pub cache_dir: Option<PathBuf>,
    /// Called for every piece that comes.
    pub progress: &'a mut dyn FnMut(PullProgress<'_>),
}

/// How far one file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullProgress<'a> {
    /// Its name in the repository.
    pub file: &'a str,
    /// Bytes that are here, those of an earlier attempt included.
    pub done_bytes: u64,
    /// Its size.
    pub total_bytes: u64,
}

/// Fetches a model, `owner/name[:file.gguf][@revision]`, and returns what
/// [`Checkpoint::open`](crate::Checkpoint::open) takes: a folder, or the GGUF file.
///
/// Files that are there already are not fetched again. Without a network, a model that was
/// fetched completely before is returned as it is.
///
/// # Errors
/// [`LoadError::InvalidModelSpec`], [`LoadError::HubUnauthorized`], [`LoadError::NotOnHub`],
/// [`LoadError::Checksum`], [`LoadError::Write`], and [`LoadError::Fetch`] for all else that can
/// befall a transfer; what came until then is kept and the next pull goes on from there.
pub fn pull(model: &str, options: PullOptions<'_>) -> Result<PathBuf, LoadError> {
    let model = HubModel::parse(model)?;
    let revision = model
        .revision
        .clone()
        .or(options.revision)
        .unwrap_or_else(|| "main".to_owned());
    let endpoint = options.endpoint.trim_end_matches('/').to_owned();
    if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
        return Err(LoadError::Fetch {
            what: model.repository,
            endpoint,
            reason: "the address of a hub begins with http:// or https://".to_owned(),
        });
    }
    let cache = writable_cache(options.cache_dir)?;
    let named = Repo::with_revision(model.repository.clone(), RepoType::Model, revision.clone());
    let api = ApiBuilder::from_cache(cache.clone())
        .with_endpoint(endpoint.clone())
        .with_token(options.token)
        .with_progress(false)
        .build()
        .map_err(|error| LoadError::Fetch {
            what: model.repository.clone(),
            endpoint: endpoint.clone(),
            reason: error.to_string(),
        })?;
    let what = format!("{}@{revision}", model.repository);
    let listing = download::guarded(&what, &endpoint, cache.path(), || {
        api.repo(named.clone()).info()
    });
    let listing = match listing {
        Ok(listing) => listing,
        Err(error @ LoadError::Fetch { .. }) => {
            return fetched_before(&cache, &named, model.file.as_deref()).ok_or(error);
        }
        Err(error) => return Err(error),
    };
    // From here on the commit, so that a push in the middle cannot mix two of them.
    if !download::is_plain_hash(&listing.sha) {
        let reason = format!("`{}` is no commit", listing.sha);
        return Err(LoadError::Fetch {
            what,
            endpoint,
            reason,
        });
    }
    let commit = listing.sha.clone();
    let repo = Repo::with_revision(model.repository.clone(), RepoType::Model, commit.clone());
    let files: Vec<&str> = listing
        .siblings
        .iter()
        .map(|file| file.rfilename.as_str())
        .collect();
    let mut pull = Pull {
        api,
        cache: cache.clone(),
        repo,
        endpoint,
        model,
        progress: options.progress,
    };
    let path = pull.fetch(&files)?;
    // The name is tied to the commit last: a name in the cache means that all is there.
    cache
        .repo(named)
        .create_ref(&commit)
        .map_err(|source| LoadError::Write {
            path: cache.path().clone(),
            source,
        })?;
    Ok(path)
}

/// One pull of one commit.
struct Pull<'a> {
    api: Api,
    cache: Cache,
    repo: Repo,
    endpoint: String,
    model: HubModel,
    progress: &'a mut dyn FnMut(PullProgress<'_>),
}

impl Pull<'_> {
    fn fetch(&mut self, files: &[&str]) -> Result<PathBuf, LoadError> {
        if let Some(file) = self.model.file.clone() {
            return match files.contains(&file.as_str()) {
                true => self.fetch_file(&file),
                false => Err(self.not_on_hub(&file)),
            };
        }
        let has = |name: &str| files.contains(&name);
        if !has("config.json") || !(has(SINGLE_WEIGHTS) || has(WEIGHTS_INDEX)) {
            let file = self.single_gguf(files)?;
            return self.fetch_file(&file);
        }
        for file in SMALL_FILES.into_iter().filter(|file| has(file)) {
            self.fetch_file(file)?;
        }
        let mut folder = match has(WEIGHTS_INDEX) {
            false => self.fetch_file(SINGLE_WEIGHTS)?,
            true => {
                let index = self.fetch_file(WEIGHTS_INDEX)?;
                for shard in shards(&index)? {
                    self.fetch_file(&shard)?;
                }
                index
            }
        };
        folder.pop();
        Ok(folder)
    }

    /// The only GGUF file of a repository without safetensors.
    fn single_gguf(&self, files: &[&str]) -> Result<String, LoadError> {
        let gguf: Vec<&str> = files
            .iter()
            .copied()
            .filter(|file| file.ends_with(".gguf"))
            .collect();
        let invalid = |reason| LoadError::InvalidModelSpec {
            spec: self.model.repository.clone(),
            reason,
        };
        match gguf.as_slice() {
            [] => Err(invalid(
                "the repository holds neither safetensors nor a .gguf file".to_owned(),
            )),
            [file] => Ok((*file).to_owned()),
            several => Err(invalid(format!(
                "the repository holds several .gguf files; name one, as `{}:{}` (of {})",
                self.model.repository,
                several[0],
                several.join(", ")
            ))),
        }
    }

    fn fetch_file(&mut self, file: &str) -> Result<PathBuf, LoadError> {
        if let Some(path) = self.cache.repo(self.repo.clone()).get(file) {
            return Ok(path);
        }
        Downloader {
            api: &self.api,
            cache: &self.cache,
            repo: &self.repo,
            endpoint: &self.endpoint,
            what: format!("{}: {file}", self.model.repository),
            progress: &mut *self.progress,
        }
        .download(file)
    }

    fn not_on_hub(&self, file: &str) -> LoadError {
        LoadError::NotOnHub {
            what: format!("{}: {file}", self.model.repository),
            endpoint: self.endpoint.clone(),
        }
    }
}

fn writable_cache(dir: Option<PathBuf>) -> Result<Cache, LoadError> {
    let dir = match dir {
        Some(dir) => dir,
        // `Cache::default` panics without a home.
        None => match std::env::home_dir() {
            Some(home) => home.join(".cache/huggingface/hub"),
            None => PathBuf::from(".cache/huggingface/hub"),
        },
    };
    let write_error = |source| LoadError::Write {
        path: dir.clone(),
        source,
    };
    fs::create_dir_all(&dir).map_err(write_error)?;
    // Links in the cache are relative, which takes a path from the root.
    Ok(Cache::new(fs::canonicalize(&dir).map_err(write_error)?))
}

/// The shards that an index names, each once.
fn shards(index: &Path) -> Result<Vec<String>, LoadError> {
    let malformed = |reason: String| LoadError::Malformed {
        path: index.to_path_buf(),
        expected: "safetensors index",
        reason,
    };
    let text = fs::read_to_string(index).map_err(|source| LoadError::Read {
        path: index.to_path_buf(),
        source,
    })?;
    let json: Value = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    let Some(map) = json["weight_map"].as_object() else {
        return Err(malformed("`weight_map` is missing".to_owned()));
    };
    let mut shards = Vec::new();
    for (tensor, file) in map {
        match file
            .as_str()
            .filter(|file| crate::checkpoint::hub_folder::is_plain_file_name(file))
        {
            Some(file) => shards.push(file.to_owned()),
            None => {
                return Err(malformed(format!(
                    "tensor `{tensor}` lies in {file}, no file name"
                )));
            }
        }
    }
    shards.sort_unstable();
    shards.dedup();
    Ok(shards)
}

/// What an earlier pull of the same name left, if it went to its end.
fn fetched_before(cache: &Cache, named: &Repo, file: Option<&str>) -> Option<PathBuf> {
    let repo = cache.repo(named.clone());
    let path = match file {
        Some(file) => repo.get(file)?,
        None => match repo.get("config.json") {
            Some(config) => config.parent()?.to_path_buf(),
            None => {
                let commit = fs::read_to_string(
                    cache
                        .path()
                        .join(named.folder_name())
                        .join("refs")
                        .join(named.revision()),
                );
                repo.pointer_path(commit.ok()?.trim())
            }
        },
    };
    tracing::warn!(path = %path.display(), "the hub cannot be reached; using what was fetched before");
    Some(path)
}

#[cfg(test)]
mod tests;
