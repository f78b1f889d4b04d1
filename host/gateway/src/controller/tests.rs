//! Changes with real components: the two that the binary carries stand for all.

use std::{fs, path::Path};

use gapura_plugin_runtime::RuntimeConfig;

use super::*;
use crate::builtin::BUILTINS;

const CHATML: &[u8] = BUILTINS[0].bytes;
const GEMMA: &[u8] = BUILTINS[1].bytes;

/// Two routes over the same template, and one over another.
const ROUTES: &str = "[plugins]\ndir = 'plugins'\n\
    [[routes]]\nname = 'one'\nplugins = [{ plugin = 'chatml' }]\n\
    [[routes]]\nname = 'two'\nplugins = [{ plugin = 'chatml' }]\n\
    [[routes]]\nname = 'three'\nplugins = [{ plugin = 'gemma-chat' }]\n";

fn start(dir: &Path, toml: &str) -> Result<Arc<Controller>, ControlError> {
    let path = dir.join("gapura.toml");
    fs::write(&path, toml).unwrap();
    let (environment, flags) = (Environment::default(), Overrides::default());
    let config = Config::load(Some(&path), &environment, &flags)?;
    let runtime = PluginRuntime::new(RuntimeConfig {
        small_reservations: true,
        ..RuntimeConfig::default()
    })
    .unwrap();
    Controller::start(config, environment, flags, runtime, Arc::default()).map(Arc::new)
}

fn label(controller: &Controller, route: &str) -> String {
    controller
        .routes()
        .load()
        .by_name(route)
        .unwrap()
        .chain
        .label()
        .to_owned()
}

#[test]
fn a_push_swaps_the_routes_that_bind_it_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let before = controller.routes().load_full();
    let status = controller.push("chatml", GEMMA).unwrap();
    assert_eq!(status.routes, ["one", "two"]);
    assert_eq!(status.state, PluginState::Live);
    let after = controller.routes().load_full();
    for (name, is_same) in [("one", false), ("two", false), ("three", true)] {
        let (old, new) = (before.by_name(name).unwrap(), after.by_name(name).unwrap());
        assert_eq!(Arc::ptr_eq(old, new), is_same, "{name}");
    }
    // Who began on the old version still has it.
    assert_ne!(
        before.by_name("one").unwrap().chain.label(),
        label(&controller, "one")
    );
}

#[test]
fn a_pushed_plugin_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let pushed = start(dir.path(), ROUTES)
        .unwrap()
        .push("chatml", GEMMA)
        .unwrap();
    assert_eq!(
        fs::read(dir.path().join("plugins/chatml.wasm")).unwrap(),
        GEMMA
    );
    let controller = start(dir.path(), ROUTES).unwrap();
    let status = controller.plugin("chatml").unwrap();
    assert_eq!(
        (status.digest, status.source),
        (pushed.digest, Source::File)
    );
}

#[test]
fn what_cannot_run_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let before = label(&controller, "one");
    let cases: [(&str, &[u8], &str); 4] = [
        ("chatml", b"#!/bin/sh", "not_wasm"),
        ("chatml", &CHATML[..1000], "truncated_component"),
        ("chatml", b"\0asm\x01\0\0\0", "not_a_component"),
        ("../chatml", GEMMA, "invalid_plugin_name"),
    ];
    for (name, bytes, code) in cases {
        assert_eq!(controller.push(name, bytes).unwrap_err().code(), code);
    }
    assert_eq!(label(&controller, "one"), before);
    assert!(!dir.path().join("plugins/chatml.wasm").exists());
    let refused = controller.plugin("chatml").unwrap().refused.unwrap();
    assert_eq!(refused.code, "not_a_component");
    let outcomes: Vec<_> = controller
        .history()
        .iter()
        .map(|change| change.outcome)
        .collect();
    assert_eq!(outcomes, ["refused"; 4]);
}

#[test]
fn a_new_name_is_ready_for_a_route() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let status = controller.push("fresh", GEMMA).unwrap();
    assert_eq!(
        (status.state, status.routes.len()),
        (PluginState::Verified, 0)
    );
    fs::write(
        dir.path().join("gapura.toml"),
        ROUTES.replace("'gemma-chat'", "'fresh'"),
    )
    .unwrap();
    controller.reload(Origin::Admin).unwrap();
    assert!(label(&controller, "three").starts_with("fresh@"));
    assert_eq!(controller.plugin("fresh").unwrap().state, PluginState::Live);
}

#[test]
fn a_chain_that_would_not_work_keeps_the_server_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let code = |toml: &str| start(dir.path(), toml).map(drop).unwrap_err();
    let unknown = code("[[routes]]\nname = 'a'\nplugins = [{ plugin = 'chatlm' }]\n");
    insta::assert_snapshot!(unknown.to_string(), @"route `a` needs the plugin `chatlm`, which is not there: did you mean `chatml`? there are chatml, gemma-chat; others come from [plugins] dir as chatlm.wasm");
    let two =
        "[[routes]]\nname = 'a'\nplugins = [{ plugin = 'chatml' }, { plugin = 'gemma-chat' }]\n";
    assert_eq!(code(two).code(), "two_renderers");
}

#[test]
fn an_invalid_file_changes_nothing_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let before = controller.routes().load_full();
    let file = dir.path().join("gapura.toml");
    for (toml, code, part) in [
        (
            "[servre]\n".to_owned(),
            "invalid_config",
            "did you mean `server`?",
        ),
        (
            format!("{ROUTES}plugins_ = 1\n"),
            "invalid_config",
            "unknown key `plugins_`",
        ),
        (
            format!("[model]\nsource = 'other'\n{ROUTES}"),
            "needs_restart",
            "[model]",
        ),
        (
            format!("[server]\nlisten = '127.0.0.1:1'\n{ROUTES}"),
            "needs_restart",
            "[server]",
        ),
        (
            ROUTES.replace("gemma-chat", "gone"),
            "unknown_plugin",
            "`gone`",
        ),
    ] {
        fs::write(&file, toml).unwrap();
        let error = controller.reload(Origin::Signal).unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.to_string().contains(part), "{error}");
        assert!(Arc::ptr_eq(&before, &controller.routes().load_full()));
    }
    assert_eq!(controller.history().len(), 5);
}

#[test]
fn a_reload_changes_routes_and_keys_together() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    assert!(controller.auth().load().is_open());
    let digest = crate::config::Digest::of(b"sk");
    let toml = ROUTES.replace("'one'", "'first'")
        + &format!("[[keys]]\nname = 'k'\nsha256 = '{digest}'\nroutes = ['first']\n");
    fs::write(dir.path().join("gapura.toml"), toml).unwrap();
    controller.reload(Origin::Signal).unwrap();
    assert!(controller.routes().load().by_name("one").is_none());
    assert!(controller.routes().load().by_model("first").is_some());
    assert!(!controller.auth().load().is_open());
}

#[test]
fn the_model_names_the_default_route_and_chooses_its_template() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), "[model]\nsource = 'sim'\n").unwrap();
    assert!(label(&controller, "default").starts_with("chatml@"));
    controller
        .model_known(&model("gemma-3-270m", "gemma3"))
        .unwrap();
    assert!(label(&controller, "default").starts_with("gemma-chat@"));
    let table = controller.routes().load_full();
    assert_eq!(table.by_model("gemma-3-270m").unwrap().name, "default");
    assert!(table.by_model("gemma-3").is_none());
}

#[test]
fn the_folder_is_followed_and_a_bad_file_leaves_the_old_one_serving() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let _watch = Watch::start(&controller).unwrap();
    let folder = dir.path().join("plugins");
    let before = label(&controller, "one");
    fs::write(folder.join("chatml.wasm"), GEMMA).unwrap();
    wait_until(|| label(&controller, "one") != before);
    let live = label(&controller, "one");
    fs::write(folder.join("chatml.wasm"), b"broken").unwrap();
    wait_until(|| controller.plugin("chatml").unwrap().refused.is_some());
    assert_eq!(label(&controller, "one"), live);
}

#[test]
fn a_file_that_no_route_needs_may_be_broken_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("plugins")).unwrap();
    fs::write(dir.path().join("plugins/odd.wasm"), b"broken").unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    assert_eq!(controller.refusals()[0].1.code, "not_wasm");
    fs::write(dir.path().join("plugins/chatml.wasm"), b"broken").unwrap();
    assert_eq!(
        start(dir.path(), ROUTES).map(drop).unwrap_err().code(),
        "not_wasm"
    );
}

#[test]
fn an_old_version_is_freed_with_the_last_request_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let under_way = controller.routes().load().by_name("one").unwrap().clone();
    let old = Arc::downgrade(&under_way);
    controller.push("chatml", GEMMA).unwrap();
    assert!(old.upgrade().is_some());
    drop(under_way);
    assert!(old.upgrade().is_none());
}

fn model(id: &str, architecture: &str) -> ModelInfo {
    ModelInfo {
        id: id.to_owned(),
        architecture: architecture.to_owned(),
        vocab_size: 256,
        context_length: 128,
        eos_token_ids: Vec::new(),
        bos_token_id: None,
        kv: gapura_engine::KvLayout::default(),
        weight_bytes: 0,
        device: "sim".to_owned(),
    }
}

fn wait_until(done: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !done() {
        assert!(
            std::time::Instant::now() < deadline,
            "it did not happen within 20 s"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
