//! The configuration: one TOML file, parsed into [`file::ConfigFile`], overridden by the
//! environment and then by flags, and resolved once into the checked [`Config`] that the rest
//! of the program reads. Nothing deeper in the code looks at the environment.

mod address;
mod check;
mod env;
mod error;
mod failure;
pub mod file;
mod http;
mod location;
mod overrides;
mod provenance;
mod resolve;
mod sources;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    time::Duration,
};

use gapura_plugin_runtime::Import;

use crate::outbound::AllowList;

pub(crate) use address::listen_address;
pub use env::Environment;
pub use error::ConfigError;
pub(crate) use error::nearest;
pub use file::{Device, Dtype, FailurePolicyName, LogFormat, Quantize, SamplingSection};
pub use overrides::Overrides;

use crate::{
    oci::{Reference, Registries},
    signing::TrustedKeys,
};

/// The commented default configuration, as `gapura check --print-default` writes it.
pub const DEFAULT_TOML: &str = include_str!("config/default.toml");

/// The checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file it was read from, if any.
    pub path: Option<PathBuf>,
    /// Listening and limits.
    pub server: ServerConfig,
    /// The administration API.
    pub admin: AdminConfig,
    /// Log lines.
    pub log: LogConfig,
    /// What is loaded, and where.
    pub model: ModelConfig,
    /// How a GPU is used.
    pub cuda: CudaConfig,
    /// Queue and batch.
    pub engine: EngineConfig,
    /// Defaults for what a request leaves open.
    pub sampling: SamplingDefaults,
    /// Where plugins come from and what they may use.
    pub plugins: PluginsConfig,
    /// How registries are reached.
    pub registries: Registries,
    /// The routes, in the order of the file. Never empty.
    pub routes: Vec<RouteConfig>,
    /// API keys; empty where the server is open.
    pub keys: Vec<KeyConfig>,
}

/// `[server]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Serve without API keys on an address that others can reach.
    pub allow_open: bool,
    /// Largest request body.
    pub max_body_bytes: usize,
    /// Most messages in one chat.
    pub max_messages: usize,
    /// From the first byte of a request until the last of its answer.
    pub request_timeout: Duration,
    /// Until the whole request body has come in.
    pub body_timeout: Duration,
    /// Until the header of a request has come in; idle connections end after it too.
    pub header_timeout: Duration,
    /// How long running requests may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Between comment lines in a stream that has nothing to say.
    pub keep_alive: Duration,
    /// How old the engine's last sign of life may be.
    pub stall: Duration,
    /// Origins that browsers may call from; `*` is any.
    pub cors_allow_origins: Vec<String>,
    /// Requests per minute and key (or for all together, without keys).
    pub max_requests_per_minute: Option<NonZeroU32>,
}

/// `[admin]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminConfig {
    /// SHA-256 of the token. Without one the administration API is off.
    pub token: Option<Digest>,
    /// Its own listener; without one it shares the API's.
    pub listen: Option<SocketAddr>,
    /// Largest component that can be pushed.
    pub max_plugin_bytes: usize,
}

/// `[log]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// One JSON object a line, or text.
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `warn,gapura=debug`.
    pub level: String,
}

/// `[model]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Hub id, folder, GGUF file, or `sim`. `None` until a flag or the environment says.
    pub source: Option<String>,
    /// What clients see; without one, what the model calls itself.
    pub name: Option<String>,
    /// Branch, tag or commit on the hub.
    pub revision: String,
    /// Where downloaded models are kept.
    pub cache_dir: PathBuf,
    /// The hub's address.
    pub hub: String,
    /// For models that the hub shows to some only.
    pub hub_token: Option<Secret>,
    /// Where it runs.
    pub device: Device,
    /// What weights become while they load.
    pub quantize: Quantize,
    /// What a GPU computes in; never [`Dtype::Float16`].
    pub dtype: Dtype,
    /// Threads that compute; `None` lets the engine choose.
    pub threads: Option<NonZeroUsize>,
    /// Memory for keys and values; `None` lets the engine choose.
    pub kv_memory_bytes: Option<u64>,
    /// Most tokens of prompt and answer together; `None` is the model's own limit.
    pub context_length: Option<NonZeroUsize>,
}

/// `[cuda]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaConfig {
    /// Which GPU, by the driver's count.
    pub device: u32,
    /// Prompts attend by one fused kernel.
    pub flash_attention: bool,
    /// Steps that only decode are recorded and replayed.
    pub graphs: bool,
    /// Products of float32 in TF32.
    pub tf32: bool,
    /// Compiled kernels.
    pub cache_dir: PathBuf,
}

/// `[engine]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// Requests that may wait before the next is answered with 429.
    pub max_queued: NonZeroUsize,
    /// Sequences that are computed together.
    pub max_num_seqs: NonZeroUsize,
    /// Tokens of one step, prompts and answers together; `None` is what suits the device.
    pub max_step_tokens: Option<NonZeroUsize>,
    /// How many times as long as a step that only decodes one with prompts may take.
    pub max_slowdown: f32,
    /// Keep what ended requests have computed, for those that begin alike.
    pub prefix_cache: bool,
    /// The simulated model's time per step.
    pub sim_step: Duration,
}

/// What a request gets for the fields it leaves out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingDefaults {
    /// Most tokens to generate; `None` is up to the end of the context.
    pub max_tokens: Option<u32>,
    /// 0 is greedy; 0 to 2.
    pub temperature: f32,
    /// Nucleus mass in (0, 1].
    pub top_p: f32,
    /// Most likely tokens kept; 0 keeps all.
    pub top_k: u32,
    /// Least relative probability, in [0, 1].
    pub min_p: f32,
    /// Above 1 discourages repetition; 1 is off.
    pub repetition_penalty: f32,
}

/// What no request of a route may exceed. Validators that amend a request are held to it too.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SamplingLimits {
    /// Most tokens to generate.
    pub max_tokens: Option<u32>,
    /// Highest temperature.
    pub max_temperature: Option<f32>,
    /// Most answers to one request; `None` is 16.
    pub max_choices: Option<u32>,
}

/// `[plugins]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginsConfig {
    /// `NAME.wasm` files that go live.
    pub dir: Option<PathBuf>,
    /// Versions, their states and the history. `None`: they are forgotten at the end.
    pub releases_dir: Option<PathBuf>,
    /// Versions of each plugin that are kept.
    pub keep_versions: usize,
    /// Load what changes in `dir`, and the configuration when its file changes.
    pub watch: bool,
    /// Compiled code, by digest.
    pub cache_dir: PathBuf,
    /// Most instances at once, over all routes.
    pub max_instances: u32,
    /// Keep account of what each plugin costs.
    pub ledger: bool,
    /// When a version is rolled back by itself.
    pub guard: GuardConfig,
    /// Whose signatures count, where a route asks for them.
    pub trusted_keys: TrustedKeys,
    /// What a guest may use, where its binding says nothing else.
    pub limits: PluginLimits,
    /// Plugins that come from registries, by name.
    pub sources: BTreeMap<String, SourceConfig>,
}

/// One plugin of `[plugins.sources]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceConfig {
    /// What is to be live.
    pub live: Pinned,
    /// What is to be tried beside it.
    pub canary: Option<CanaryConfig>,
}

/// One version in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// Always with a digest.
    pub reference: Reference,
    /// That digest: the manifest's SHA-256.
    pub manifest: Digest,
}

/// `canary` of a plugin of `[plugins.sources]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanaryConfig {
    /// Another version than the live one.
    pub version: Pinned,
    /// Requests of a hundred that it answers, 1 to 100.
    pub percent: u8,
}

/// `[plugins.guard]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct GuardConfig {
    /// Whether anything is rolled back.
    pub enabled: bool,
    /// Requests before a version is judged.
    pub min_requests: u64,
    /// Share of requests that may fail.
    pub max_failure_rate: f64,
    /// Share of requests that may run out of time.
    pub max_deadline_rate: f64,
    /// How many times as long a request may take.
    pub max_latency_ratio: f64,
    /// By how much it must take longer, too.
    pub min_latency: Duration,
    /// How long a version that went live is watched.
    pub probation: Duration,
}

/// What one plugin instance may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PluginLimits {
    /// Linear memory.
    pub memory_bytes: usize,
    /// Time of one `validate` or `render` call.
    pub call_deadline: Duration,
    /// Time of one `push` or `finish` call.
    pub delta_deadline: Duration,
    /// Bytes that one call may return.
    pub output_bytes: usize,
    /// Bytes of the answer that `respond` may hold back.
    pub held_bytes: usize,
    /// Log lines per call.
    pub log_lines: u32,
    /// Bytes that its values on a route take.
    pub kv_bytes: usize,
}

/// What one plugin may ask the model in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuestionLimits {
    /// Most questions.
    pub questions: u32,
    /// Most tokens of all answers.
    pub tokens: u32,
    /// Time of one answer.
    pub within: Duration,
}

/// Whom one plugin may ask by HTTP, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAccess {
    /// Whom.
    pub allow: AllowList,
    /// Most requests in one request of a client.
    pub requests: u32,
    /// Time of one of them.
    pub within: Duration,
    /// Bytes of a response's body.
    pub response_bytes: usize,
}

/// `[[routes]]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteConfig {
    /// The model name and the path segment that lead here.
    pub name: String,
    /// Other model names that lead here.
    pub aliases: Vec<String>,
    /// Also answers to the model's own name, and to requests that name none.
    pub default: bool,
    /// The bindings, in order.
    pub plugins: Vec<BindingConfig>,
    /// One of these keys must have signed each plugin that is not the binary's own; `None` asks for
    /// nothing.
    pub signers: Option<TrustedKeys>,
    /// What requests leave open.
    pub sampling: SamplingDefaults,
    /// What requests may not exceed.
    pub limits: SamplingLimits,
    /// Which requests are kept to be run again; `None` for none.
    pub record: Option<RecordConfig>,
}

/// Which requests of a route are kept to be run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordConfig {
    /// Most records.
    pub keep: usize,
    /// Letters and digits are replaced.
    pub redact: bool,
    /// Bytes of all of them.
    pub max_bytes: usize,
}

/// One plugin of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct BindingConfig {
    /// The plugin's name.
    pub plugin: String,
    /// The configuration says `template`: `plugin` is the built-in one of the model's
    /// architecture, once that is known.
    pub is_template: bool,
    /// The components that may be bound; empty for any.
    pub digests: Vec<Digest>,
    /// What its `config` import returns, as a JSON object.
    pub settings: serde_json::Value,
    /// The imports that it gets beside `config`.
    pub grants: Vec<Import>,
    /// How many later requests an instance may serve; `None` is 0, or what suits a built-in plugin.
    pub reuse: Option<u32>,
    /// What happens when a call fails; `None` is `closed`.
    pub on_failure: Option<FailurePolicyName>,
    /// The answer of `static`; there where that is the policy.
    pub static_answer: Option<String>,
    /// When it is left alone for a while.
    pub breaker: gapura_plugin_runtime::BreakerConfig,
    /// Allow `open` for a validator, which then lets requests through unseen.
    pub force_open: bool,
    /// What it may use.
    pub limits: PluginLimits,
    /// What it may ask the model.
    pub questions: QuestionLimits,
    /// Whom it may ask by HTTP.
    pub http: HttpAccess,
}

/// `[[keys]]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyConfig {
    /// What logs, metrics and plugins call the caller.
    pub name: String,
    /// SHA-256 of the key.
    pub digest: Digest,
    /// The routes it opens; `None` is all.
    pub routes: Option<Vec<String>>,
    /// Its own limit instead of the server's.
    pub max_requests_per_minute: Option<NonZeroU32>,
    /// Shares computed prefixes with no other key.
    pub private_cache: bool,
}

impl Config {
    /// Reads `path` (or starts from the defaults), applies environment and flags, checks.
    ///
    /// # Errors
    /// [`ConfigError`] with file, line and column, or the variable or flag at fault.
    pub fn load(
        path: Option<&Path>,
        environment: &Environment,
        flags: &Overrides,
    ) -> Result<Self, ConfigError> {
        let source = match path {
            Some(path) => std::fs::read_to_string(path).map_err(|reason| ConfigError::Read {
                path: path.to_owned(),
                reason,
            })?,
            None => String::new(),
        };
        Self::parse(path, &source, environment, flags)
    }

    /// [`load`](Self::load) from text that is already there.
    ///
    /// # Errors
    /// As [`load`](Self::load), but for reading the file.
    pub fn parse(
        path: Option<&Path>,
        source: &str,
        environment: &Environment,
        flags: &Overrides,
    ) -> Result<Self, ConfigError> {
        let document = location::Document { path, source };
        let mut tree = file::ConfigFile::parse(&document)?;
        check::check_tree(&tree, &document)?;
        let registries = sources::registries(&tree.registries, environment, &document)?;
        let from_environment = environment.overrides()?;
        from_environment.apply(&mut tree);
        flags.apply(&mut tree);
        let config = resolve::resolve(tree, &document, &from_environment)?;
        Ok(Self {
            registries,
            ..config
        })
    }
}

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// From 64 hexadecimal digits, with or without `sha256:` before them.
    pub fn from_hex(text: &str) -> Option<Self> {
        let text = text.strip_prefix("sha256:").unwrap_or(text);
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.to_hex())
    }
}

/// The digest of a secret says nothing, but a log full of them helps whoever guesses.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}…", &self.to_hex()[..8])
    }
}

/// A text that no log, error or debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

#[cfg(test)]
mod tests;
