//! The plugin folder: `NAME.wasm` files that somebody puts there, with `NAME.wasm.sig` beside them
//! where they are signed. It is read, never written.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::ControlError;
use crate::signing::MAX_TEXT_BYTES;

/// The plugins of `dir`, in alphabetical order. A folder that is missing has none. What is called
/// like one and is no file is passed over, and said.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, ControlError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ControlError::store("read", dir)(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.map_err(ControlError::store("read", dir))?.path();
        let Some(name) = plugin_name(&path) else {
            continue;
        };
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => names.push(name.to_owned()),
            Ok(_) => {
                tracing::warn!(file = %path.display(), "passed over what is no file");
            }
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "passed over a file that cannot be read");
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The plugin that a file of the folder holds; hidden files (also those half written) are none.
pub(super) fn plugin_name(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?.strip_suffix(".wasm")?;
    (!name.is_empty() && !name.starts_with('.')).then_some(name)
}

/// The component `name`.
pub(super) fn read(dir: &Path, name: &str) -> Result<Vec<u8>, ControlError> {
    let path = path_of(dir, name);
    fs::read(&path).map_err(ControlError::store("read", &path))
}

/// What `NAME.wasm.sig` says, where it is there. No more is read than a signature could take, so that
/// what is longer is seen to be none.
pub(super) fn signature(dir: &Path, name: &str) -> Result<Option<String>, ControlError> {
    let path = dir.join(format!("{name}.wasm.sig"));
    let mut text = Vec::new();
    let read = fs::File::open(&path).and_then(|file| {
        let mut file = file.take(MAX_TEXT_BYTES as u64 + 1);
        file.read_to_end(&mut text)
    });
    match read {
        Ok(_) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ControlError::store("read", &path)(source)),
    }
}

fn path_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.wasm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_visible_wasm_files_are_plugins() {
        assert_eq!(plugin_name(Path::new("/p/persona.wasm")), Some("persona"));
        for other in [
            "/p/.persona.wasm.new",
            "/p/.wasm",
            "/p/README.md",
            "/p/.x.wasm",
        ] {
            assert_eq!(plugin_name(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn a_folder_is_read_in_order_and_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(names(&dir.path().join("none")).unwrap().is_empty());
        for name in ["persona.wasm", "guard.wasm", ".half.wasm"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        // What only looks like one.
        fs::create_dir(dir.path().join("folder.wasm")).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("nowhere", dir.path().join("link.wasm")).unwrap();
        assert_eq!(names(dir.path()).unwrap(), ["guard", "persona"]);
        assert_eq!(read(dir.path(), "guard").unwrap(), b"guard.wasm");
        let error = read(dir.path(), "gone").unwrap_err();
        assert_eq!(error.code(), "plugin_store");
        assert!(error.to_string().contains("gone.wasm"), "{error}");
    }
}
