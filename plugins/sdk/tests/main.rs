//! What ships beside the code: the contract's copy and the files of a new plugin.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// The plugin that `gapura plugin new` writes; its own test runs here.
#[path = "../../template/rust/src/lib.rs.tmpl"]
mod scaffolded;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<(PathBuf, String)> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "wit"))
        .map(|path| {
            (
                path.file_name().unwrap().into(),
                fs::read_to_string(&path).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

/// `wit` is a link, which becomes files in a package and on systems without links.
#[test]
fn the_contract_that_the_crate_ships_is_the_hosts() {
    let hosts = files(&here().join("../../wit"));
    assert!(hosts.iter().any(|(name, _)| name == "worlds.wit"));
    assert_eq!(files(&here().join("wit")), hosts);
}

/// Whoever writes the files replaces `{{name}}` and `{{sdk}}`, and no other placeholder.
#[test]
fn the_scaffold_has_the_placeholders_that_are_replaced() {
    let folder = here().join("../template/rust");
    let read = |path: &str| fs::read_to_string(folder.join(path)).unwrap();
    let manifest = read("Cargo.toml.tmpl");
    assert!(manifest.contains("name = \"{{name}}\"\n"));
    assert!(manifest.contains("gapura-plugin-sdk = { {{sdk}} }\n"));
    for path in [
        "Cargo.toml.tmpl",
        "README.md.tmpl",
        "gitignore.tmpl",
        "src/lib.rs.tmpl",
    ] {
        let rest = read(path).replace("{{name}}", "").replace("{{sdk}}", "");
        assert!(!rest.contains("{{") && !rest.contains("}}"), "{path}");
    }
}
