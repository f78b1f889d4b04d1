//! Finds the template plugins that `src/builtin.rs` carries, says how to build them where they
//! are missing, and lists the files that `gapura plugin new` writes.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() {
    find_builtin_plugins();
    list_scaffolds();
}

fn find_builtin_plugins() {
    println!("cargo::rerun-if-env-changed=GAPURA_BUILTIN_PLUGINS");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let folder = env::var_os("GAPURA_BUILTIN_PLUGINS").map_or_else(
        || manifest.join("../../plugins/target/components"),
        PathBuf::from,
    );
    for name in ["chatml", "gemma-chat"] {
        let file = folder.join(format!("{name}.wasm"));
        println!("cargo::rerun-if-changed={}", file.display());
        if !file.is_file() {
            println!(
                "cargo::error=the built-in plugin {} is missing: run `make plugins` first, or \
                 name a folder that has it in GAPURA_BUILTIN_PLUGINS",
                file.display()
            );
            return;
        }
        let file = file.canonicalize().expect("the file is there");
        let variable = name.to_uppercase().replace('-', "_");
        println!(
            "cargo::rustc-env=GAPURA_BUILTIN_{variable}={}",
            file.display()
        );
    }
}

/// Where the files of a new project come from, by language: pairs of a folder of the repository and
/// one of the project.
const SCAFFOLDS: &[(&str, &[(&str, &str)])] = &[
    (
        "rust",
        &[
            ("plugins/template/rust", ""),
            ("plugins/sdk/src", "sdk/src"),
            ("plugins/sdk/README.md", "sdk/README.md"),
            ("wit", "sdk/wit"),
        ],
    ),
    ("python", &[("plugins/template/python", ""), CONTRACT]),
    (
        "javascript",
        &[("plugins/template/javascript", ""), CONTRACT],
    ),
    (
        "go",
        &[
            ("plugins/template/go", ""),
            ("plugins/sdk-go", "gapura"),
            CONTRACT,
        ],
    ),
    (
        "c",
        &[
            ("plugins/template/c", ""),
            ("plugins/sdk-c", "gapura"),
            CONTRACT,
        ],
    ),
];

/// The contract, where a world beside it finds it.
const CONTRACT: (&str, &str) = ("wit", "wit/deps/gapura-plugin");

/// Writes `scaffold.rs`: for each language, pairs of a path in the new project and the text that
/// goes there.
fn list_scaffolds() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = manifest
        .join("../..")
        .canonicalize()
        .expect("the repository is there");
    let mut code = String::new();
    for (language, sources) in SCAFFOLDS {
        let mut files = Vec::new();
        for (from, to) in *sources {
            let from = root.join(from);
            println!("cargo::rerun-if-changed={}", from.display());
            collect(&from, Path::new(to), &mut files);
        }
        files.sort();
        code.push_str(&format!("    ({language:?}, &[\n"));
        for (to, from) in files {
            let to = to.to_str().expect("our names are ASCII");
            let to = to.strip_suffix(".tmpl").unwrap_or(to);
            let to = to.replace("gitignore", ".gitignore");
            let from = from.display().to_string();
            code.push_str(&format!("        ({to:?}, include_str!({from:?})),\n"));
        }
        code.push_str("    ]),\n");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("scaffold.rs");
    fs::write(out, format!("&[\n{code}]")).expect("OUT_DIR can be written");
}

/// Adds the file `from`, or the files below it, which go to `to` or below it.
fn collect(from: &Path, to: &Path, files: &mut Vec<(PathBuf, PathBuf)>) {
    if from.is_file() {
        files.push((to.to_owned(), from.to_owned()));
        return;
    }
    for entry in fs::read_dir(from).expect("the folder is part of the repository") {
        let from = entry.expect("the folder can be read").path();
        let name = from.file_name().expect("an entry has a name").to_owned();
        collect(&from, &to.join(name), files);
    }
}
