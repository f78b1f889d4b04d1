//! Where plugins come from, whose signatures count, and what guests may use.

use std::{
    collections::BTreeMap,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

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
    /// Versions of each plugin that are kept, beside those that serve or would after a rollback, that
    /// the configuration names, and that the binary carries. Default 10.
    pub keep_versions: NonZeroUsize,
    /// Load what changes in `dir`, and read this file again when it has changed. Default true.
    pub watch: bool,
    /// Folder for compiled code. Default `~/.cache/gapura/plugins`.
    pub cache_dir: Option<PathBuf>,
    /// Most instances of plugins at once, over all routes; 1 to 10,000. A request uses one or two
    /// while it is validated and rendered, and each of its answers one for each plugin that works
    /// on it, from its first token on. A route may have as many as it leaves to the others: alone
    /// half of them. Those beyond wait, for as long as the request may take. Read at start only.
    /// Default 1024.
    pub max_instances: NonZeroU32,
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
                 or a table `{ oci = \"oci://…\", canary = { oci = \"oci://…\", percent = 10 } }`"
)]
pub enum SourceSection {
    /// It goes live.
    Live(String),
    /// It goes live, and another is tried beside it.
    Tried {
        /// The reference of the live version, with the digest of the manifest.
        oci: String,
        /// The version that is tried. Default none.
        #[serde(default)]
        canary: Option<CanarySection>,
    },
}

/// `canary` of a plugin of `[plugins.sources]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum CanarySection {
    /// It answers a share of the requests until it is made the live one or left out.
    Version {
        /// Its reference, with the digest of the manifest.
        oci: String,
        /// Requests of a hundred that it answers, 1 to 100.
        percent: i64,
    },
    /// A share alone says nothing of what the others are answered by; it is refused.
    Share(i64),
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
            max_instances: NonZeroU32::new(1024).expect("the defaults are above zero"),
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
    /// Microseconds by which it must be slower, beside that: less comes of a busy machine too. Default
    /// 1000.
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
            min_latency_us: 1000,
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
