//! `gapura plugin build`: runs the build script of the project's language, which the binary carries.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use clap::Args;

/// The scripts that build our own plugins and those of other languages; each stands alone.
const RUST: &str = include_str!("../../../../../plugins/build.sh");
pub(crate) const OTHERS: &str = include_str!("../../../../../plugins/languages.sh");

/// The files that tell a project's language, and the script that builds it; the first there is
/// counts.
const MANIFESTS: [(&str, &str); 5] = [
    ("Cargo.toml", RUST),
    ("pyproject.toml", OTHERS),
    ("package.json", OTHERS),
    ("go.mod", OTHERS),
    ("Makefile", OTHERS),
];

/// What to build, and where it goes.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The folder with the plugin's manifest: Cargo.toml, pyproject.toml, package.json, go.mod or
    /// Makefile.
    #[arg(default_value = ".")]
    project: PathBuf,
    /// Where the component goes. Default: target/components in the project.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Use nothing from the network.
    #[arg(long)]
    offline: bool,
}

impl BuildArgs {
    /// Builds; the paths of the components go to standard output, all else to standard error.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let script = script(&self.project)?;
        let mut bash = Command::new("bash");
        bash.args(["-s", "--", "--project"]).arg(&self.project);
        if let Some(out) = &self.out {
            bash.arg("--out").arg(out);
        }
        if self.offline {
            bash.arg("--offline");
        }
        let mut child = bash
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot run bash")?;
        let mut stdin = child.stdin.take().expect("it was asked to be a pipe");
        // bash reads the script as it runs it; a broken pipe means that it ended early, and its
        // status says why.
        let _ = stdin.write_all(script.as_bytes());
        drop(stdin);
        match child.wait()?.success() {
            true => Ok(()),
            false => bail!("the plugin was not built; the lines above say why"),
        }
    }
}

/// What builds the project in `folder`.
fn script(folder: &Path) -> anyhow::Result<&'static str> {
    let manifests = MANIFESTS.iter();
    let mut found = manifests.filter(|(manifest, _)| folder.join(manifest).is_file());
    match found.next() {
        Some((_, script)) => Ok(script),
        None => bail!(
            "no plugin in {}: there is no {}; start one with `gapura plugin new NAME`",
            folder.display(),
            MANIFESTS.map(|(manifest, _)| manifest).join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_manifest_tells_the_language() {
        let dir = tempfile::tempdir().unwrap();
        let error = script(dir.path()).unwrap_err().to_string();
        assert!(error.contains("pyproject.toml"), "{error}");
        for (manifest, expected) in MANIFESTS.into_iter().rev() {
            std::fs::write(dir.path().join(manifest), "").unwrap();
            assert_eq!(script(dir.path()).unwrap(), expected, "{manifest}");
        }
    }
}
