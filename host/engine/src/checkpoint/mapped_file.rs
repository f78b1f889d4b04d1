//! A file's bytes without a copy: the engine's only memory map.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use memmap2::Mmap;

use crate::error::LoadError;

/// A read-only map of a whole file, shared by all weights that lie in it.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps `path`.
    ///
    /// # Errors
    /// [`LoadError::Read`] if it cannot be opened or is no regular file.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let read_error = |source| LoadError::Read {
            path: path.to_path_buf(),
            source,
        };
        // Asked before it is opened: opening a pipe would wait for who writes into it.
        if !fs::metadata(path).map_err(read_error)?.is_file() {
            return Err(read_error(std::io::Error::other("not a regular file")));
        }
        let file = File::open(path).map_err(read_error)?;
        #[expect(
            unsafe_code,
            reason = "weights larger than memory's free half must not be copied"
        )]
        // SAFETY: the map is private and read-only, so this process never writes to its pages. A
        // slice of it is valid as long as nobody else changes or truncates the file: model files
        // are replaced by rename (the hub cache does so) and the operator's guide asks the same.
        // All reads are of plain bytes, for which every value is valid.
        let map = unsafe { Mmap::map(&file) }.map_err(read_error)?;
        Ok(Self {
            path: path.to_path_buf(),
            map,
        })
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }
}
