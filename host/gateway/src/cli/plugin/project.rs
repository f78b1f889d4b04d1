//! What commands of `gapura plugin` are given: a plugin's folder or a component.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;

use super::build;
use crate::cases::{self, Case};

/// A plugin, and which of its cases.
#[derive(Debug, Args)]
pub(super) struct CaseArgs {
    /// A plugin's folder, which is built first, or a component.
    #[arg(default_value = ".")]
    plugin: PathBuf,
    /// The folder with the cases. Default: `cases` in the plugin's folder; of a component, those
    /// that it carries.
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// Only cases whose names contain this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// A case and the file that it came from, if it came from one.
pub(super) type Found = (Case, Option<PathBuf>);

impl CaseArgs {
    /// The component, built if need be.
    pub(super) fn component(&self) -> anyhow::Result<Component> {
        component(&self.plugin)
    }

    /// Every case of the component `wasm`; none where there are none, or their place is empty.
    pub(super) fn read(&self, component: &Component, wasm: &[u8]) -> anyhow::Result<Vec<Found>> {
        let with_path = |(case, path)| (case, Some(path));
        Ok(match self.dir(component) {
            Some(dir) => Case::read_all(&dir)?.into_iter().map(with_path).collect(),
            None => {
                let carried = cases::embedded(wasm)?.into_iter();
                carried.map(|case| (case, None)).collect()
            }
        })
    }

    /// Says where no case was found.
    pub(super) fn none_found(&self, component: &Component) -> String {
        match self.dir(component) {
            Some(dir) => format!("there are no cases in {}", dir.display()),
            None => format!("{} carries no cases", component.path.display()),
        }
    }

    /// Those of `found` that were asked for, one at least.
    pub(super) fn chosen(&self, mut found: Vec<Found>) -> anyhow::Result<Vec<Found>> {
        if let Some(only) = &self.only {
            found.retain(|(case, _)| case.name.contains(only));
            if found.is_empty() {
                bail!("no case's name contains `{only}`");
            }
        }
        Ok(found)
    }

    fn dir(&self, component: &Component) -> Option<PathBuf> {
        self.cases
            .clone()
            .or_else(|| component.project.as_deref().map(cases))
    }
}

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
