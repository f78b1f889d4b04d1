//! `gapura plugin build`: runs the build script that the binary carries.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use clap::Args;

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
        let manifest = self.project.join("Cargo.toml");
        if !manifest.is_file() {
            bail!(
                "there is no {}; start a plugin with `gapura plugin new NAME`",
                manifest.display()
            );
        }
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
        let _ = stdin.write_all(SCRIPT.as_bytes());
        drop(stdin);
        match child.wait()?.success() {
            true => Ok(()),
            false => bail!("the plugin was not built; the lines above say why"),
        }
    }
}
