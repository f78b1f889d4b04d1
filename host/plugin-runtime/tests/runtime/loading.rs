//! What is refused before a request meets it, and why.

use gapura_plugin_runtime::{
    FailureKind, Import, LoadError, PluginRuntime, RuntimeConfig, RuntimeError, Stage,
};
use gapura_test_guests as guests;

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
    assert!(
        message.contains("expected 1-tuple, found 0-tuple"),
        "{message}"
    );
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
