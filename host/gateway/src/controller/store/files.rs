//! Writing files so that they are there whole or not at all, also after a loss of power.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

/// Does what is asked; tests let it fail at any step.
#[derive(Debug, Default)]
pub(super) struct Files {
    #[cfg(test)]
    pub(super) fault: Fault,
}

/// Fails at a step, which leaves what it was about to do half done.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Fault {
    /// Steps that succeed before; none fails without it.
    pub(super) after: std::cell::Cell<Option<u32>>,
    /// All later steps fail too, as if the process were gone.
    pub(super) is_final: std::cell::Cell<bool>,
}

impl Files {
    /// Puts `bytes` into `path`, in place of what is there.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = path.with_extension("new");
        let written = self.write_new(&new, path, bytes);
        if written.is_err() {
            // Best effort: what is left is not read, and overwritten or swept by the next change.
            let _ = self.remove(&new);
        }
        written
    }

    fn write_new(&self, new: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step()?;
        let mut file = fs::File::create(new)?;
        self.write(&mut file, bytes)?;
        self.step()?;
        file.sync_all()?;
        self.step()?;
        fs::rename(new, path)?;
        // Without this the name may be lost with the power, though not the order of changes; what
        // is renamed cannot be taken back, so that a failure here is none of the change.
        if let Err(error) = self.step().and_then(|()| sync_folder(path)) {
            tracing::warn!(file = %path.display(), %error, "cannot sync the folder");
        }
        Ok(())
    }

    /// Writes `bytes` behind the first `length` bytes of `path`, which is made if it is missing;
    /// what followed them is gone.
    pub(super) fn append(&self, path: &Path, length: u64, bytes: &[u8]) -> io::Result<()> {
        self.step()?;
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        file.set_len(length)?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        self.write(&mut file, bytes)?;
        self.step()?;
        file.sync_data()
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        fs::remove_file(path)
    }

    fn write(&self, file: &mut fs::File, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.step() {
            file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        file.write_all(bytes)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests let it fail")]
    fn step(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn step(&self) -> io::Result<()> {
        match self.fault.after.get() {
            None => Ok(()),
            Some(0) => {
                if !self.fault.is_final.get() {
                    self.fault.after.set(None);
                }
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            Some(left) => {
                self.fault.after.set(Some(left - 1));
                Ok(())
            }
        }
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
