//! `gapura plugin sign`: a signature in a file of its own, beside the component.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;

use crate::{config::Digest, signing::SigningKey};

/// What to sign, and as whom.
#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// The component. Its signature is written beside it, as FILE.sig.
    file: PathBuf,
    /// The private key, as `gapura key new --signing` writes it.
    #[arg(long, value_name = "KEYFILE")]
    key: PathBuf,
}

impl SignArgs {
    /// Writes the signature. An earlier one gives way.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (file, key) = (self.file.display(), self.key.display());
        let component = fs::read(&self.file).with_context(|| format!("cannot read {file}"))?;
        let pem = fs::read_to_string(&self.key).with_context(|| format!("cannot read {key}"))?;
        let key = SigningKey::from_pem(&pem).with_context(|| key.to_string())?;
        let digest = Digest::of(&component);
        let signature = key.sign(digest);
        let path = signature_path(&self.file);
        let shown = path.display();
        fs::write(&path, format!("{signature}\n"))
            .with_context(|| format!("cannot write {shown}"))?;
        writeln!(io::stdout(), "{shown}: {digest} signed by {}", key.public())?;
        Ok(())
    }
}

/// What lies beside the component `file` as its signature, if anything does.
///
/// # Errors
/// It is there and cannot be read.
pub(super) fn text_beside(file: &Path) -> anyhow::Result<Option<String>> {
    let path = signature_path(file);
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => {
            Ok(Some(text.with_context(|| {
                format!("cannot read {}", path.display())
            })?))
        }
    }
}

fn signature_path(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".sig");
    path.into()
}
