//! Log lines: to standard error, as text or JSON, filtered by level.

use std::io::IsTerminal as _;

use thiserror::Error;
use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Logging cannot start.
#[derive(Debug, Error)]
pub enum LogError {
    /// The level is neither a level nor a filter.
    #[error(
        "log level `{level}` is not error, warn, info, debug, trace or a filter such as `info,gapura=debug`: {reason}"
    )]
    Level {
        /// What was asked for.
        level: String,
        /// Why it cannot be read.
        reason: String,
    },
}

/// Sends `tracing` events to standard error from now on. Further calls in the same process
/// change nothing.
///
/// # Errors
/// [`LogError::Level`].
pub fn start_logging(config: &LogConfig) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&config.level).map_err(|error| LogError::Level {
        level: config.level.clone(),
        reason: error.to_string(),
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => lines.with_target(false).try_init(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init(),
    };
    drop(started); // Err: a test or an embedding program has set its own subscriber.
    Ok(())
}
