//! What a case's file says.

use std::path::{Path, PathBuf};

use gapura_plugin_runtime::{Chat, FinishReason, Import};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use toml::Table;

use super::expect::Expect;
use super::http::Exchange;
use crate::openai::chat::ChatRequest;

/// Largest file of one case.
pub const MAX_CASE_BYTES: usize = 64 << 10;

/// The line below which a case says what it expects.
const EXPECT: &str = "[expect]";

/// The route that cases say they come by.
const ROUTE: &str = "test";

/// Messages of one request.
const MAX_MESSAGES: usize = 1024;

/// One golden case.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Its file's name, without `.toml`.
    pub name: String,
    /// What the plugin reads as its settings.
    pub settings: Value,
    /// What it may import; `None` for all that it does import.
    pub grants: Option<Vec<Import>>,
    /// The request.
    pub chat: Chat,
    /// The answer of the scripted model, delta by delta.
    pub answer: Vec<String>,
    /// How it ends.
    pub finish: FinishReason,
    /// What the model answers when the plugin asks, in order.
    pub model: Vec<String>,
    /// The HTTP requests that it may send, and what comes back.
    pub http: Vec<Exchange>,
    /// What the clock says at the first call, in milliseconds since 1970; it stands still.
    pub now_ms: u64,
    /// What random numbers depend on.
    pub seed: u64,
    /// Most fuel that all calls together may use.
    pub max_fuel: Option<u64>,
    /// What is to come of it; `None` where nobody has written that down yet.
    pub expect: Option<Table>,
}

/// A case that cannot be read.
#[derive(Debug, Error)]
pub enum CaseError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("{name}: {bytes} bytes, a case may have {MAX_CASE_BYTES}")]
    TooLarge {
        /// Which.
        name: String,
        /// Its size.
        bytes: usize,
    },
    /// The file is not what a case looks like.
    #[error("{name}: {reason}")]
    Invalid {
        /// Which.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    request: Table,
    #[serde(default)]
    settings: Table,
    grants: Option<Vec<Import>>,
    tenant: Option<String>,
    #[serde(default)]
    answer: Vec<String>,
    #[serde(default)]
    finish: Finish,
    #[serde(default)]
    model: Vec<String>,
    #[serde(default)]
    http: Vec<Exchange>,
    #[serde(default = "default_now_ms")]
    now_ms: u64,
    #[serde(default)]
    seed: u64,
    max_fuel: Option<u64>,
    expect: Option<Table>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Finish {
    #[default]
    Stop,
    Length,
}

/// The first moment of 2026.
fn default_now_ms() -> u64 {
    1_767_225_600_000
}

impl Case {
    /// Reads `text`, the file of the case `name`.
    ///
    /// # Errors
    /// [`CaseError`]: what is wrong, by line or by field.
    pub fn parse(name: &str, text: &str) -> Result<Self, CaseError> {
        if text.len() > MAX_CASE_BYTES {
            return Err(CaseError::TooLarge {
                name: name.to_owned(),
                bytes: text.len(),
            });
        }
        let invalid = |reason: String| CaseError::Invalid {
            name: name.to_owned(),
            reason,
        };
        let file: File =
            toml::from_str(text).map_err(|error| invalid(error.to_string().trim().to_owned()))?;
        let body = serde_json::to_vec(&file.request).map_err(|error| invalid(error.to_string()))?;
        let request = ChatRequest::parse(&body, MAX_MESSAGES)
            .map_err(|error| invalid(format!("request: {}", error.message())))?;
        let settings =
            serde_json::to_value(&file.settings).map_err(|error| invalid(error.to_string()))?;
        for (index, exchange) in file.http.iter().enumerate() {
            let problem = |reason| invalid(format!("http.{index}: {reason}"));
            exchange.check().map_err(problem)?;
        }
        Ok(Self {
            name: name.to_owned(),
            settings,
            grants: file.grants,
            chat: Chat {
                request_id: format!("case-{name}"),
                route: ROUTE.to_owned(),
                model: request.model.unwrap_or_else(|| ROUTE.to_owned()),
                tenant: file.tenant,
                stream: request.delivery.is_stream(),
                messages: request.messages,
                sampling: request.sampling,
                extra: Value::Object(request.extra).to_string(),
                call_id: format!("call-{name}"),
            },
            answer: file.answer,
            finish: match file.finish {
                Finish::Stop => FinishReason::Stop,
                Finish::Length => FinishReason::Length,
            },
            model: file.model,
            http: file.http,
            now_ms: file.now_ms,
            seed: file.seed,
            max_fuel: file.max_fuel,
            expect: file.expect,
        })
    }

    /// Reads every case of the folder `dir`, by name. A folder that is not there has none.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), or what cannot be read.
    pub fn read_all(dir: &Path) -> Result<Vec<(Self, PathBuf)>, CaseError> {
        let failed = |path: &Path, source| CaseError::Io {
            path: path.to_owned(),
            source,
        };
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(dir, error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| failed(dir, error))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                paths.push(path);
            }
        }
        paths.sort();
        let read = |path: PathBuf| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let text = std::fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
            Ok((Self::parse(&name, &text)?, path))
        };
        paths.into_iter().map(read).collect()
    }
}

/// `text`, the file of a case, with `expect` in place of what it expected.
#[must_use]
pub fn updated(text: &str, expect: &Expect) -> String {
    let given: Vec<&str> = text
        .lines()
        .take_while(|line| line.trim_end() != EXPECT)
        .collect();
    let given = given.join("\n");
    format!("{}\n\n{EXPECT}\n{}", given.trim_end(), expect.to_toml())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Case::parse("jam", text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(error("").contains("missing field `request`"));
        assert!(error("[request]\nmessages = []").contains("jam: request: "));
        assert!(error("sead = 1\n[request]").contains("unknown field `sead`"));
        assert!(error("finish = 'late'\n[request]").contains("unknown variant `late`"));
        let files = "grants = ['files']\n[request]\nmessages = [{ role = 'user', content = 'a' }]";
        assert!(
            error(files).contains("unknown variant `files`, expected one of `log`, `config`"),
            "{}",
            error(files)
        );
        let large = format!("# {}\n", "x".repeat(MAX_CASE_BYTES));
        assert!(error(&large).contains("a case may have 65536"));
    }

    #[test]
    fn a_request_is_read_as_the_server_reads_it() {
        let text = "[request]\nstream = true\nmax_tokens = 5\nuser = 'u'\n\
                    messages = [{ role = 'user', content = 'Halo' }]";
        let case = Case::parse("halo", text).unwrap();
        assert!(case.chat.stream && case.expect.is_none());
        assert_eq!(case.chat.sampling.max_tokens, Some(5));
        assert_eq!(case.chat.extra, r#"{"user":"u"}"#);
    }
}
