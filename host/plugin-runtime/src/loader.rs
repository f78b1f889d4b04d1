//! From bytes to a [`Plugin`]: everything that can be found out about an artefact before a request
//! meets it.

use std::sync::{Arc, PoisonError};

use sha2::{Digest, Sha256};
use wasmparser::{Validator, WasmFeatures};
use wasmtime::component::Component;

use crate::bindings::{Indices, SERVED};
use crate::error::LoadError;
use crate::guest::{Failure, Guest};
use crate::inspect::inspect;
use crate::limits::{Grants, Limits};
use crate::plugin::{Artifact, Import, Plugin, PluginId, Stage};
use crate::runtime::Shared;
use crate::services::{Services, TokenCounter};
use crate::state::{Profile, RequestScope};

const PACKAGE: &str = "gapura:plugin/";
/// Every 0.1 release serves every 0.1 plugin: releases only add interfaces.
const SERVED_PREFIX: &str = "0.1.";
/// The packages of WASI 0.2 that have an empty implementation here. Not http: a plugin that wants
/// the network must not load and then find none.
const WASI: [&str; 6] = [
    "wasi:io/",
    "wasi:clocks/",
    "wasi:random/",
    "wasi:cli/",
    "wasi:filesystem/",
    "wasi:sockets/",
];

/// What toolchains can be told to use and no plugin may.
const LACKING: WasmFeatures = WasmFeatures::MEMORY64
    .union(WasmFeatures::THREADS)
    .union(WasmFeatures::SHARED_EVERYTHING_THREADS);
/// Most characters of a name or message out of a component that an error shows.
const SHOWN_CHARS: usize = 300;
/// Most exports that an error lists.
const SHOWN_EXPORTS: usize = 6;

pub(crate) fn load(shared: &Arc<Shared>, name: &str, wasm: &[u8]) -> Result<Plugin, LoadError> {
    check_name(name)?;
    let bytes = wasm.len() as u64;
    if bytes > shared.max_component_bytes {
        return Err(LoadError::TooLarge {
            bytes,
            limit_bytes: shared.max_component_bytes,
        });
    }
    let digest = hex(&Sha256::digest(wasm));
    if let Some(artifact) = known(shared, &digest) {
        return Ok(Plugin::new(name, artifact));
    }
    let version = inspect(wasm)?.unwrap_or_else(|| "0.0.0".to_owned());
    let component = compile(shared, &digest, wasm)?;
    let (imports, uses_wasi) = imports(shared, &component)?;
    let stages = stages(shared, &component)?;
    let mismatch = |error: wasmtime::Error| LoadError::Mismatch {
        message: shown(&format!("{error:#}")),
    };
    let pre = shared
        .linker
        .instantiate_pre(&component)
        .map_err(mismatch)?;
    let indices = Indices::new(&pre, &stages).map_err(mismatch)?;
    let artifact = Arc::new(Artifact {
        version,
        digest: digest.clone(),
        size_bytes: bytes,
        imports,
        uses_wasi,
        pre,
        indices,
        shared: Arc::clone(shared),
    });
    probe(&artifact, name)?;
    let mut artifacts = shared
        .artifacts
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    artifacts.retain(|_, artifact| artifact.strong_count() > 0);
    artifacts.insert(digest, Arc::downgrade(&artifact));
    Ok(Plugin::new(name, artifact))
}

/// Refuses names that routes and files cannot use.
pub(crate) fn check_name(name: &str) -> Result<(), LoadError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let begins = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.len() <= 64 && name.starts_with(begins) && name.chars().all(plain) {
        return Ok(());
    }
    Err(LoadError::Name {
        name: name.chars().take(80).collect(),
    })
}

fn known(shared: &Shared, digest: &str) -> Option<Arc<Artifact>> {
    let artifacts = shared
        .artifacts
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    artifacts.get(digest)?.upgrade()
}

fn compile(shared: &Shared, digest: &str, wasm: &[u8]) -> Result<Component, LoadError> {
    let cached = shared
        .cache
        .as_ref()
        .and_then(|cache| cache.load(&shared.engine, digest));
    if let Some(component) = cached {
        return Ok(component);
    }
    let component =
        Component::from_binary(&shared.engine, wasm).map_err(|error| refusal(wasm, &error))?;
    if let Some(cache) = &shared.cache {
        cache.store(digest, &component);
    }
    Ok(component)
}

/// Why the compiler refuses `wasm`: it is broken, or sound but for a feature that plugins lack.
fn refusal(wasm: &[u8], error: &wasmtime::Error) -> LoadError {
    let message = shown(&format!("{error:#}"));
    let is_valid = |features| {
        let mut validator = Validator::new_with_features(features);
        validator.validate_all(wasm).is_ok()
    };
    let every = WasmFeatures::all();
    match is_valid(every) && !is_valid(every.difference(LACKING)) {
        true => LoadError::Feature { message },
        false => LoadError::Invalid { message },
    }
}

/// The contract's imports that `component` has, and whether it has WASI's.
fn imports(shared: &Shared, component: &Component) -> Result<(Vec<Import>, bool), LoadError> {
    let (mut found, mut uses_wasi) = (Vec::new(), false);
    for (import, _) in component.component_type().imports(&shared.engine) {
        if let Some(item) = import.strip_prefix(PACKAGE) {
            match served(import, item)? {
                // Types only: no function to grant.
                "types" => {}
                interface => match Import::named(interface) {
                    Some(import) => found.push(import),
                    None => {
                        return Err(LoadError::UnknownImport {
                            import: shown(import),
                        });
                    }
                },
            }
        } else if WASI.iter().any(|package| import.starts_with(package)) {
            uses_wasi = true;
        } else {
            return Err(LoadError::UnknownImport {
                import: shown(import),
            });
        }
    }
    found.sort_unstable();
    Ok((found, uses_wasi))
}

/// The stages that `component` exports; never empty. Exports of other packages are its own affair.
fn stages(shared: &Shared, component: &Component) -> Result<Vec<Stage>, LoadError> {
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for (export, _) in component.component_type().exports(&shared.engine) {
        let Some(item) = export.strip_prefix(PACKAGE) else {
            others.push(shown(export));
            continue;
        };
        let interface = served(export, item)?;
        match Stage::ALL
            .into_iter()
            .find(|stage| stage.interface() == interface)
        {
            Some(stage) => found.push(stage),
            // Guests may export the contract's types along with their functions.
            None if interface == "types" => {}
            None => {
                let export = shown(export);
                return Err(LoadError::UnknownExport {
                    export,
                    served: SERVED,
                });
            }
        }
    }
    if found.is_empty() {
        let more = others.len().saturating_sub(SHOWN_EXPORTS);
        others.truncate(SHOWN_EXPORTS);
        let found = match (others.is_empty(), more) {
            (true, _) => "nothing".to_owned(),
            (false, 0) => others.join(", "),
            (false, more) => format!("{} and {more} more", others.join(", ")),
        };
        return Err(LoadError::NoStage { found });
    }
    Ok(found)
}

/// The interface of `item`, which is `interface@version`, if this host serves the version.
fn served<'a>(full: &str, item: &'a str) -> Result<&'a str, LoadError> {
    match item.split_once('@') {
        Some((interface, version)) if version.starts_with(SERVED_PREFIX) => Ok(interface),
        _ => Err(LoadError::ContractVersion {
            item: shown(full),
            served: SERVED,
        }),
    }
}

/// Makes one instance and looks at the types of its exports.
fn probe(artifact: &Artifact, name: &str) -> Result<(), LoadError> {
    let shared = &artifact.shared;
    let _one_at_a_time = shared
        .probing
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let limits = Limits {
        memory_bytes: shared.max_memory_bytes,
        table_elements: crate::limits::MAX_TABLE_ELEMENTS,
        call_ms: 1000,
        ..Limits::default()
    };
    let profile = Arc::new(Profile {
        id: PluginId {
            name: name.to_owned(),
            version: artifact.version.clone(),
            digest: artifact.digest.clone(),
        },
        route: "".into(),
        index: 0,
        grants: Grants::default(),
        settings: "{}".into(),
        limits,
    });
    let request = RequestScope::new(Services::detached(Arc::new(Nothing)));
    let stage = artifact.indices.stages()[0];
    // A thread of its own, since the caller's may already belong to an async runtime, where
    // blocking on another is a panic.
    let (made, mismatch) = std::thread::scope(|scope| {
        let probe = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let Ok(runtime) = runtime else {
                return (Ok(()), None);
            };
            runtime.block_on(async {
                match Guest::start(artifact, &profile, &request, "", stage, None).await {
                    Ok(mut guest) => (Ok(()), guest.check_types(artifact).err()),
                    Err(failure) => (Err(failure), None),
                }
            })
        });
        probe.join().unwrap_or_else(|_| {
            (
                Err(Failure::new(crate::FailureKind::Trap, "the probe panicked")),
                None,
            )
        })
    });
    made.map_err(|failure| LoadError::Probe {
        kind: failure.kind,
        message: shown(&failure.message),
    })?;
    match mismatch {
        Some(error) => Err(LoadError::Mismatch {
            message: shown(&format!("{error:#}")),
        }),
        None => Ok(()),
    }
}

/// The tokenizer of a probe.
struct Nothing;

impl TokenCounter for Nothing {
    fn count(&self, _text: &str) -> u32 {
        0
    }
}

/// `text`, which may be the component's own, on one line and no longer than a reader takes in.
fn shown(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars().take(SHOWN_CHARS) {
        match c {
            '\n' => line.push(' '),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    if text.chars().nth(SHOWN_CHARS).is_some() {
        line.push('…');
    }
    line
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
