//! `gapura plugin new` and `build`, where there is something in the way.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
};

use crate::process::gapura;

/// The languages, a file of a new project in each, and what says how to get the tool.
const LANGUAGES: [(&str, &str, &str, &str); 5] = [
    (
        "rust",
        "src/lib.rs",
        "error: cargo and rustc were not found",
        "https://rustup.rs",
    ),
    (
        "python",
        "plugin.py",
        "error: python3 with pip was not found: ",
        "install Python 3.9 or newer with pip, on Debian: apt-get install python3-pip",
    ),
    (
        "javascript",
        "package.json",
        "error: node and npm were not found: ",
        "install Node.js 18 or newer with npm, on Debian: apt-get install nodejs npm",
    ),
    (
        "go",
        "go.mod",
        "error: neither Go nor python3 with pip was found: ",
        "install Go 1.24 or newer, or Python 3.9 with pip, on Debian: apt-get install python3-pip",
    ),
    (
        "c",
        "Makefile",
        "error: python3 with pip was not found: ",
        "on Debian: apt-get install python3-pip",
    ),
];

fn new(language: &str, folder: &Path) -> Output {
    let mut new = gapura();
    new.args(["plugin", "new", "shout", "--lang", language, "--dir"]);
    new.arg(folder).output().expect("the program starts")
}

/// What a command that fails says.
fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).expect("errors are text")
}

#[test]
fn a_new_plugin_goes_into_an_empty_folder_only() {
    for (language, file, ..) in LANGUAGES {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("shout");
        let output = new(language, &folder);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("gapura plugin build"));
        fs::write(folder.join(file), "mine").unwrap();
        assert_eq!(
            error(&new(language, &folder)),
            format!(
                "error: {} is not empty; nothing was written\n",
                folder.display()
            )
        );
        assert_eq!(fs::read_to_string(folder.join(file)).unwrap(), "mine");
    }
}

/// Builds the project in `folder` with no tool but what `path` has, and none fetched before.
fn build(folder: &Path, path: &Path) -> Output {
    let mut build = gapura();
    build
        .env("PATH", path)
        .env("XDG_CACHE_HOME", path.join("cache"));
    build.args(["plugin", "build"]).arg(folder);
    build.output().expect("the program starts")
}

/// A folder with what every machine has, and no language.
fn bare_path() -> tempfile::TempDir {
    let path = tempfile::tempdir().expect("a folder");
    for tool in [
        "bash", "cat", "dirname", "head", "mkdir", "mktemp", "rm", "sed", "sort",
    ] {
        let found = Command::new("bash")
            .args(["-c", "command -v -- \"$0\"", tool])
            .output();
        let found = String::from_utf8(found.expect("bash runs").stdout).expect("paths are text");
        symlink(found.trim_end(), path.path().join(tool)).expect("a link");
    }
    path
}

#[test]
fn a_missing_toolchain_is_named_with_the_way_to_it() {
    let path = bare_path();
    for (language, _, missing, remedy) in LANGUAGES {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("shout");
        new(language, &folder);
        let said = error(&build(&folder, path.path()));
        assert!(said.contains(missing), "{language}: {said}");
        assert!(said.contains(remedy), "{language}: {said}");
    }
}

#[test]
fn a_machine_without_bash_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    for (language, ..) in LANGUAGES {
        let folder = dir.path().join(language);
        new(language, &folder);
        let said = error(&build(&folder, &dir.path().join("empty")));
        assert!(said.contains("cannot run bash"), "{language}: {said}");
        assert!(said.contains("apt-get install bash"), "{language}: {said}");
    }
}
