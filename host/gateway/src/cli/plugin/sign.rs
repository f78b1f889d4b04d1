//! `gapura plugin sign`: a signature in a file of its own, beside the component.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;

use crate::{
    config::Digest,
    signing::{Signature, SigningKey},
};

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

/// The signature beside the component `file`, where there is one. Whether it fits is not looked at.
///
/// # Errors
/// It is there and cannot be read, or is no signature.
pub(super) fn beside(file: &Path) -> anyhow::Result<Option<Signature>> {
    let path = signature_path(file);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let signature = Signature::parse(&text).with_context(|| path.display().to_string())?;
    Ok(Some(signature))
}

fn signature_path(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".sig");
    path.into()
}
