//! The TOML tree as it stands in the file. Every key is optional; unknown keys are errors.
//! `default.toml` beside this file shows all of it with the defaults.

mod plugins;
mod routes;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

pub use plugins::*;
pub use routes::*;

use super::{ConfigError, address, error::explain, location::Document};

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// Listening and limits.
    pub server: ServerSection,
    /// The administration API.
    pub admin: AdminSection,
    /// Log lines.
    pub log: LogSection,
    /// What is loaded, and where.
    pub model: ModelSection,
    /// How a GPU is used.
    pub cuda: CudaSection,
    /// Queue and batch.
    pub engine: EngineSection,
    /// What a request gets for the fields it leaves out.
    pub sampling: SamplingSection,
    /// Where plugins come from and what they may use.
    pub plugins: PluginsSection,
    /// How registries are reached, by `HOST[:PORT]`. One that is not here is asked by HTTPS and
    /// without a login, one on this machine by HTTP.
    pub registries: BTreeMap<String, RegistrySection>,
    /// The routes. Without any, one named `default` with the built-in template of the
    /// model's architecture.
    pub routes: Vec<RouteSection>,
    /// API keys. Without any, whoever reaches the port is served.
    pub keys: Vec<KeySection>,
}

impl ConfigFile {
    pub(super) fn parse(document: &Document<'_>) -> Result<Self, ConfigError> {
        toml::from_str(document.source).map_err(|error| ConfigError::Invalid {
            at: document.place(error.span(), "configuration"),
            message: explain(error.message()),
        })
    }
}

/// `[server]`: listening and limits.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSection {
    /// Address or name, and port of the API. Default `127.0.0.1:8000`.
    #[serde(deserialize_with = "address::deserialize")]
    pub listen: SocketAddr,
    /// Serve without API keys on an address that other machines can reach. Default false:
    /// the server refuses to start so.
    pub allow_open: bool,
    /// Largest request body in bytes; a larger one is answered with 413. Default 4 MiB.
    pub max_body_bytes: usize,
    /// Most messages in one chat; more are answered with 400. Default 512.
    pub max_messages: usize,
    /// Seconds from the start of a request to the end of its answer. Default 600, what the
    /// OpenAI clients wait.
    pub request_timeout_seconds: f64,
    /// Seconds for a request's body to come in; then 408. Default 30.
    pub body_timeout_seconds: f64,
    /// Seconds for a request's header to come in, and for an idle connection to stay open.
    /// Default 60.
    pub header_timeout_seconds: f64,
    /// Seconds that running requests may go on after SIGTERM. Default 30.
    pub drain_timeout_seconds: f64,
    /// Seconds of silence in a stream before a comment line keeps it open. Default 10.
    pub keep_alive_seconds: f64,
    /// Seconds without a sign of life from the engine, which gives one every step, until
    /// `/readyz` answers 503. Default 60.
    pub stall_seconds: f64,
    /// Origins that browsers may call from, `["*"]` for any. Default none.
    pub cors_allow_origins: Vec<String>,
    /// Requests per minute for each key, or for all callers together where there are no keys;
    /// more are answered with 429. Default no limit.
    pub max_requests_per_minute: Option<NonZeroU32>,
}

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            allow_open: false,
            max_body_bytes: 4 << 20,
            max_messages: 512,
            request_timeout_seconds: 600.0,
            body_timeout_seconds: 30.0,
            header_timeout_seconds: 60.0,
            drain_timeout_seconds: 30.0,
            keep_alive_seconds: 10.0,
            stall_seconds: 60.0,
            cors_allow_origins: Vec::new(),
            max_requests_per_minute: None,
        }
    }
}

/// `[admin]`: the administration API under `/admin/v1`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSection {
    /// SHA-256 of the token, as `gapura key new` prints it. The environment variable
    /// `GAPURA_ADMIN_TOKEN` holds the token itself and goes before. Default none: the
    /// administration API is off.
    pub token_sha256: Option<String>,
    /// Address or name, and port of a listener for `/admin/v1` alone. Default none: it shares
    /// the API's.
    #[serde(deserialize_with = "address::deserialize_some")]
    pub listen: Option<SocketAddr>,
    /// Largest component that can be pushed, in bytes. Default 32 MiB.
    pub max_plugin_bytes: usize,
}

impl Default for AdminSection {
    fn default() -> Self {
        Self {
            token_sha256: None,
            listen: None,
            max_plugin_bytes: 32 << 20,
        }
    }
}

/// `[log]`: what goes to standard error.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// `text` or `json` (one object a line). Default `text`.
    pub format: LogFormat,
    /// Least important level, `error` to `trace`, or a filter such as `warn,gapura=debug`.
    /// Default `info`.
    pub level: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// `[model]`: what is loaded, and where. Read at start only.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSection {
    /// A hub id (`google/gemma-2-9b-it`), a folder with config.json, a `.gguf` file, or `sim`:
    /// scripted answers without any weights, for tests. No default; `--model` and `MODEL_NAME`
    /// go before.
    pub source: Option<String>,
    /// The name that clients see. Default: what the model calls itself.
    pub name: Option<String>,
    /// Branch, tag or commit on the hub. Default `main`.
    pub revision: String,
    /// Folder for downloaded models. Default: the hub's own, `~/.cache/huggingface/hub`.
    pub cache_dir: Option<PathBuf>,
    /// The hub's address. Default `https://huggingface.co`. Its token comes from the
    /// environment alone: `HUGGINGFACE_TOKEN` or `HF_TOKEN`.
    pub hub: String,
    /// `auto`, `cpu` or `cuda`. Default `auto`: the best that this machine and this build have.
    pub device: Device,
    /// `8bit` or `4bit`: make the weights of a model in F32, F16 or BF16 smaller while it loads.
    /// Default `none`; `LOAD_IN_8BIT` and `LOAD_IN_4BIT` go before.
    pub quantize: Quantize,
    /// What a GPU computes in: `auto` and `bfloat16` are the same, `float32` is for comparison. The
    /// CPU always computes in float32. Default `auto`.
    pub dtype: Dtype,
    /// Threads that compute. Default: one for each physical core.
    pub threads: Option<NonZeroUsize>,
    /// Memory for keys and values in MiB. Default 1024 on a CPU; what is free on a GPU.
    pub kv_memory_mib: Option<NonZeroUsize>,
    /// Most tokens of prompt and answer together. Default: the model's own limit.
    pub context_length: Option<NonZeroUsize>,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            source: None,
            name: None,
            revision: "main".to_owned(),
            cache_dir: None,
            hub: "https://huggingface.co".to_owned(),
            device: Device::Auto,
            quantize: Quantize::None,
            dtype: Dtype::Auto,
            threads: None,
            kv_memory_mib: None,
            context_length: None,
        }
    }
}

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The best there is.
    Auto,
    /// Always there.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// Making weights smaller while they load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
pub enum Quantize {
    /// As the files have them.
    #[serde(rename = "none")]
    None,
    /// 8.5 bits a weight.
    #[serde(rename = "8bit")]
    #[value(name = "8bit")]
    EightBit,
    /// About 4.5 bits a weight; 8.5 in the embedding and the output layer.
    #[serde(rename = "4bit")]
    #[value(name = "4bit")]
    FourBit,
}

/// What a GPU computes activations in, and keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// bfloat16.
    Auto,
    /// What models are trained in.
    Bfloat16,
    /// Twice the memory, a fraction of the speed.
    Float32,
    /// Refused, with the reason.
    Float16,
}

/// `[cuda]`: how a GPU is used. Read at start only.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CudaSection {
    /// Which GPU, by the driver's count (`CUDA_VISIBLE_DEVICES` goes before). Default 0.
    pub device: u32,
    /// Prompts attend by one fused kernel; else by plain matrix products. Default true;
    /// `USE_FLASH_ATTENTION` goes before.
    pub flash_attention: bool,
    /// Steps of running answers are recorded once and replayed. Default true.
    pub graphs: bool,
    /// Products of float32 (`dtype = "float32"`) are taken in TF32, with 10 bits of fraction.
    /// Default false.
    pub tf32: bool,
    /// Folder for compiled kernels. Default `gapura/kernels` in the user's cache folder.
    pub cache_dir: Option<PathBuf>,
}

impl Default for CudaSection {
    fn default() -> Self {
        Self {
            device: 0,
            flash_attention: true,
            graphs: true,
            tf32: false,
            cache_dir: None,
        }
    }
}

/// `[engine]`: queue and batch. Read at start only.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSection {
    /// Requests that may wait; the next is answered with 429. Default 256.
    pub max_queued: NonZeroUsize,
    /// Sequences that are computed together. Default 64.
    pub max_num_seqs: NonZeroUsize,
    /// Tokens of one step: running answers first, the rest goes to prompts. Smaller steps
    /// disturb running streams less, larger ones read prompts faster. Default 256 on a CPU, 2048
    /// on a GPU.
    pub max_step_tokens: Option<NonZeroUsize>,
    /// How many times as long as a step of answers alone one with prompts in it may take, 1 or
    /// more: a prompt that arrives slows running streams by no more than this, and is read in
    /// smaller parts for it. `inf` for steps that are always full. Default 2.2.
    pub max_slowdown: f64,
    /// Keep what ended requests have computed, for those that begin alike, as long as nobody
    /// needs the room. Default true.
    pub prefix_cache: bool,
    /// Milliseconds that a step of the simulated model takes. Default 0.
    pub sim_step_ms: f64,
}

impl Default for EngineSection {
    fn default() -> Self {
        let count = |n| NonZeroUsize::new(n).expect("the defaults are above zero");
        Self {
            max_queued: count(256),
            max_num_seqs: count(64),
            max_step_tokens: None,
            max_slowdown: 2.2,
            prefix_cache: true,
            sim_step_ms: 0.0,
        }
    }
}

/// `[sampling]`, `[routes.sampling]`: what a request gets for the fields it leaves out. A
/// route's own go before the file's.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingSection {
    /// Most tokens to generate. Default: up to the end of the context.
    pub max_tokens: Option<u32>,
    /// 0 is greedy; 0 to 2. Default 1.
    pub temperature: Option<f32>,
    /// Nucleus mass, above 0 and up to 1. Default 1.
    pub top_p: Option<f32>,
    /// Most likely tokens kept; 0 keeps all. Default 0.
    pub top_k: Option<u32>,
    /// Least probability relative to the most likely token, 0 to 1. Default 0.
    pub min_p: Option<f32>,
    /// Above 1 discourages repetition; above 0. Default 1.
    pub repetition_penalty: Option<f32>,
}

/// `[routes.limits]`: what no request of the route may exceed; more is answered with 400.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingLimitsSection {
    /// Most tokens to generate. Default no limit but the context.
    pub max_tokens: Option<u32>,
    /// Highest temperature. Default 2.
    pub max_temperature: Option<f32>,
    /// Most answers (`n`) to one request. Default 16.
    pub max_choices: Option<u32>,
}

/// `[[keys]]`: one API key.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeySection {
    /// What logs, metrics and plugins call the caller.
    pub name: String,
    /// SHA-256 of the key, as `gapura key new` prints it.
    pub sha256: String,
    /// The routes that it opens. Default all.
    #[serde(default)]
    pub routes: Option<Vec<String>>,
    /// Its own limit instead of the server's.
    #[serde(default)]
    pub max_requests_per_minute: Option<NonZeroU32>,
    /// Share computed prefixes with no other key: nobody can tell from the speed of an answer
    /// what this key has asked. Default false.
    #[serde(default)]
    pub private_cache: bool,
}
