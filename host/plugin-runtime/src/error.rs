//! Every way in which loading, binding or calling a plugin can fail.

use std::path::PathBuf;
use std::time::Duration;

use crate::plugin::{Import, Stage};

/// The process-wide runtime could not start.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The directory of compiled code cannot be created or written.
    #[error("plugin cache directory {} is not writable", path.display())]
    Cache {
        /// The directory as configured.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// A setting is outside of what the engine takes.
    #[error("{name} is {value}, but {expected}")]
    Setting {
        /// The field of [`RuntimeConfig`](crate::RuntimeConfig).
        name: &'static str,
        /// Its value.
        value: u64,
        /// What would be right.
        expected: &'static str,
    },
    /// The WebAssembly engine could not be built.
    #[error("cannot start the WebAssembly engine: {message}")]
    Engine {
        /// What wasmtime said.
        message: String,
    },
    /// The operating system refused a thread.
    #[error("cannot start the deadline thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// An artefact was refused; nothing that runs has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A plugin's name is not one that routes and files can use.
    #[error(
        "plugin name {name:?} must be 1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a \
         letter or digit"
    )]
    Name {
        /// The name as given.
        name: String,
    },
    /// The artefact is larger than the host takes.
    #[error(
        "the component has {bytes} bytes, more than the limit of {limit_bytes}: build it without \
         debug information, or raise the limit"
    )]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// [`RuntimeConfig::max_component_bytes`](crate::RuntimeConfig::max_component_bytes).
        limit_bytes: u64,
    },
    /// The bytes are not WebAssembly.
    #[error("not a WebAssembly file: it begins with {found}")]
    NotWasm {
        /// The first bytes, in hexadecimal, or "nothing".
        found: String,
    },
    /// A core module where a component is needed.
    #[error(
        "a core WebAssembly module, not a component: link it with wasm-component-ld or \
         `wasm-tools component new`"
    )]
    CoreModule,
    /// The file ends in the middle of a section.
    #[error(
        "truncated: the file ends after {bytes} bytes, inside of a section; copy or build it again"
    )]
    Truncated {
        /// How many bytes there are.
        bytes: u64,
    },
    /// The component is malformed, or breaks an engine-wide bound such as the memory's size.
    #[error("invalid component: {message}")]
    Invalid {
        /// What the validator or compiler said.
        message: String,
    },
    /// The component is valid WebAssembly, but of a kind that plugins cannot be.
    #[error(
        "needs a feature of WebAssembly that plugins do not have, such as memory64 or threads: \
         {message}; build it for wasm32 without that feature"
    )]
    Feature {
        /// What the validator said.
        message: String,
    },
    /// The component exports no stage.
    #[error(
        "exports no stage: expected one or more of gapura:plugin/request-validation, \
         prompt-template, response-processing and completion-observer, found {found}"
    )]
    NoStage {
        /// What it exports, or "nothing".
        found: String,
    },
    /// The component speaks another version of the contract.
    #[error(
        "{item} is of another contract version: this host serves {served}; build the plugin \
         against that, with the SDK of this release"
    )]
    ContractVersion {
        /// The import or export, with its version.
        item: String,
        /// What the host serves.
        served: &'static str,
    },
    /// The component exports an interface of our package that no version of the contract has.
    #[error("exports {export}, which the contract {served} does not have")]
    UnknownExport {
        /// The export.
        export: String,
        /// What the host serves.
        served: &'static str,
    },
    /// The component wants something that no plugin can have.
    #[error(
        "imports {import}, which the host does not offer: a plugin may import {} of gapura:plugin, \
         and WASI 0.2",
        Import::ALL.map(Import::as_str).join(", ")
    )]
    UnknownImport {
        /// The import.
        import: String,
    },
    /// An import or export has another type than the contract's.
    #[error("does not fit the contract: {message}")]
    Mismatch {
        /// What differs.
        message: String,
    },
    /// An instance could not be made of it.
    #[error("cannot be instantiated: {kind}: {message}")]
    Probe {
        /// How it failed.
        kind: FailureKind,
        /// The cause.
        message: String,
    },
}

/// A list of bindings that must not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Nothing makes a prompt.
    #[error(
        "route {route:?} has no plugin that renders the prompt: exactly one plugin of a chain \
         must export prompt-template"
    )]
    NoRenderer {
        /// The route.
        route: String,
    },
    /// Two plugins would make the prompt.
    #[error(
        "route {route:?} has two plugins that render the prompt, {first} and {second}: exactly \
         one plugin of a chain may export prompt-template"
    )]
    TwoRenderers {
        /// The route.
        route: String,
        /// Label of the earlier one.
        first: String,
        /// Label of the later one.
        second: String,
    },
    /// The plugin imports what its binding does not grant.
    #[error(
        "route {route:?} does not grant {import} to plugin {plugin}, which imports it: add \
         \"{import}\" to the `grants` where the route binds it"
    )]
    NotGranted {
        /// The route.
        route: String,
        /// The plugin's label.
        plugin: String,
        /// The import.
        import: Import,
    },
    /// A plugin that guards requests would be skipped when it fails.
    #[error(
        "route {route:?} binds plugin {plugin} with on_failure = \"open\", but it exports {stage}: \
         a plugin that judges or renders requests must fail closed"
    )]
    OpenNotAllowed {
        /// The route.
        route: String,
        /// The plugin's label.
        plugin: String,
        /// The stage that must not be skipped.
        stage: Stage,
    },
    /// Settings that are not a table.
    #[error("route {route:?}: the settings of plugin {plugin} must be a table, not {found}")]
    Settings {
        /// The route.
        route: String,
        /// The plugin's label.
        plugin: String,
        /// The JSON type found.
        found: &'static str,
    },
    /// A limit outside of its range.
    #[error(
        "route {route:?}, plugin {plugin}: limit {name} is {value}, but must be {min} to {max}"
    )]
    Limit {
        /// The route.
        route: String,
        /// The plugin's label.
        plugin: String,
        /// The field of [`Limits`](crate::Limits).
        name: &'static str,
        /// Its value.
        value: u64,
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
}

/// How a guest call failed. An answer and a refusal are no failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// A trap: a panic, an out-of-bounds access, a division by zero.
    Trap,
    /// The call's time was spent.
    Deadline,
    /// A memory or table grew past its limit.
    Memory,
    /// The call stack overflowed.
    Stack,
    /// The guest handed more bytes to the host than it may.
    OutputTooLarge,
    /// The guest called its imports more often than it may.
    HostCalls,
    /// A processor held back more text than it may.
    HeldTooMuch,
    /// The answer breaks the contract, such as an amendment without messages or text that is not
    /// UTF-8.
    InvalidOutput,
    /// The guest itself said that it could not do its work.
    Declined,
    /// No instance was free in time.
    Exhausted,
    /// It was not called, since it keeps failing: its circuit breaker is open.
    BreakerOpen,
}

impl FailureKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 11] = [
        Self::Trap,
        Self::Deadline,
        Self::Memory,
        Self::Stack,
        Self::OutputTooLarge,
        Self::HostCalls,
        Self::HeldTooMuch,
        Self::InvalidOutput,
        Self::Declined,
        Self::Exhausted,
        Self::BreakerOpen,
    ];

    /// The kind as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::OutputTooLarge => "output_too_large",
            Self::HostCalls => "host_calls",
            Self::HeldTooMuch => "held_too_much",
            Self::InvalidOutput => "invalid_output",
            Self::Declined => "declined",
            Self::Exhausted => "exhausted",
            Self::BreakerOpen => "breaker_open",
        }
    }
}

impl std::fmt::Display for FailureKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A plugin failed and its binding fails closed, so the request fails. Ours to answer for (5xx).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugin {plugin} failed in {stage} ({kind}): {message}")]
pub struct ChainFailure {
    /// The plugin's label.
    pub plugin: String,
    /// Where it failed.
    pub stage: Stage,
    /// How it failed.
    pub kind: FailureKind,
    /// The cause, with value and limit; for the operator, not for clients.
    pub message: String,
    /// When asking again may help, where that is known.
    pub retry_in: Option<Duration>,
}
