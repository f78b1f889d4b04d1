//! `gapura plugin build`: runs the build script that the binary carries.

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

/// The script that builds our own plugins; it stands alone.
const SCRIPT: &str = include_str!("../../../../../plugins/build.sh");

/// What to build, and where it goes.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The folder with the plugin's Cargo.toml.
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
    let manifest = project.join("Cargo.toml");
    if !manifest.is_file() {
        bail!(
            "there is no {}; start a plugin with `gapura plugin new NAME`",
            manifest.display()
        );
    }
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
        .context("cannot run bash")?;
    let mut stdin = child.stdin.take().expect("it was asked to be a pipe");
    // bash reads the script as it runs it; a broken pipe means that it ended early, and its
    // status says why.
    let _ = stdin.write_all(SCRIPT.as_bytes());
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
