//! Why a change was refused. Whatever served before serves on.

use std::{
    io,
    path::{Path, PathBuf},
};

use gapura_plugin_runtime::{ChainError, LoadError, WatchError};
use thiserror::Error;

use super::MoveError;
use crate::{config::ConfigError, error::ApiError, oci::OciError, signing::SignatureError};

/// A change that did not happen.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The artefact is not a plugin that this host can run.
    #[error("plugin `{name}` was refused: {source}")]
    Plugin {
        /// The plugin.
        name: String,
        /// What is wrong with it.
        #[source]
        source: LoadError,
    },
    /// The name means something else in a configuration.
    #[error(
        "`{name}` cannot be the name of a plugin: in a route it stands for the built-in template \
         that suits the model; choose another name"
    )]
    ReservedName {
        /// The name.
        name: String,
    },
    /// The artefact does not do what the golden cases in it promise.
    #[error(
        "plugin `{name}` was refused: its golden cases: {reason}. `gapura plugin test` shows all \
         differences"
    )]
    Cases {
        /// The plugin.
        name: String,
        /// Which case, and how it differs.
        reason: String,
    },
    /// There is no such plugin.
    #[error("there is no plugin `{name}`")]
    NotFound {
        /// The name.
        name: String,
    },
    /// The plugin's versions do not allow it.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// The chain of a route would not work.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Two plugins of a route would be on trial at once.
    #[error(
        "route `{route}` binds `{plugin}` and `{other}`, of which a version is on trial ({state}) \
         already: one trial at a time on a route, so that it is clear what it shows"
    )]
    TwoTrials {
        /// The route.
        route: String,
        /// One of them.
        plugin: String,
        /// The other.
        other: String,
        /// How the other's version serves.
        state: String,
    },
    /// The signature that came with a component is not one of it.
    #[error("plugin `{name}` was refused: {source} (sha256:{digest})")]
    Signature {
        /// The plugin.
        name: String,
        /// SHA-256 of the component.
        digest: String,
        /// What is wrong with it.
        #[source]
        source: SignatureError,
    },
    /// A route binds only what is signed, and the component is not.
    #[error(
        "route `{route}` binds only plugins signed by {keys}; `{plugin}` (sha256:{digest}) cannot \
         serve there: {source}"
    )]
    NotSigned {
        /// The route.
        route: String,
        /// The plugin.
        plugin: String,
        /// SHA-256 of the component.
        digest: String,
        /// The names of the keys that count.
        keys: String,
        /// Why it does not count as signed.
        #[source]
        source: Box<SignatureError>,
    },
    /// A binding names the components that it takes, and this is none of them.
    #[error(
        "route `{route}` pins `{plugin}` to {pinned}; sha256:{digest} cannot serve there until its \
         `digest` lists it"
    )]
    NotPinned {
        /// The route.
        route: String,
        /// The plugin.
        plugin: String,
        /// SHA-256 of the component.
        digest: String,
        /// What the binding takes.
        pinned: String,
    },
    /// A route names a plugin that is not there.
    #[error("route `{route}` needs the plugin `{plugin}`, which is not there: {advice}")]
    UnknownPlugin {
        /// The route.
        route: String,
        /// The missing plugin.
        plugin: String,
        /// The nearest name, and where plugins come from.
        advice: String,
    },
    /// A plugin that the configuration names by reference cannot be had.
    #[error("plugin `{name}` cannot be pulled: {reason}")]
    Registry {
        /// The plugin.
        name: String,
        /// What the registry did.
        reason: OciError,
    },
    /// A changed file needs a plugin that is on its way from a registry.
    #[error(
        "plugin `{name}` is being pulled: what names it takes effect once it is here, by itself \
         where the file is followed"
    )]
    Awaited {
        /// The plugin.
        name: String,
    },
    /// A changed file needs a plugin that could not be had from its registry, which is asked again.
    #[error("plugin `{name}` is not here: {reason}")]
    NotBrought {
        /// The plugin.
        name: String,
        /// Why the last attempt has failed.
        reason: String,
    },
    /// What becomes of plugins by reference has to outlive the process.
    #[error(
        "[plugins.sources] needs a folder that outlives the process: without one, a version that \
         was rolled back would go live again at the next start; name it in [plugins] releases_dir"
    )]
    NoReleasesDir,
    /// The configuration cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration changes what is fixed at start.
    #[error(
        "{section} is read at start only and differs from what is running; restart to change it"
    )]
    NeedsRestart {
        /// Such as `[model]`.
        section: &'static str,
    },
    /// There is no file to read again.
    #[error("the server was started without a configuration file; there is nothing to reload")]
    NoConfigFile,
    /// The plugin folder cannot be followed.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// Another server keeps its versions there.
    #[error(
        "{} belongs to another server that runs: give this one its own [plugins] releases_dir",
        dir.display()
    )]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// What is kept cannot be read.
    #[error(
        "{} cannot be used: {reason}. Restore it from a copy, or move the folder of versions away \
         to begin with the plugin folder alone",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder or a file in it does not do what is asked of it.
    #[error("cannot {action} {}: {source}", path.display())]
    Store {
        /// Such as `read` or `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: std::io::Error,
    },
}

impl ControlError {
    /// For `map_err` of what was to be done with `path`.
    pub(super) fn store(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Store {
            action,
            path,
            source,
        }
    }

    pub(super) fn refused(name: &str, source: LoadError) -> Self {
        Self::Plugin {
            name: name.to_owned(),
            source,
        }
    }

    /// Whether what was asked for happens by itself once a plugin has come from its registry.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(self, Self::Awaited { .. } | Self::NotBrought { .. })
    }

    /// Stable and machine-readable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Plugin { source, .. } => load_code(source),
            Self::ReservedName { .. } => "reserved_plugin_name",
            Self::Cases { .. } => "golden_case",
            Self::NotFound { .. } => "plugin_not_found",
            Self::Move(error) => match error {
                MoveError::NoVersion { .. } => "version_not_found",
                MoveError::Ambiguous { .. } => "ambiguous_version",
                MoveError::Nothing { .. } => "no_candidate",
                MoveError::NotVerified { .. } => "not_verified",
                MoveError::IsLive { .. } => "version_is_live",
                MoveError::OnTrial { .. } => "version_on_trial",
                MoveError::TooMany { .. } => "too_many_plugins",
                MoveError::Percent { .. } => "invalid_percent",
            },
            Self::Chain(error) => match error {
                ChainError::NoRenderer { .. } => "no_renderer",
                ChainError::TwoRenderers { .. } => "two_renderers",
                ChainError::NotGranted { .. } => "import_not_granted",
                ChainError::OpenNotAllowed { .. } => "open_not_allowed",
                ChainError::Settings { .. } => "invalid_settings",
                ChainError::Limit { .. } => "invalid_limit",
            },
            Self::TwoTrials { .. } => "two_trials",
            Self::Signature { source, .. } => source.code(),
            Self::NotSigned { source, .. } => source.code(),
            Self::NotPinned { .. } => "digest_mismatch",
            Self::UnknownPlugin { .. } => "unknown_plugin",
            Self::Registry { .. } | Self::NotBrought { .. } => "registry_failed",
            Self::Awaited { .. } => "plugin_awaited",
            Self::NoReleasesDir => "no_releases_dir",
            Self::Config(_) => "invalid_config",
            Self::NeedsRestart { .. } => "needs_restart",
            Self::NoConfigFile => "no_config_file",
            Self::Watch(_) | Self::Store { .. } => "plugin_store",
            Self::InUse { .. } => "releases_in_use",
            Self::Damaged { .. } => "releases_damaged",
        }
    }
}

fn load_code(error: &LoadError) -> &'static str {
    match error {
        LoadError::Name { .. } => "invalid_plugin_name",
        LoadError::TooLarge { .. } => "component_too_large",
        LoadError::NotWasm { .. } => "not_wasm",
        LoadError::CoreModule => "not_a_component",
        LoadError::Truncated { .. } => "truncated_component",
        LoadError::Invalid { .. } => "invalid_component",
        LoadError::Feature { .. } => "unsupported_feature",
        LoadError::NoStage { .. } => "no_stage",
        LoadError::ContractVersion { .. } => "contract_version",
        LoadError::UnknownExport { .. } => "unknown_export",
        LoadError::UnknownImport { .. } => "unknown_import",
        LoadError::Mismatch { .. } => "contract_mismatch",
        LoadError::Probe { .. } => "instantiation_failed",
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        use axum::http::StatusCode;
        let status = match &error {
            ControlError::NotFound { .. } | ControlError::Move(MoveError::NoVersion { .. }) => {
                StatusCode::NOT_FOUND
            }
            ControlError::Move(MoveError::Ambiguous { .. } | MoveError::Percent { .. }) => {
                StatusCode::BAD_REQUEST
            }
            // What is asked for is fine, but not in the state that the plugin is in.
            ControlError::Move(_) | ControlError::TwoTrials { .. } => StatusCode::CONFLICT,
            ControlError::Plugin { .. }
            | ControlError::Cases { .. }
            | ControlError::ReservedName { .. }
            | ControlError::Chain(_)
            | ControlError::Signature { .. }
            | ControlError::NotSigned { .. }
            | ControlError::NotPinned { .. }
            | ControlError::UnknownPlugin { .. }
            | ControlError::Config(_)
            | ControlError::NoReleasesDir
            | ControlError::NeedsRestart { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            ControlError::NoConfigFile => StatusCode::BAD_REQUEST,
            ControlError::Registry { .. } | ControlError::NotBrought { .. } => {
                StatusCode::BAD_GATEWAY
            }
            ControlError::Awaited { .. } => StatusCode::SERVICE_UNAVAILABLE,
            // The disk is ours; but it is the administrator who asks, and who can help.
            ControlError::Watch(_)
            | ControlError::Store { .. }
            | ControlError::InUse { .. }
            | ControlError::Damaged { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let kind = if status.is_server_error() {
            "server_error"
        } else {
            "invalid_request_error"
        };
        let answer = Self::new(status, kind, error.to_string())
            .with_code(error.code())
            .no_retry();
        match error {
            ControlError::Move(MoveError::Percent { .. }) => answer.with_param("percent"),
            _ => answer,
        }
    }
}
