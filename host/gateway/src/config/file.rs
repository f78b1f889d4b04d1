//! The TOML tree as it stands in the file. Every key is optional; unknown keys are errors.
//! `default.toml` beside this file shows all of it with the defaults.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

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

/// `[plugins]`: where plugins come from and what they may use.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginsSection {
    /// Folder of `NAME.wasm` files, relative to the configuration file: what is put there goes
    /// live. It is only read. Default none.
    pub dir: Option<PathBuf>,
    /// Folder for versions, their states and the history, so that they outlive the process; it
    /// belongs to one server. Default `.releases` in `dir`; without either, what is pushed is
    /// forgotten at the end.
    pub releases_dir: Option<PathBuf>,
    /// Versions of each plugin that are kept, beside those that serve. Default 10.
    pub keep_versions: NonZeroUsize,
    /// Load what changes in `dir`, and read this file again when it has changed. Default true.
    pub watch: bool,
    /// Folder for compiled code. Default `~/.cache/gapura/plugins`.
    pub cache_dir: Option<PathBuf>,
    /// Keep account of what each plugin costs, for `/metrics`, `gapura plugin status` and release
    /// control. Default true.
    pub ledger: bool,
    /// When a version that does badly is rolled back by itself.
    pub guard: GuardSection,
    /// Whose signatures count, where a route asks for them. Default none.
    pub trusted_keys: Vec<TrustedKeySection>,
    /// What a guest may use, where its binding says nothing else.
    pub limits: PluginLimitsSection,
    /// Plugins that come from registries, by name: each version as it is to serve. Default none.
    pub sources: BTreeMap<String, SourceSection>,
}

/// One plugin of `[plugins.sources]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a reference is needed, such as `\"oci://registry.example.com/team/persona@sha256:…\"`, \
                 or a table `{ oci = \"…\", canary = 10 }`"
)]
pub enum SourceSection {
    /// It goes live.
    Live(String),
    /// It begins as a canary, if it says so.
    Tried {
        /// The reference, with the digest of the manifest.
        oci: String,
        /// Requests of a hundred that it answers, 1 to 100, until it is activated or rolled back.
        /// Default: it goes live.
        #[serde(default)]
        canary: Option<u8>,
    },
}

/// `[registries."HOST[:PORT]"]`: how one registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrySection {
    /// The user that asks. Default none.
    pub username: Option<String>,
    /// The environment variable that holds the user's password or token.
    pub password_env: Option<String>,
    /// HTTP without TLS, passwords included. Default: true for this machine, else false.
    pub plain_http: Option<bool>,
}

impl Default for PluginsSection {
    fn default() -> Self {
        Self {
            dir: None,
            releases_dir: None,
            keep_versions: NonZeroUsize::new(10).expect("the defaults are above zero"),
            watch: true,
            cache_dir: None,
            ledger: true,
            guard: GuardSection::default(),
            trusted_keys: Vec::new(),
            limits: PluginLimitsSection::default(),
            sources: BTreeMap::new(),
        }
    }
}

/// `[plugins.guard]`: when a version on trial, or one that went live a short while ago, is rolled
/// back by itself: where it does worse than the version before. It needs the ledger.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardSection {
    /// Whether anything is. Default true.
    pub enabled: bool,
    /// Requests of the version before it is judged, unless the first five all fail. Default 20.
    pub min_requests: u64,
    /// Share of its requests that may fail, in [0, 1]; three failures, and twice the share of the
    /// version before, are always allowed. Default 0.02.
    pub max_failure_rate: f64,
    /// The same for requests in which it runs out of time. Default 0.01.
    pub max_deadline_rate: f64,
    /// How many times as long as the version before it may take for a request, at the 95th
    /// percentile. Default 2.
    pub max_latency_ratio: f64,
    /// Microseconds by which it must be slower, beside that. Default 200.
    pub min_latency_us: u64,
    /// Seconds for which a version that went live is watched. Default 300.
    pub probation_seconds: u64,
}

impl Default for GuardSection {
    fn default() -> Self {
        Self {
            enabled: true,
            min_requests: 20,
            max_failure_rate: 0.02,
            max_deadline_rate: 0.01,
            max_latency_ratio: 2.0,
            min_latency_us: 200,
            probation_seconds: 300,
        }
    }
}

/// `[[plugins.trusted_keys]]`: a key whose signatures count.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedKeySection {
    /// What `require_signature` and messages call it.
    pub name: String,
    /// `ed25519:` and base64, as `gapura key new --signing` prints it.
    pub public_key: String,
}

/// `[plugins.limits]`, `limits` of a binding: what one plugin instance may use.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginLimitsSection {
    /// Linear memory in MiB. Default 64.
    pub memory_mib: Option<NonZeroU32>,
    /// Milliseconds for one `validate` or `render` call. Default 50.
    pub call_deadline_ms: Option<NonZeroU32>,
    /// Milliseconds for one `push` or `finish` call. Default 5.
    pub delta_deadline_ms: Option<NonZeroU32>,
    /// KiB that one call may return. Default 1024.
    pub output_kib: Option<NonZeroU32>,
    /// KiB of the answer that `respond` may hold back. Default 64.
    pub held_kib: Option<NonZeroU32>,
    /// Log lines per call; more are counted and dropped. Default 64.
    pub log_lines: Option<u32>,
    /// KiB that the values kept by `kv` take, for each plugin of each route. Default 1024.
    pub kv_kib: Option<NonZeroU32>,
}

/// `[[routes]]`: one way through the gateway.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSection {
    /// The `model` that clients send and the segment of `/routes/NAME/v1`: letters, digits,
    /// `-`, `_`, `.`.
    pub name: String,
    /// Other `model` names that lead here. Default none.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Also answers to the model's own name. Default: true for the first route if no route
    /// says so.
    #[serde(default)]
    pub default: bool,
    /// The plugins, in order. Exactly one of them renders.
    #[serde(default)]
    pub plugins: Vec<BindingSection>,
    /// Bind only plugins that a trusted key has signed: `true` for any of
    /// `[[plugins.trusted_keys]]`, or a list of their names. The binary's own plugins need no
    /// signature. Default false.
    #[serde(default)]
    pub require_signature: RequireSignature,
    /// What requests of this route leave open; goes before `[sampling]`.
    #[serde(default)]
    pub sampling: SamplingSection,
    /// What requests of this route may not exceed.
    #[serde(default)]
    pub limits: SamplingLimitsSection,
    /// Keep what the chain needs to run its newest requests again. Default none is kept.
    #[serde(default)]
    pub record: Option<RecordSection>,
}

/// `record` of a route: what `gapura plugin replay` plays. In memory, gone with the process.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordSection {
    /// Requests, the newest ones; 1 to 10,000. Default 100.
    pub keep: NonZeroU32,
    /// Replace letters and digits of what people, the model and plugins said. Default true.
    pub redact: bool,
    /// MiB that all of them may take. Default 16.
    pub max_mib: NonZeroU32,
}

impl Default for RecordSection {
    fn default() -> Self {
        Self {
            keep: const { NonZeroU32::new(100).expect("not zero") },
            redact: true,
            max_mib: const { NonZeroU32::new(16).expect("not zero") },
        }
    }
}

/// `require_signature` of a route.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(
    untagged,
    expecting = "`require_signature` is true, false, or a list of names of trusted keys"
)]
pub enum RequireSignature {
    /// By any trusted key, or by none at all.
    Any(bool),
    /// By one of these keys.
    By(Vec<String>),
}

impl Default for RequireSignature {
    fn default() -> Self {
        Self::Any(false)
    }
}

/// `digest` of a binding.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(
    untagged,
    expecting = "`digest` is `sha256:…`, as `gapura plugin inspect` shows it, or a list of those"
)]
pub enum DigestPin {
    /// This component and no other.
    One(String),
    /// One of these components.
    OneOf(Vec<String>),
}

impl DigestPin {
    /// Each of them.
    pub(super) fn digests(&self) -> &[String] {
        match self {
            Self::One(digest) => std::slice::from_ref(digest),
            Self::OneOf(digests) => digests,
        }
    }
}

/// `[[routes.plugins]]`: one plugin of a route.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BindingSection {
    /// The plugin's name: that of its file in `[plugins] dir`, a built-in one, or `template`
    /// for the built-in one that suits the model.
    pub plugin: String,
    /// Bind this component only: its `sha256:…`, or a list of those that may serve. Default any.
    #[serde(default)]
    pub digest: Option<DigestPin>,
    /// What the plugin's `config` import returns, as a JSON object. Default `{}`.
    #[serde(default)]
    pub settings: toml::Table,
    /// The host interfaces that the plugin may import, beside its own settings (`config`).
    /// Default `["log"]`: it is rate-limited, and without it a plugin's panic has no message.
    #[serde(default = "default_grants")]
    pub grants: Vec<GrantName>,
    /// How many later requests an instance that has answered may serve, one after the other, before
    /// it is dropped. What the plugin keeps in its memory is seen by those requests; a failure ends
    /// an instance at once. On a route that records, it means nothing. Default 0, a
    /// fresh instance for each request, but 1000 for the binary's own templates, which keep nothing.
    #[serde(default)]
    pub reuse: Option<u32>,
    /// What happens when a call fails: `closed` answers with 500; `open` goes on without the
    /// plugin; `previous` repeats the call on the version that was live before, where there is one
    /// and unless a processor fails in mid-answer, else it is `closed`; `static` answers with
    /// `static_answer`. Default `closed`.
    #[serde(default)]
    pub on_failure: Option<FailurePolicyName>,
    /// The answer of `on_failure = "static"`: where the plugin fails before the model is asked, all
    /// of it, with the finish reason `stop`; where it fails on the answer, what follows the text
    /// that has come so far, with `content_filter`. No default; `static` needs one.
    #[serde(default)]
    pub static_answer: Option<String>,
    /// When the plugin is left alone for a while, so that requests go straight to `on_failure`.
    #[serde(default)]
    pub breaker: BreakerSection,
    /// Accept `on_failure = "open"` for a plugin that validates. Default false.
    #[serde(default)]
    pub force_open: bool,
    /// What the plugin may use; goes before `[plugins.limits]`.
    #[serde(default)]
    pub limits: PluginLimitsSection,
    /// What the plugin may ask the model, where `grants` has `model`.
    #[serde(default)]
    pub model: QuestionsSection,
    /// Whom the plugin may ask by HTTP, where `grants` has `http`.
    #[serde(default)]
    pub http: HttpSection,
}

/// `breaker` of a binding: a plugin that fails every time is not called for a while. Each of its
/// stages on each route has a circuit breaker of its own; a changed chain begins with closed ones.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerSection {
    /// Failures in a row that open it, whatever requests they come from; a success between them
    /// starts the count anew. 0 turns it off. Default 10.
    pub failures: Option<u32>,
    /// Milliseconds until one request tries the plugin again; twice as long after each try that
    /// fails. Default 1000.
    pub backoff_ms: Option<NonZeroU32>,
    /// The most that becomes of `backoff_ms`. Default 60000.
    pub max_backoff_ms: Option<NonZeroU32>,
}

/// `model` of a binding: the plugin's own questions to the loaded model.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuestionsSection {
    /// Most questions in one request. Default 2.
    pub questions: Option<NonZeroU32>,
    /// Most tokens of all their answers together. Default 256.
    pub tokens: Option<NonZeroU32>,
    /// Seconds for one answer, within the request's own time. Default 10.
    pub seconds: Option<NonZeroU32>,
}

/// `http` of a binding: the plugin's own HTTP requests.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSection {
    /// The hosts: names (`api.example.com`), all names below one (`*.example.com`), addresses and
    /// networks (`10.0.0.0/8`), each on the port of `http` or `https`, or on `:PORT` behind it. A
    /// private address must be named by itself or its network, whatever name leads to it, but for
    /// that of `localhost`. No default: the grant needs one host at least.
    pub allow: Vec<String>,
    /// Most requests in one request of a client. Default 4.
    pub max_requests: Option<NonZeroU32>,
    /// Milliseconds for one of them, within the request's own time. Default 2000.
    pub timeout_ms: Option<NonZeroU32>,
    /// KiB of a response's body. Default 256.
    pub max_response_kib: Option<NonZeroU32>,
}

fn default_grants() -> Vec<GrantName> {
    vec![GrantName::Log]
}

/// A host interface that a plugin may import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GrantName {
    /// Lines in the host's log.
    Log,
    /// The binding's settings.
    Config,
    /// Counting tokens.
    Tokenizer,
    /// Numbers in `/metrics`.
    Metrics,
    /// Values that outlive a request.
    Kv,
    /// The time.
    Clock,
    /// Random numbers.
    Random,
    /// Questions to the loaded model.
    Model,
    /// HTTP requests to allowed hosts.
    Http,
}

impl GrantName {
    /// As the file spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Config => "config",
            Self::Tokenizer => "tokenizer",
            Self::Metrics => "metrics",
            Self::Kv => "kv",
            Self::Clock => "clock",
            Self::Random => "random",
            Self::Model => "model",
            Self::Http => "http",
        }
    }
}

/// What happens when a guest call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FailurePolicyName {
    /// The request fails with a 5xx that names the plugin.
    Closed,
    /// The request goes on without the plugin; counted and logged.
    Open,
    /// The version that was live before has the call to answer.
    Previous,
    /// A configured text is the answer.
    Static,
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
