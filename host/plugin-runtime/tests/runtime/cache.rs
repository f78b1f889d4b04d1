//! Compiled code on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use gapura_plugin_runtime::{PluginRuntime, RuntimeConfig, RuntimeError};
use gapura_test_guests as guests;

use crate::support::small_runtime;

fn cached(directory: &Path) -> PluginRuntime {
    let cache_dir = Some(directory.to_owned());
    small_runtime(RuntimeConfig {
        cache_dir,
        max_instances: 4,
        ..RuntimeConfig::default()
    })
}

fn entries(directory: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
            (path, modified.expect("a time"))
        })
        .collect();
    entries.sort();
    entries
}

#[test]
fn compiled_code_is_kept_and_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let deep = directory.path().join("deep/er");
    let first = cached(&deep).load("a", guests::ACCEPT).expect("loads");
    let written = entries(&deep);
    let [(path, _)] = &*written else {
        panic!("one entry, and no temporary file: {written:?}")
    };
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a name");
    assert!(
        name.starts_with(first.digest()) && name.ends_with(".cwasm"),
        "{name}"
    );

    let second = cached(&deep).load("b", guests::ACCEPT).expect("loads");
    assert_eq!(second.digest(), first.digest());
    assert_eq!(entries(&deep), written, "not compiled again");
}

/// A damaged entry is neither run nor an error: it is compiled and written again.
#[test]
fn a_damaged_entry_is_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    cached(directory.path())
        .load("a", guests::ACCEPT)
        .expect("loads");
    let [(path, _)] = &*entries(directory.path()) else {
        panic!("one entry")
    };
    let whole = fs::read(path).expect("bytes");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() / 2], &whole[..7], b""] {
        fs::write(path, damaged).expect("written");
        cached(directory.path())
            .load("a", guests::ACCEPT)
            .expect("loads");
        assert!(fs::read(path).expect("bytes") != damaged, "written again");
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, "no directory").expect("written");
    let cache_dir = Some(file.join("cache"));
    let error = PluginRuntime::new(RuntimeConfig {
        cache_dir,
        ..RuntimeConfig::default()
    });
    let error = error.expect_err("refused");
    assert!(matches!(&error, RuntimeError::Cache { path, .. } if path.starts_with(&file)));
    assert!(
        error.to_string().contains("file/cache is not writable"),
        "{error}"
    );
}
