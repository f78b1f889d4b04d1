//! What commands of `gapura plugin` are given: a plugin's folder or a component.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use super::build;

/// A component on disk.
pub(super) struct Component {
    pub(super) path: PathBuf,
    /// What the plugin is called: its file's name.
    pub(super) name: String,
    /// The folder that it was built from.
    project: Option<PathBuf>,
}

impl Component {
    pub(super) fn read(&self) -> anyhow::Result<Vec<u8>> {
        fs::read(&self.path).with_context(|| format!("cannot read {}", self.path.display()))
    }

    /// The folder of its golden cases, where it was built from a folder.
    pub(super) fn cases(&self) -> Option<PathBuf> {
        self.project.as_deref().map(cases)
    }
}

/// The folder of golden cases of the plugin in `project`.
pub(super) fn cases(project: &Path) -> PathBuf {
    project.join("cases")
}

/// The component that `path` is, or that the plugin in the folder `path` is built to.
pub(super) fn component(path: &Path) -> anyhow::Result<Component> {
    if !path.is_dir() {
        return Ok(named(path.to_owned(), None));
    }
    let mut built = build::build(path, None, false)?;
    match (built.pop(), built.pop()) {
        (Some(only), None) => Ok(named(only, Some(path.to_owned()))),
        (Some(_), Some(_)) => bail!(
            "{} holds several plugins; name the component of one",
            path.display()
        ),
        (None, _) => bail!("{} was built to no component", path.display()),
    }
}

fn named(path: PathBuf, project: Option<PathBuf>) -> Component {
    let stem = path.file_stem().unwrap_or_default();
    Component {
        name: stem.to_string_lossy().to_lowercase(),
        path,
        project,
    }
}
