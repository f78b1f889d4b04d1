//! The watched directory.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use gapura_plugin_runtime::{PluginWatcher, WatchError};

const SOON: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_millis(300);

/// A watcher, and the names and contents that it told of.
fn watch(directory: &Path) -> (PluginWatcher, Receiver<(String, Vec<u8>)>) {
    let (sender, told) = mpsc::channel();
    let watcher = PluginWatcher::new(directory, move |name, path| {
        let content = fs::read(path).expect("a file");
        sender
            .send((name.to_owned(), content))
            .expect("a test that listens");
    });
    (watcher.expect("a watcher"), told)
}

fn told(name: &str, content: &str) -> (String, Vec<u8>) {
    (name.to_owned(), content.as_bytes().to_owned())
}

#[test]
fn a_file_renamed_into_place_is_told_once() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("old.wasm"), "there before").expect("written");
    let (_watcher, events) = watch(directory.path());
    for content in ["one", "two"] {
        let temporary = directory.path().join(".guard.wasm.tmp");
        fs::write(&temporary, content).expect("written");
        fs::rename(&temporary, directory.path().join("guard.wasm")).expect("renamed");
        assert_eq!(events.recv_timeout(SOON), Ok(told("guard", content)));
        assert!(events.recv_timeout(QUIET).is_err(), "told twice");
    }
}

#[test]
fn a_file_is_told_when_it_is_finished() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_watcher, events) = watch(directory.path());
    let mut file = fs::File::create(directory.path().join("slow.wasm")).expect("created");
    for piece in ["half ", "of it"] {
        file.write_all(piece.as_bytes()).expect("written");
        file.flush().expect("flushed");
        if cfg!(target_os = "linux") {
            assert!(events.recv_timeout(QUIET).is_err(), "told of a part");
        }
    }
    drop(file);
    assert_eq!(events.recv_timeout(SOON), Ok(told("slow", "half of it")));
    assert!(events.recv_timeout(QUIET).is_err(), "told twice");
}

#[test]
fn other_files_are_passed_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_watcher, events) = watch(directory.path());
    for name in ["notes.txt", ".hidden.wasm", "guard.wasm.part", "empty.wasm"] {
        let content = if name == "empty.wasm" { "" } else { "content" };
        fs::write(directory.path().join(name), content).expect("written");
    }
    fs::create_dir(directory.path().join("folder.wasm")).expect("created");
    fs::write(directory.path().join("last.wasm"), "content").expect("written");
    assert_eq!(events.recv_timeout(SOON), Ok(told("last", "content")));
    fs::remove_file(directory.path().join("last.wasm")).expect("removed");
    assert!(events.recv_timeout(QUIET).is_err());
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = directory.path().join("missing");
    let error = PluginWatcher::new(&missing, |_, _| {})
        .map(|_| ())
        .expect_err("refused");
    assert!(
        matches!(&error, WatchError::Directory { path, .. } if *path == missing),
        "{error}"
    );
}

#[test]
fn a_signature_that_comes_or_changes_is_told_like_its_plugin() {
    let directory = tempfile::tempdir().expect("a directory");
    let signature = directory.path().join("guard.wasm.sig");
    let (_watcher, events) = watch(directory.path());
    fs::write(&signature, "too early").expect("written");
    assert!(events.recv_timeout(QUIET).is_err(), "there is no plugin");
    fs::write(directory.path().join("guard.wasm"), "content").expect("written");
    assert_eq!(events.recv_timeout(SOON), Ok(told("guard", "content")));
    for text in ["one", "the next"] {
        fs::write(&signature, text).expect("written");
        assert_eq!(events.recv_timeout(SOON), Ok(told("guard", "content")));
    }
    fs::remove_file(&signature).expect("removed");
    assert!(events.recv_timeout(QUIET).is_err(), "told of a removal");
}
