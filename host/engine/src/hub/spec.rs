//! What an operator may write for a model: a path, or a name on the hub.

use std::path::{Component, Path, PathBuf};

use crate::error::LoadError;

/// A model's name, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelLocation {
    /// A file or folder on this machine.
    Local(PathBuf),
    /// To be pulled.
    Hub(HubModel),
}

/// `owner/name[:file.gguf][@revision]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    /// `owner/name`.
    pub repository: String,
    /// One GGUF file of it; `None` takes the safetensors, or the only GGUF file.
    pub file: Option<String>,
    /// Branch, tag or commit.
    pub revision: Option<String>,
}

/// What exists on this machine is meant; else what has the form of a hub name.
///
/// # Errors
/// [`LoadError::InvalidModelSpec`].
pub fn resolve(spec: &str) -> Result<ModelLocation, LoadError> {
    let path = Path::new(spec);
    if !spec.is_empty() && path.exists() {
        return Ok(ModelLocation::Local(path.to_path_buf()));
    }
    HubModel::parse(spec).map(ModelLocation::Hub)
}

impl HubModel {
    /// # Errors
    /// [`LoadError::InvalidModelSpec`].
    pub(crate) fn parse(spec: &str) -> Result<Self, LoadError> {
        let invalid = |reason: &str| LoadError::InvalidModelSpec {
            spec: spec.to_owned(),
            reason: format!(
                "{reason}; expected a .gguf file, a folder, or `owner/name[:file.gguf][@revision]`"
            ),
        };
        let (rest, revision) = match spec.split_once('@') {
            Some((rest, revision)) => (rest, Some(revision)),
            None => (spec, None),
        };
        let (repository, file) = match rest.split_once(':') {
            Some((repository, file)) => (repository, Some(file)),
            None => (rest, None),
        };
        let is_name = |name: &str| {
            let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !name.is_empty()
                && name.chars().all(letters)
                && !name.starts_with('.')
                && !name.contains("..")
        };
        match repository.split_once('/') {
            Some((owner, name)) if is_name(owner) && is_name(name) => {}
            _ => return Err(invalid("there is no such file or folder")),
        }
        if file.is_none() && revision.is_none() && repository.ends_with(".gguf") {
            return Err(invalid("there is no such file"));
        }
        if file.is_some_and(|file| !file.ends_with(".gguf") || !is_inside(file)) {
            return Err(invalid(
                "what follows the colon is no .gguf file of a repository",
            ));
        }
        if revision.is_some_and(|revision| !is_inside(revision)) {
            return Err(invalid("what follows the @ is no branch, tag or commit"));
        }
        Ok(Self {
            repository: repository.to_owned(),
            file: file.map(str::to_owned),
            revision: revision.map(str::to_owned),
        })
    }
}

/// Whether a path stays below the folder it is joined to.
fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path)
            .components()
            .all(|component| matches!(component, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(repository: &str, file: Option<&str>, revision: Option<&str>) -> ModelLocation {
        ModelLocation::Hub(HubModel {
            repository: repository.to_owned(),
            file: file.map(str::to_owned),
            revision: revision.map(str::to_owned),
        })
    }

    #[test]
    fn names_on_the_hub() {
        for (spec, expected) in [
            (
                "google/gemma-2-9b-it",
                hub("google/gemma-2-9b-it", None, None),
            ),
            ("a/b@refs/pr/5", hub("a/b", None, Some("refs/pr/5"))),
            ("a/b:x/y-Q4_K.gguf", hub("a/b", Some("x/y-Q4_K.gguf"), None)),
            ("a/b:y.gguf@v1.0", hub("a/b", Some("y.gguf"), Some("v1.0"))),
        ] {
            assert_eq!(resolve(spec).unwrap(), expected);
        }
    }

    #[test]
    fn what_exists_is_meant_before_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let spec = dir.path().to_str().unwrap();
        assert_eq!(
            resolve(spec).unwrap(),
            ModelLocation::Local(dir.path().to_path_buf())
        );
    }

    #[test]
    fn everything_else_is_refused_with_what_would_do() {
        for spec in [
            "",
            "gemma",
            "a/b/c",
            "../x/y",
            "./none.gguf",
            "models/none.gguf",
            "a/..",
            "a/b:c.bin",
            "a/b:../c.gguf",
            "a/b:/c.gguf",
            "a/b@",
            "a/b@../x",
            "a b/c",
            "/none/model.gguf",
        ] {
            let error = resolve(spec).unwrap_err();
            assert!(
                matches!(error, LoadError::InvalidModelSpec { .. }),
                "{spec}"
            );
            assert!(
                error
                    .to_string()
                    .contains("owner/name[:file.gguf][@revision]"),
                "{error}"
            );
        }
    }
}
