//! What flags and the environment may set over the file.

use std::{
    net::{IpAddr, SocketAddr},
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
};

use super::{
    Device, Digest, Dtype, KeyConfig, LogFormat, Quantize, Secret,
    file::{ConfigFile, SamplingSection},
};

/// Values that go before those of the file. `None` leaves the file's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// `--listen`, `GAPURA_LISTEN`.
    pub listen: Option<SocketAddr>,
    /// `HOST`.
    pub host: Option<IpAddr>,
    /// `PORT`.
    pub port: Option<u16>,
    /// `--allow-open`.
    pub allow_open: bool,
    /// `--model`, `MODEL_NAME`.
    pub model: Option<String>,
    /// `--name`.
    pub model_name: Option<String>,
    /// `--device`, `DEVICE`.
    pub device: Option<Device>,
    /// `--quantize`, `LOAD_IN_8BIT`, `LOAD_IN_4BIT`.
    pub quantize: Option<Quantize>,
    /// `--dtype`.
    pub dtype: Option<Dtype>,
    /// `USE_FLASH_ATTENTION`.
    pub flash_attention: Option<bool>,
    /// `--threads`.
    pub threads: Option<NonZeroUsize>,
    /// `--context-length`, `MODEL_MAX_LENGTH`.
    pub context_length: Option<NonZeroUsize>,
    /// `--kv-memory-mib`.
    pub kv_memory_mib: Option<NonZeroUsize>,
    /// `--plugin-dir`.
    pub plugin_dir: Option<PathBuf>,
    /// `--cache-dir`.
    pub plugin_cache_dir: Option<PathBuf>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
    /// `--log-level`, `LOG_LEVEL`.
    pub log_level: Option<String>,
    /// `DEFAULT_MAX_NEW_TOKENS` and its like.
    pub sampling: SamplingSection,
    /// `MAX_REQUESTS_PER_MINUTE`.
    pub max_requests_per_minute: Option<NonZeroU32>,
    /// `GAPURA_ADMIN_TOKEN`, hashed.
    pub admin_token: Option<Digest>,
    /// `API_KEYS`, hashed; they come beside the file's.
    pub keys: Vec<KeyConfig>,
    /// `HUGGINGFACE_TOKEN`, `HF_TOKEN`.
    pub hub_token: Option<Secret>,
}

impl Overrides {
    /// Writes them into `tree`, but for keys and the hub's token, which a file cannot hold.
    pub(super) fn apply(&self, tree: &mut ConfigFile) {
        let server = &mut tree.server;
        if let Some(listen) = self.listen {
            server.listen = listen;
        }
        if let Some(host) = self.host {
            server.listen.set_ip(host);
        }
        if let Some(port) = self.port {
            server.listen.set_port(port);
        }
        server.allow_open |= self.allow_open;
        set(
            &mut server.max_requests_per_minute,
            self.max_requests_per_minute,
        );
        if let Some(digest) = self.admin_token {
            tree.admin.token_sha256 = Some(digest.to_hex());
        }
        let model = &mut tree.model;
        set(&mut model.source, self.model.clone());
        set(&mut model.name, self.model_name.clone());
        set(&mut model.threads, self.threads);
        set(&mut model.context_length, self.context_length);
        set(&mut model.kv_memory_mib, self.kv_memory_mib);
        model.device = self.device.unwrap_or(model.device);
        model.quantize = self.quantize.unwrap_or(model.quantize);
        model.dtype = self.dtype.unwrap_or(model.dtype);
        let cuda = &mut tree.cuda;
        cuda.flash_attention = self.flash_attention.unwrap_or(cuda.flash_attention);
        set(&mut tree.plugins.dir, from_here(&self.plugin_dir));
        set(
            &mut tree.plugins.cache_dir,
            from_here(&self.plugin_cache_dir),
        );
        tree.log.format = self.log_format.unwrap_or(tree.log.format);
        if let Some(level) = &self.log_level {
            tree.log.level = level.clone();
        }
        set(&mut tree.sampling.max_tokens, self.sampling.max_tokens);
        set(&mut tree.sampling.temperature, self.sampling.temperature);
        set(&mut tree.sampling.top_p, self.sampling.top_p);
        set(&mut tree.sampling.top_k, self.sampling.top_k);
    }
}

fn set<T>(slot: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *slot = value;
    }
}

/// Paths of flags are meant from the working directory, those of the file from the file's folder.
fn from_here(path: &Option<PathBuf>) -> Option<PathBuf> {
    path.as_ref()
        .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()))
}
