//! What can be wrong with a configuration, and the nearest right name for a wrong one.

use std::path::PathBuf;

use thiserror::Error;

/// A configuration that cannot be used. The message is for the operator and complete.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {reason}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// Something in the file is wrong.
    #[error("{at}: {message}")]
    Invalid {
        /// `FILE:LINE:COLUMN`, or what else the value came from.
        at: String,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// An environment variable has a value that cannot be used.
    #[error("environment variable {variable}: {message}")]
    Environment {
        /// Its name.
        variable: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// Values that are right alone but not together.
    #[error("{0}")]
    Conflict(String),
}

/// The one of `names` that `wrong` was probably meant to be.
pub(crate) fn nearest<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(wrong, name), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// serde's `unknown field` message, with the nearest name first and the list after it.
pub(super) fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let is_name_error =
        message.starts_with("unknown field") || message.starts_with("unknown variant");
    match (is_name_error, quoted.next()) {
        (true, Some(wrong)) => {
            let names: Vec<&str> = quoted.collect();
            let kind = if message.starts_with("unknown field") {
                "key"
            } else {
                "value"
            };
            let mut text = format!("unknown {kind} `{wrong}`");
            if let Some(name) = nearest(wrong, names.iter().copied()) {
                text.push_str(&format!(", did you mean `{name}`?"));
            }
            text.push_str(&format!(" (known here: {})", names.join(", ")));
            text
        }
        _ => message.trim_end().replace('\n', "; "),
    }
}
