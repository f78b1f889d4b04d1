//! The documents of a request, and which of them become sources.

use gapura_plugin_sdk::{Refusal, tokenizer};
use serde::Deserialize;

/// Most documents of a request: citations have two digits at most.
pub(crate) const MAX_DOCUMENTS: usize = 99;

/// One document, as a client sends it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    /// The client's own name for it; the model does not see it.
    #[serde(default, rename = "id")]
    _id: Option<String>,
    /// Stands above the text.
    #[serde(default)]
    title: Option<String>,
    text: String,
}

/// The fields of a request that may hold documents.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Extra {
    metadata: Metadata,
    context_documents: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    /// JSON text, for values of OpenAI's metadata are strings.
    documents: Option<String>,
}

/// The documents of a request whose `extra` this is; none where it brings none.
///
/// # Errors
/// A refusal that names the field: it is not a list of documents, there are too many, or one
/// has no text.
pub(crate) fn read(extra: &str) -> Result<Vec<Document>, Refusal> {
    let invalid = |param: &str, problem: String| {
        let message = format!(
            "{param} {problem}; it must be a list such as [{{\"id\": \"…\", \"title\": \"…\", \
             \"text\": \"…\"}}]"
        );
        Refusal::new("documents_invalid", message).param(param)
    };
    let extra: Extra = serde_json::from_str(extra)
        .map_err(|error| invalid("metadata.documents", format!("cannot be read: {error}")))?;
    let (param, documents) = match (extra.metadata.documents, extra.context_documents) {
        (Some(text), None) => ("metadata.documents", serde_json::from_str(&text)),
        (None, Some(value)) => ("context_documents", serde_json::from_value(value)),
        (None, None) => return Ok(Vec::new()),
        (Some(_), Some(_)) => {
            let problem = "is there beside metadata.documents: send one of them".to_owned();
            return Err(invalid("context_documents", problem));
        }
    };
    let documents: Vec<Document> =
        documents.map_err(|error| invalid(param, format!("cannot be read: {error}")))?;
    if documents.len() > MAX_DOCUMENTS {
        let num = documents.len();
        let problem = format!("has {num} documents, at most {MAX_DOCUMENTS} are allowed");
        return Err(invalid(param, problem));
    }
    match documents.iter().position(|d| d.text.trim().is_empty()) {
        Some(at) => Err(invalid(param, format!("has no text in document {at}"))),
        None => Ok(documents),
    }
}

/// The documents as numbered sources, each that still fits into `max_tokens`, in their order: who
/// sends them sends the best first.
pub(crate) fn fitting(documents: &[Document], max_tokens: u32) -> Vec<String> {
    let mut sources = Vec::new();
    let mut left = max_tokens;
    for document in documents {
        let source = document.as_source(sources.len() + 1);
        if let Some(rest) = left.checked_sub(tokenizer::count(&source)) {
            left = rest;
            sources.push(source);
        }
    }
    sources
}

impl Document {
    fn as_source(&self, number: usize) -> String {
        let text = self.text.trim();
        match self.title.as_deref().map(str::trim) {
            None | Some("") => format!("[{number}]\n{text}"),
            Some(title) => format!("[{number}] {title}\n{text}"),
        }
    }
}
