//! Finds the template plugins that `src/builtin.rs` carries, says how to build them where they
//! are missing, and lists the files that `gapura plugin new` writes.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() {
    find_builtin_plugins();
    list_scaffold();
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

/// Writes `scaffold.rs`: pairs of a path in the new project and the text that goes there.
fn list_scaffold() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = manifest
        .join("../..")
        .canonicalize()
        .expect("the repository is there");
    let mut files = Vec::new();
    for (from, to) in [
        ("plugins/template/rust", ""),
        ("plugins/sdk/src", "sdk/src"),
        ("wit", "sdk/wit"),
    ] {
        let from = root.join(from);
        println!("cargo::rerun-if-changed={}", from.display());
        collect(&from, Path::new(to), &mut files);
    }
    files.push((
        PathBuf::from("sdk/README.md"),
        root.join("plugins/sdk/README.md"),
    ));
    files.sort();
    let entries: String = files
        .iter()
        .map(|(to, from)| {
            let to = to.to_str().expect("our names are ASCII");
            let to = to
                .strip_suffix(".tmpl")
                .unwrap_or(to)
                .replace("gitignore", ".gitignore");
            format!(
                "    ({to:?}, include_str!({:?})),\n",
                from.display().to_string()
            )
        })
        .collect();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("scaffold.rs");
    fs::write(out, format!("&[\n{entries}]")).expect("OUT_DIR can be written");
}

fn collect(from: &Path, to: &Path, files: &mut Vec<(PathBuf, PathBuf)>) {
    for entry in fs::read_dir(from).expect("the folder is part of the repository") {
        let from = entry.expect("the folder can be read").path();
        let to = to.join(from.file_name().expect("an entry has a name"));
        if from.is_dir() {
            collect(&from, &to, files);
        } else {
            files.push((to, from));
        }
    }
}
