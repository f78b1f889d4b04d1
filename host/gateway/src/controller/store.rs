//! The plugin folder: `NAME.wasm` files, written whole or not at all.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::ControlError;

/// The plugins of `dir`, in alphabetical order. A folder that is missing has none.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, ControlError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed("read", dir)(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed("read", dir))?.path();
        names.extend(plugin_name(&path).map(str::to_owned));
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
    fs::read(&path).map_err(failed("read", &path))
}

/// Puts `component` into `dir` under `name`: into a hidden file first, then by a rename.
pub(super) fn write(dir: &Path, name: &str, component: &[u8]) -> Result<(), ControlError> {
    fs::create_dir_all(dir).map_err(failed("write", dir))?;
    let path = path_of(dir, name);
    let hidden = dir.join(format!(".{name}.wasm.new"));
    let written = fs::File::create(&hidden)
        .and_then(|mut file| file.write_all(component).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&hidden, &path));
    written.map_err(|source| {
        // Best effort: what is left is hidden and overwritten by the next push.
        let _ = fs::remove_file(&hidden);
        failed("write", &path)(source)
    })
}

fn path_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.wasm"))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ControlError {
    let path = path.to_owned();
    move |source| ControlError::Store {
        action,
        path,
        source,
    }
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
    fn a_written_plugin_is_read_back_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("deep/plugins");
        assert!(names(&folder).unwrap().is_empty());
        write(&folder, "persona", b"one").unwrap();
        write(&folder, "persona", b"two").unwrap();
        assert_eq!(names(&folder).unwrap(), ["persona"]);
        assert_eq!(read(&folder, "persona").unwrap(), b"two");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = write(&file, "persona", b"").unwrap_err();
        assert_eq!(error.code(), "plugin_store");
        assert!(
            error.to_string().contains(&file.display().to_string()),
            "{error}"
        );
    }
}
