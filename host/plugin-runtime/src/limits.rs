//! What one binding of a plugin may use, and what happens when it fails.

use serde::{Deserialize, Serialize};

use crate::plugin::Import;

/// What a guest may use. Every limit is enforced by the host; reaching one fails the call (or, for
/// log lines, drops the line).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most bytes of linear memory of one instance. Default 64 MiB.
    pub memory_bytes: u64,
    /// Most elements of each table of one instance. Default 20,000.
    pub table_elements: u64,
    /// Milliseconds of processor time, its host calls included, for instantiating, one `validate`,
    /// one `render` or one processor's construction. Default 50. By the clock on the wall, with
    /// waiting for a core and sleeping, a call may take four times as much and half a second.
    pub call_ms: u64,
    /// The same for one `push` or `finish`. Default 5.
    pub delta_ms: u64,
    /// Most bytes that one call may answer with, on top of the size of what it was given.
    /// Default 1 MiB.
    pub output_bytes: u64,
    /// Most bytes of an answer that a processor may hold back. Default 64 KiB.
    pub held_bytes: u64,
    /// Most log lines of one call; an instance gets 16 times as many. More are counted and
    /// dropped. Default 64.
    pub log_lines: u64,
    /// Most calls of imports during one call. Default 10,000.
    pub host_calls: u64,
    /// Most bytes that the plugin's values on the route take, keys and bookkeeping included, over
    /// all instances and versions; 64 KiB of an entry at most. Default 1 MiB.
    pub kv_bytes: u64,
    /// Most questions to the model in one request. Default 2.
    pub model_questions: u64,
    /// Most tokens of all its answers in one request. Default 256.
    pub model_tokens: u64,
    /// Milliseconds for one answer. They count neither as processor time nor as time by the clock
    /// on the wall. Default 10,000.
    pub model_ms: u64,
    /// Most HTTP requests in one request. Default 4.
    pub http_requests: u64,
    /// Milliseconds for one of them, its response included. They count as those of `model_ms` do:
    /// not at all. Default 2,000.
    pub http_ms: u64,
    /// Most bytes of a response's body. Default 256 KiB.
    pub http_response_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            table_elements: 20_000,
            call_ms: 50,
            delta_ms: 5,
            output_bytes: 1 << 20,
            held_bytes: 64 << 10,
            log_lines: 64,
            host_calls: 10_000,
            kv_bytes: 1 << 20,
            model_questions: 2,
            model_tokens: 256,
            model_ms: 10_000,
            http_requests: 4,
            http_ms: 2_000,
            http_response_bytes: 256 << 10,
        }
    }
}

impl Limits {
    /// The limits outside of their range, as (name, value, least, greatest).
    pub(crate) fn first_out_of_range(
        &self,
        max_memory_bytes: u64,
    ) -> Option<(&'static str, u64, u64, u64)> {
        [
            (
                "memory_bytes",
                self.memory_bytes,
                64 << 10,
                max_memory_bytes,
            ),
            ("table_elements", self.table_elements, 0, MAX_TABLE_ELEMENTS),
            ("call_ms", self.call_ms, 1, 600_000),
            ("delta_ms", self.delta_ms, 1, 600_000),
            ("output_bytes", self.output_bytes, 1, 1 << 30),
            ("held_bytes", self.held_bytes, 0, 1 << 30),
            ("log_lines", self.log_lines, 0, 1 << 20),
            ("host_calls", self.host_calls, 0, 1 << 30),
            ("kv_bytes", self.kv_bytes, 0, 1 << 30),
            ("model_questions", self.model_questions, 0, 1000),
            ("model_tokens", self.model_tokens, 0, 1 << 20),
            ("model_ms", self.model_ms, 1, 600_000),
            ("http_requests", self.http_requests, 0, 1000),
            ("http_ms", self.http_ms, 1, 600_000),
            ("http_response_bytes", self.http_response_bytes, 0, 64 << 20),
        ]
        .into_iter()
        .find(|&(_, value, min, max)| value < min || value > max)
    }
}

/// What the instance pool reserves for each table.
pub(crate) const MAX_TABLE_ELEMENTS: u64 = 100_000;

/// What happens to a request when a plugin fails. Everything but `Closed` is counted and logged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailurePolicy {
    /// The request fails, naming plugin and cause.
    #[default]
    Closed,
    /// The plugin is skipped.
    Open,
    /// The call is repeated on the version that was live before,
    /// [`Binding::previous`](crate::Binding::previous): `validate`, `render`, and the making of a
    /// processor with its first call. What a processor knew of an answer is lost with it: one that
    /// fails later fails the answer, as it does where there is no version before.
    Previous,
    /// This text is the answer. Where `validate` or `render` fails it ends the request with the
    /// reason `stop`; where a processor fails it follows what the client has got so far, and the
    /// answer is cut there, with the reason `content_filter`.
    Static(String),
}

impl FailurePolicy {
    /// The policy as configurations name it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Previous => "previous",
            Self::Static(_) => "static",
        }
    }
}

/// Which imports a binding may use. Denied unless granted; a plugin's own settings are its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grants {
    /// Lines in the host's log.
    pub log: bool,
    /// This binding's settings. Granted by default.
    pub config: bool,
    /// Counting tokens with the loaded model's tokenizer.
    pub tokenizer: bool,
    /// Numbers in the host's metrics.
    pub metrics: bool,
    /// Values that outlive a request.
    pub kv: bool,
    /// The time, by WASI too.
    pub clock: bool,
    /// Random numbers.
    pub random: bool,
    /// Questions to the loaded model.
    pub model: bool,
    /// HTTP requests to allowed hosts.
    pub http: bool,
}

impl Grants {
    /// Every import there is.
    pub const ALL: Self = Self {
        log: true,
        config: true,
        tokenizer: true,
        metrics: true,
        kv: true,
        clock: true,
        random: true,
        model: true,
        http: true,
    };

    /// The default and `imports` on top.
    pub fn with(imports: impl IntoIterator<Item = Import>) -> Self {
        let mut grants = Self::default();
        for import in imports {
            match import {
                Import::Log => grants.log = true,
                Import::Config => grants.config = true,
                Import::Tokenizer => grants.tokenizer = true,
                Import::Metrics => grants.metrics = true,
                Import::Kv => grants.kv = true,
                Import::Clock => grants.clock = true,
                Import::Random => grants.random = true,
                Import::Model => grants.model = true,
                Import::Http => grants.http = true,
            }
        }
        grants
    }

    /// Whether `import` is granted.
    pub fn allows(self, import: Import) -> bool {
        match import {
            Import::Log => self.log,
            Import::Config => self.config,
            Import::Tokenizer => self.tokenizer,
            Import::Metrics => self.metrics,
            Import::Kv => self.kv,
            Import::Clock => self.clock,
            Import::Random => self.random,
            Import::Model => self.model,
            Import::Http => self.http,
        }
    }
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            log: false,
            config: true,
            tokenizer: false,
            metrics: false,
            kv: false,
            clock: false,
            random: false,
            model: false,
            http: false,
        }
    }
}
