//! The routes and the plugins bound to them.

use std::num::NonZeroU32;

use gapura_plugin_runtime::Import;
use serde::{Deserialize, Serialize};

use super::{PluginLimitsSection, SamplingLimitsSection, SamplingSection};

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
    pub(in crate::config) fn digests(&self) -> &[String] {
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
    pub grants: Vec<Import>,
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

/// `breaker` of a binding: a plugin that keeps failing is not called for a while. Each of its
/// stages on each route has a circuit breaker of its own; a changed chain begins with closed ones.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerSection {
    /// Failures in a row that open it, whatever requests they come from. A success takes half of a
    /// failure back: a plugin that fails on every second call is left alone after four times as many
    /// calls, one that fails on less than a third of them never. 0 turns it off. Default 10.
    pub failures: Option<u32>,
    /// Milliseconds until one request tries the plugin again; twice as long after each try that
    /// fails, or that only one failure followed. Default 1000.
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
    /// private address must be named by itself or by a network that is private as a whole, whatever
    /// name leads to it, but for that of `localhost`: `0.0.0.0/0` is the Internet. No default: the grant needs one host at least.
    pub allow: Vec<String>,
    /// Most requests in one request of a client. Default 4.
    pub max_requests: Option<NonZeroU32>,
    /// Milliseconds for one of them, within the request's own time. Default 2000.
    pub timeout_ms: Option<NonZeroU32>,
    /// KiB of a response's body. Default 256.
    pub max_response_kib: Option<NonZeroU32>,
}

fn default_grants() -> Vec<Import> {
    vec![Import::Log]
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
