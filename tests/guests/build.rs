//! Makes a component of each file of `wat/` and `components/`.
//!
//! Those of `components/` are whole components in text. The first lines of a file of `wat/` are `;; key: value`: `world` names its world; `wit` a file of `wit/`
//! with that world, `beside` the contract or `instead` of it.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{PackageId, Resolve};

/// A memory, and an allocator that never frees: guests live for one request.
const PRELUDE: &str = r#"
(memory $memory (export "memory") 2)
(global $heap (mut i32) (i32.const 65536))
(func $alloc (export "cabi_realloc")
  (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
  (local $at i32)
  (local.set $at (i32.and
    (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
    (i32.sub (i32.const 0) (local.get $align))))
  (global.set $heap (i32.add (local.get $at) (local.get $size)))
  (if (i32.gt_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536)))
    (then (drop (memory.grow (i32.add (i32.shr_u (local.get $size) (i32.const 16)) (i32.const 1))))))
  (local.get $at))
"#;

fn main() -> Result<()> {
    let contract = Path::new("../../wit");
    let whole = Path::new("components");
    for path in [Path::new("wat"), whole, Path::new("wit"), contract] {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut files: Vec<_> = fs::read_dir("wat")?
        .chain(fs::read_dir(whole)?)
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut code = String::new();
    for file in files {
        let name = file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .context("a name")?;
        let text = fs::read_to_string(&file)?;
        let wasm = match file.starts_with(whole) {
            true => wat::parse_str(&text).map_err(Into::into),
            false => component(&text, contract),
        };
        let wasm = wasm.with_context(|| file.display().to_string())?;
        let to = out.join(format!("{name}.wasm"));
        fs::write(&to, wasm)?;
        for line in text.lines().skip_while(|line| header(line).is_some()) {
            let Some(comment) = line.strip_prefix(";;") else {
                break;
            };
            code.push_str(&format!("///{comment}\n"));
        }
        let constant = name.replace('-', "_").to_uppercase();
        code.push_str(&format!(
            "pub const {constant}: &[u8] = include_bytes!({to:?});\n"
        ));
    }
    fs::write(out.join("guests.rs"), code)?;
    Ok(())
}

fn component(text: &str, contract: &Path) -> Result<Vec<u8>> {
    let value = |key: &str| {
        text.lines()
            .map_while(header)
            .find(|(found, _)| *found == key)
            .map(|(_, value)| value)
    };
    let mut resolve = Resolve::default();
    let package: PackageId = match (value("beside"), value("instead")) {
        (None, None) => resolve.push_dir(contract)?.0,
        (Some(file), None) => {
            resolve.push_dir(contract)?;
            resolve.push_file(Path::new("wit").join(file))?
        }
        (None, Some(file)) => resolve.push_file(Path::new("wit").join(file))?,
        (Some(_), Some(_)) => bail!("both beside and instead"),
    };
    let world = resolve.select_world(&[package], Some(value("world").context("no world")?))?;
    let mut module = wat::parse_str(format!("(module {text} {PRELUDE})"))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    ComponentEncoder::default()
        .module(&module)?
        .validate(true)
        .encode()
}

/// The key and value of a line `;; key: value` at the head of a file.
fn header(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix(";; ")?.split_once(": ")?;
    ["world", "beside", "instead"]
        .contains(&key)
        .then_some((key, value))
}
