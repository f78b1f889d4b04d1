//! What is refused before a request meets it, and why.

use std::time::{Duration, Instant};

use gapura_plugin_runtime::{
    FailureKind, Import, LoadError, PluginRuntime, RuntimeConfig, RuntimeError, Stage,
    add_custom_section, custom_sections,
};
use gapura_test_guests as guests;
use wasm_encoder::{
    Component, ComponentImportSection, ComponentTypeRef, ComponentTypeSection, InstanceType,
    PrimitiveValType,
};

use crate::support::{load, runtime, small_runtime};

fn refused(wasm: &[u8]) -> LoadError {
    runtime().load("guest", wasm).expect_err("refused")
}

#[test]
fn a_plugin_says_what_it_is() {
    let plugin = load("first", guests::ACCEPT);
    assert_eq!((plugin.name(), plugin.version()), ("first", "1.2.3"));
    assert_eq!(plugin.digest().len(), 64);
    assert_eq!(
        plugin.label(),
        format!("first@1.2.3+{}", &plugin.digest()[..6])
    );
    assert_eq!(plugin.size_bytes(), guests::ACCEPT.len() as u64);
    assert_eq!(plugin.stages(), [Stage::Validate]);
    assert_eq!(plugin.imports(), []);
    assert!(!plugin.uses_wasi());

    let every = load("every", guests::EVERY_STAGE);
    assert_eq!(every.stages(), Stage::ALL);
    assert_eq!(every.version(), "0.0.0", "no section says otherwise");
    let settings = load("settings", guests::SETTINGS);
    assert_eq!(settings.imports(), [Import::Config, Import::Tokenizer]);
    assert!(load("sleeper", guests::SLEEPER).uses_wasi());
}

#[test]
fn bytes_that_are_no_component_are_named() {
    assert_eq!(
        refused(b""),
        LoadError::NotWasm {
            found: "nothing".to_owned()
        }
    );
    assert_eq!(
        refused(b"<!DOCTYPE html>"),
        LoadError::NotWasm {
            found: "3c 21 44 4f 43 54 59 50".to_owned()
        }
    );
    assert_eq!(refused(b"\0asm\x01\0\0\0"), LoadError::CoreModule);
}

/// Cut in the middle of any section, a file is told from a broken one.
#[test]
fn a_truncated_file_is_named() {
    let whole = guests::EVERY_STAGE;
    for bytes in [5, 9, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        let error = refused(&whole[..bytes]);
        assert_eq!(
            error,
            LoadError::Truncated {
                bytes: bytes as u64
            },
            "{bytes}"
        );
    }
}

#[test]
fn a_damaged_file_is_refused() {
    let mut damaged = guests::ACCEPT.to_vec();
    let body = damaged
        .windows(2)
        .position(|pair| pair == [0x41, 0x00])
        .expect("i32.const 0");
    damaged[body] = 0xff;
    assert!(matches!(refused(&damaged), LoadError::Invalid { .. }));
}

#[test]
fn a_component_larger_than_the_limit_is_refused() {
    let config = RuntimeConfig {
        max_component_bytes: 100,
        ..RuntimeConfig::default()
    };
    let error = small_runtime(config)
        .load("guest", guests::ACCEPT)
        .expect_err("too large");
    let bytes = guests::ACCEPT.len() as u64;
    assert_eq!(
        error,
        LoadError::TooLarge {
            bytes,
            limit_bytes: 100
        }
    );
}

/// Nothing of it is read.
#[test]
fn two_hundred_megabytes_are_too_large() {
    let error = refused(&vec![0; 200 << 20]);
    assert_eq!(
        error.to_string(),
        "the component has 209715200 bytes, more than the limit of 67108864: build it without \
         debug information, or raise the limit"
    );
}

#[test]
fn a_component_of_another_world_is_named() {
    let LoadError::NoStage { found } = refused(guests::STRANGER) else {
        panic!("no stage")
    };
    assert_eq!(found, "test:odd/greeting");
    let LoadError::NoStage { found } = refused(guests::SILENT) else {
        panic!("no stage")
    };
    assert_eq!(found, "nothing");
}

#[test]
fn an_unknown_import_is_named() {
    let error = refused(guests::THIEF);
    assert_eq!(
        error,
        LoadError::UnknownImport {
            import: "test:odd/secrets".to_owned()
        }
    );
}

#[test]
fn another_version_of_the_contract_is_named() {
    let error = refused(guests::FUTURE);
    let item = "gapura:plugin/request-validation@0.2.0".to_owned();
    assert_eq!(
        error,
        LoadError::ContractVersion {
            item,
            served: "gapura:plugin@0.1.0"
        }
    );
    assert!(error.to_string().contains("build the plugin"), "{error}");
}

#[test]
fn what_differs_from_the_contract_is_named() {
    let LoadError::Mismatch { message } = refused(guests::LACKING) else {
        panic!("mismatch")
    };
    assert!(
        message.contains("does not have export `render`"),
        "{message}"
    );
    let LoadError::Mismatch { message } = refused(guests::WRONG_TYPE) else {
        panic!("mismatch")
    };
    for part in ["request-validation: ", "expected 1-tuple, found 0-tuple"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn an_import_of_another_type_is_named() {
    let LoadError::Mismatch { message } = refused(guests::WRONG_IMPORT) else {
        panic!("mismatch")
    };
    for part in ["gapura:plugin/log@0.1.0", "`write`"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn imports_that_nobody_has_are_named_with_what_there_is() {
    for (wasm, name) in [
        (guests::WANTS_HTTP, "wasi:http/outgoing-handler@0.2.6"),
        (guests::WANTS_ENV, "env"),
    ] {
        assert_eq!(
            refused(wasm).to_string(),
            format!(
                "imports {name}, which the host does not offer: a plugin may import log, config, \
                 tokenizer, metrics, kv, clock, random, model, http of gapura:plugin, and WASI 0.2"
            )
        );
    }
}

/// A component with `count` imports of the type `kind`, whose first type is a function's and whose
/// second is an instance's without items.
fn importing(count: usize, kind: ComponentTypeRef, name: impl Fn(usize) -> String) -> Vec<u8> {
    let mut types = ComponentTypeSection::new();
    types
        .function()
        .params([("n", PrimitiveValType::U32)])
        .result(None);
    types.instance(&InstanceType::new());
    let mut imports = ComponentImportSection::new();
    for n in 0..count {
        imports.import(name(n).as_str(), kind);
    }
    let mut component = Component::new();
    component.section(&types).section(&imports);
    component.finish()
}

#[test]
fn ten_thousand_imports_are_one_line() {
    let functions = importing(10_000, ComponentTypeRef::Func(0), |n| format!("f{n}"));
    let import = "f0".to_owned();
    assert_eq!(refused(&functions), LoadError::UnknownImport { import });
    let instances = ComponentTypeRef::Instance(1);
    let instances = importing(10_000, instances, |n| format!("test:many/i{n}"));
    let LoadError::Invalid { message } = refused(&instances) else {
        panic!("invalid")
    };
    assert!(
        message.contains("instances count exceeds limit of 1000"),
        "{message}"
    );
}

/// The parser takes names of up to 100,000 bytes; an error shows the beginning.
#[test]
fn long_names_are_cut() {
    let function = ComponentTypeRef::Func(0);
    let LoadError::UnknownImport { import } =
        refused(&importing(1, function, |_| "a".repeat(90_000)))
    else {
        panic!("unknown import")
    };
    assert_eq!(import, format!("{}…", "a".repeat(300)));
}

#[test]
fn features_that_plugins_do_not_have_are_named() {
    for (wasm, name) in [
        (guests::MEMORY64, "memory64"),
        (guests::SHARED_MEMORY, "threads"),
    ] {
        let error = refused(wasm);
        let LoadError::Feature { message } = &error else {
            panic!("{error}")
        };
        assert!(message.contains(name), "{message}");
        assert!(error.to_string().contains("build it for wasm32"), "{error}");
    }
}

#[test]
fn a_start_function_that_loops_is_stopped() {
    let started = Instant::now();
    let LoadError::Probe { kind, message } = refused(guests::LOOPS_AT_START) else {
        panic!("probe")
    };
    assert_eq!(kind, FailureKind::Deadline);
    assert_eq!(message, "more than 1000 ms of processor time");
    // The probe's second, and what a busy machine adds by the clock on the wall.
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// `wasm` with custom sections at its end.
fn with_sections(wasm: &[u8], name: &str, sections: &[&[u8]]) -> Vec<u8> {
    let mut with = wasm.to_vec();
    for data in sections {
        add_custom_section(&mut with, name, data);
    }
    with
}

#[test]
fn odd_custom_sections_are_passed_over() {
    let version = |wasm: &[u8]| load("odd", wasm).version().to_owned();
    let huge = vec![b'a'; 20 << 20];
    let many = vec![&b"guest@"[..]; 100_000];
    let bare = guests::EVERY_STAGE;
    for odd in [&[&b"guest@\xff"[..]][..], &[&huge], &many] {
        let wasm = with_sections(bare, "gapura:plugin", odd);
        assert_eq!(version(&wasm), "0.0.0");
        // A version that can be read counts, wherever it is.
        let wasm = with_sections(&wasm, "gapura:plugin", &[b"guest@4.5.6"]);
        assert_eq!(version(&wasm), "4.5.6");
    }
    let cases = with_sections(bare, "gapura:case", &many);
    assert_eq!(version(&cases), "0.0.0");
    assert_eq!(custom_sections(&cases, "gapura:case").len(), many.len());
}

#[test]
fn a_section_whose_name_is_not_text_is_named() {
    // A custom section of two bytes, whose name is one byte that UTF-8 never has.
    let wasm = [guests::ACCEPT, &[0, 2, 1, 0xff]].concat();
    let LoadError::Invalid { message } = refused(&wasm) else {
        panic!("invalid")
    };
    assert!(message.contains("UTF-8"), "{message}");
}

#[test]
fn a_guest_that_cannot_start_is_refused() {
    let LoadError::Probe { kind, .. } = refused(guests::TRAPS_AT_START) else {
        panic!("probe")
    };
    assert_eq!(kind, FailureKind::Trap);
}

#[test]
fn names_are_checked() {
    for name in [
        "",
        "Guard",
        "a b",
        "../up",
        ".hidden",
        "-x",
        "é",
        &"a".repeat(65),
    ] {
        let error = runtime().load(name, guests::ACCEPT).expect_err("refused");
        assert!(matches!(error, LoadError::Name { .. }), "{name:?}: {error}");
    }
    for name in ["a", "pii-redact", "v2_b.c", &"a".repeat(64)] {
        load(name, guests::ACCEPT);
    }
}

/// The gateway loads from blocking tasks; nothing forbids to do it elsewhere.
#[tokio::test]
async fn loading_inside_of_an_async_runtime_is_no_panic() {
    load("nested", guests::BRACKETS);
    let blocking = tokio::task::spawn_blocking(|| load("blocking", guests::MOODY).label().len());
    assert!(blocking.await.expect("no panic") > 0);
}

#[test]
fn settings_out_of_range_are_named() {
    let config = RuntimeConfig {
        max_instances: 0,
        ..RuntimeConfig::default()
    };
    let error = PluginRuntime::new(config).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "max_instances is 0, but must be 1 to 10000"
    );
    assert!(matches!(
        error,
        RuntimeError::Setting {
            name: "max_instances",
            value: 0,
            ..
        }
    ));
}
