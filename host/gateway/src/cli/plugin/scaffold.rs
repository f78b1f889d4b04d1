//! `gapura plugin new`: writes a small plugin that works, to start from.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use toml::Table;

/// Of each language, the files of a new plugin, with `{{name}}` where its name goes, and the SDK and
/// the contract beside them, so that the folder needs nothing but what the language itself does.
const FILES: &[(&str, &[(&str, &str)])] = include!(concat!(env!("OUT_DIR"), "/scaffold.rs"));

/// What the manifest of the template in Rust says of the SDK.
const SDK: &str = "path = \"sdk\"";

/// The SDK's manifest leaves versions to its workspace.
const SDK_MANIFEST: &str = include_str!("../../../../../plugins/sdk/Cargo.toml");
const SDK_WORKSPACE: &str = include_str!("../../../../../plugins/Cargo.toml");

/// What to start.
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The plugin's name: lower-case letters, digits and `-`.
    name: String,
    /// The language.
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
    /// The folder, new or empty. Default: one of the plugin's name.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What a plugin is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    Python,
    Javascript,
    Go,
    C,
}

impl Language {
    /// The files of a new plugin, as path and text.
    fn files(self) -> &'static [(&'static str, &'static str)] {
        let name = self.to_possible_value().expect("no language is hidden");
        let found = FILES
            .iter()
            .find(|(language, _)| *language == name.get_name());
        found.expect("every language has a template").1
    }
}

impl NewArgs {
    /// Writes the files and says what to do next.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        check_name(&self.name)?;
        let dir = self.dir.unwrap_or_else(|| PathBuf::from(&self.name));
        write_files(self.lang, &dir, &self.name)?;
        let (name, dir) = (&self.name, dir.display());
        writeln!(
            io::stdout(),
            "{name} is in {dir}. Next:\n  gapura plugin build {dir}\n  \
             gapura plugin push {name} {dir}/target/components/{name}.wasm"
        )?;
        Ok(())
    }
}

/// A Cargo package's name that is also a plugin's.
fn check_name(name: &str) -> anyhow::Result<()> {
    let starts_well = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase());
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name == "gapura" {
        bail!("`gapura` is no name for a plugin: the SDKs have it");
    }
    if starts_well && name.len() <= 64 && name.bytes().all(fits) {
        return Ok(());
    }
    bail!(
        "`{name}` is no name for a plugin: 1 to 64 lower-case letters, digits and `-`, a letter first"
    )
}

fn write_files(language: Language, dir: &Path, name: &str) -> anyhow::Result<()> {
    let is_taken = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look into {}", dir.display()));
        }
    };
    if is_taken {
        bail!("{} is not empty; nothing was written", dir.display());
    }
    for (path, template) in language.files() {
        // The SDK's own sources and the contract are taken as they are.
        let ours = ["sdk/", "gapura/", "wit/deps/"];
        let text = match ours.iter().any(|folder| path.starts_with(folder)) {
            true => (*template).to_owned(),
            false => template.replace("{{name}}", name).replace("{{sdk}}", SDK),
        };
        write_file(&dir.join(path), &text)?;
    }
    match language {
        Language::Rust => write_file(&dir.join("sdk/Cargo.toml"), &sdk_manifest()),
        _ => Ok(()),
    }
}

fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().expect("a joined path has a parent");
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The SDK's manifest with what it inherits written out.
fn sdk_manifest() -> String {
    let parse = |text: &str| text.parse::<Table>().expect("our own manifests are TOML");
    let (mut manifest, workspace) = (parse(SDK_MANIFEST), parse(SDK_WORKSPACE));
    for section in ["package", "dependencies"] {
        let inherited = &workspace["workspace"][section];
        let entries = manifest[section]
            .as_table_mut()
            .expect("a section is a table");
        for (key, value) in entries {
            if value.get("workspace").is_some() {
                *value = inherited[key.as_str()].clone();
            }
        }
    }
    toml::to_string(&manifest).expect("what was read can be written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_plugin_carries_its_name_and_leaves_no_placeholder() {
        let dir = tempfile::tempdir().unwrap();
        for (language, manifest) in [
            (Language::Rust, "Cargo.toml"),
            (Language::Python, "pyproject.toml"),
            (Language::Javascript, "package.json"),
            (Language::Go, "go.mod"),
            (Language::C, "Makefile"),
        ] {
            let folder = dir.path().join(manifest);
            write_files(language, &folder, "shout").unwrap();
            let manifest = fs::read_to_string(folder.join(manifest)).unwrap();
            assert!(manifest.contains("shout"), "{manifest}");
            for (path, _) in language.files() {
                let text = fs::read_to_string(folder.join(path)).unwrap();
                let placeholders = ["{{name}}", "{{sdk}}", "workspace = true"];
                let left = placeholders
                    .iter()
                    .find(|placeholder| text.contains(**placeholder));
                assert_eq!(left, None, "{path}");
            }
            let contract = match language {
                Language::Rust => "sdk/wit/types.wit",
                _ => "wit/deps/gapura-plugin/types.wit",
            };
            assert!(folder.join(contract).is_file(), "{language:?}");
        }
        let sdk = dir.path().join("Cargo.toml/sdk/Cargo.toml");
        let sdk = fs::read_to_string(sdk).unwrap();
        assert!(!sdk.contains("workspace"), "{sdk}");
    }

    #[test]
    fn nothing_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        let error = write_files(Language::C, dir.path(), "shout")
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("is not empty; nothing was written"),
            "{error}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn names_that_cargo_or_routes_refuse_are_refused() {
        for name in ["", "Shout", "1st", "a b", "../x", "ä", "-x", "gapura"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("shout-2").is_ok());
    }
}
