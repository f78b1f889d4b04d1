//! `gapura plugin build`: runs the build script of the project's language, which the binary carries.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use clap::Args;

use super::project;
use crate::cases::{self, Case};

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
        let built = build(&self.project, self.out.as_deref(), self.offline)?;
        let mut stdout = io::stdout().lock();
        for path in built {
            writeln!(stdout, "{}", path.display())?;
        }
        Ok(())
    }
}

/// Builds the plugin, or the workspace of plugins, in `project` and puts its golden cases into the
/// component. Returns where the components are.
pub(super) fn build(
    project: &Path,
    out: Option<&Path>,
    offline: bool,
) -> anyhow::Result<Vec<PathBuf>> {
    let script = script(project)?;
    let mut bash = Command::new("bash");
    bash.args(["-s", "--", "--project"]).arg(project);
    if let Some(out) = out {
        bash.arg("--out").arg(out);
    }
    if offline {
        bash.arg("--offline");
    }
    let mut child = bash
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context(
            "cannot run bash, which runs the build: install it, on Debian with `apt-get install \
             bash`, or put its folder into PATH",
        )?;
    let mut stdin = child.stdin.take().expect("it was asked to be a pipe");
    // bash reads the script as it runs it; a broken pipe means that it ended early, and its
    // status says why.
    let _ = stdin.write_all(script.as_bytes());
    drop(stdin);
    let done = child.wait_with_output()?;
    if !done.status.success() {
        bail!("the plugin was not built; the lines above say why");
    }
    let built = String::from_utf8_lossy(&done.stdout);
    let built: Vec<PathBuf> = built.lines().map(PathBuf::from).collect();
    if let [component] = &built[..] {
        embed_cases(component, &project::cases(project))?;
    }
    Ok(built)
}

/// Puts the cases of the folder `dir` into the component.
fn embed_cases(component: &Path, dir: &Path) -> anyhow::Result<()> {
    let found = Case::read_all(dir)?;
    if found.is_empty() {
        return Ok(());
    }
    let shown = component.display();
    let mut wasm = fs::read(component).with_context(|| format!("cannot read {shown}"))?;
    for (case, path) in found {
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        cases::embed(&mut wasm, &case.name, &text);
    }
    fs::write(component, wasm).with_context(|| format!("cannot write {shown}"))
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
