//! Why a change was refused. Whatever served before serves on.

use std::path::PathBuf;

use gapura_plugin_runtime::{ChainError, LoadError, WatchError};
use thiserror::Error;

use crate::{config::ConfigError, error::ApiError};

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
    /// The chain of a route would not work.
    #[error(transparent)]
    Chain(#[from] ChainError),
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
    /// The plugin folder or a file in it does not do what is asked of it.
    #[error("cannot {action} {}: {source}", path.display())]
    Store {
        /// `read` or `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: std::io::Error,
    },
}

impl ControlError {
    pub(super) fn refused(name: &str, source: LoadError) -> Self {
        Self::Plugin {
            name: name.to_owned(),
            source,
        }
    }

    /// Stable and machine-readable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Plugin { source, .. } => load_code(source),
            Self::ReservedName { .. } => "reserved_plugin_name",
            Self::Chain(error) => match error {
                ChainError::NoRenderer { .. } => "no_renderer",
                ChainError::TwoRenderers { .. } => "two_renderers",
                ChainError::NotGranted { .. } => "import_not_granted",
                ChainError::OpenNotAllowed { .. } => "open_not_allowed",
                ChainError::Settings { .. } => "invalid_settings",
                ChainError::Limit { .. } => "invalid_limit",
            },
            Self::UnknownPlugin { .. } => "unknown_plugin",
            Self::Config(_) => "invalid_config",
            Self::NeedsRestart { .. } => "needs_restart",
            Self::NoConfigFile => "no_config_file",
            Self::Watch(_) | Self::Store { .. } => "plugin_store",
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
            ControlError::Plugin { .. }
            | ControlError::ReservedName { .. }
            | ControlError::Chain(_)
            | ControlError::UnknownPlugin { .. }
            | ControlError::Config(_)
            | ControlError::NeedsRestart { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            ControlError::NoConfigFile => StatusCode::BAD_REQUEST,
            // The disk is ours; but it is the administrator who asks, and who can help.
            ControlError::Watch(_) | ControlError::Store { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let kind = if status.is_server_error() {
            "server_error"
        } else {
            "invalid_request_error"
        };
        Self::new(status, kind, error.to_string())
            .with_code(error.code())
            .no_retry()
    }
}
