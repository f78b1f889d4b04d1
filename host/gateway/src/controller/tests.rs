//! Changes with real components: the two that the binary carries stand for all.

mod at_once;
mod crashes;
mod files;
mod limits;
mod signatures;
mod sources;

use std::{fs, path::Path};

use gapura_plugin_runtime::RuntimeConfig;

use super::*;
use crate::{
    builtin::BUILTINS,
    cases,
    config::{Digest, Environment},
};

pub(super) const CHATML: &[u8] = BUILTINS[0].bytes;
const GEMMA: &[u8] = BUILTINS[1].bytes;

/// Two routes over the same template, and one over another.
const ROUTES: &str = "[plugins]\ndir = 'plugins'\n\
    [[routes]]\nname = 'one'\nplugins = [{ plugin = 'chatml' }]\n\
    [[routes]]\nname = 'two'\nplugins = [{ plugin = 'chatml' }]\n\
    [[routes]]\nname = 'three'\nplugins = [{ plugin = 'gemma-chat' }]\n";

fn runtime() -> PluginRuntime {
    runtime_with(None)
}

/// With `cache`, nothing is compiled twice.
fn runtime_with(cache: Option<&Path>) -> PluginRuntime {
    let config = RuntimeConfig {
        small_reservations: true,
        cache_dir: cache.map(Path::to_owned),
        ..RuntimeConfig::default()
    };
    PluginRuntime::new(config).expect("a runtime")
}

pub(super) fn start(dir: &Path, toml: &str) -> Result<Arc<Controller>, ControlError> {
    start_on(&runtime(), dir, toml)
}

/// [`start`] on the runtime of another server that has ended.
fn start_on(
    runtime: &PluginRuntime,
    dir: &Path,
    toml: &str,
) -> Result<Arc<Controller>, ControlError> {
    let path = dir.join("gapura.toml");
    fs::write(&path, toml).expect("room in the temporary folder");
    let (environment, flags) = (Environment::default(), Overrides::default());
    let config = Config::load(Some(&path), &environment, &flags)?;
    let runtime = runtime.clone();
    Controller::start(config, environment, flags, runtime, Arc::default()).map(Arc::new)
}

/// Outcomes in the history, the oldest first.
fn outcomes(controller: &Controller) -> Vec<String> {
    let history = controller.history().into_iter().rev();
    history.map(|change| change.outcome).collect()
}

fn states(status: &PluginStatus) -> Vec<&'static str> {
    let versions = status.versions.iter();
    versions.map(|version| version.state.as_str()).collect()
}

pub(super) fn label(controller: &Controller, route: &str) -> String {
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
    let status = controller.push("chatml", GEMMA, Until::Live).unwrap();
    assert_eq!(status.routes, ["one", "two"]);
    assert_eq!(status.state, VersionState::Live);
    assert_eq!(states(&status), ["live", "retired"]);
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
        .push("chatml", GEMMA, Until::Live)
        .unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let status = controller.plugin("chatml").unwrap();
    assert_eq!(
        (status.digest, status.source),
        (pushed.digest, Source::Pushed)
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
        assert_eq!(
            controller
                .push(name, bytes, Until::Live)
                .unwrap_err()
                .code(),
            code
        );
    }
    assert_eq!(label(&controller, "one"), before);
    assert!(!dir.path().join("plugins/chatml.wasm").exists());
    let refused = controller.plugin("chatml").unwrap().refused.unwrap();
    assert_eq!(refused.code, "not_a_component");
    let outcomes: Vec<_> = controller
        .history()
        .iter()
        .map(|change| change.outcome.clone())
        .collect();
    // The first start, and three artefacts; what cannot have a name is no version of anything.
    assert_eq!(
        outcomes,
        [
            "refused", "staged", "refused", "staged", "refused", "staged"
        ]
    );
    let staged = &controller.plugin("chatml").unwrap().versions[0];
    assert_eq!(staged.state, VersionState::Staged);
    let error = controller.activate("chatml", None).unwrap_err();
    assert_eq!(error.code(), "not_verified");
}

#[test]
fn a_new_name_is_ready_for_a_route() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let status = controller.push("fresh", GEMMA, Until::Live).unwrap();
    assert_eq!((status.state, status.routes.len()), (VersionState::Live, 0));
    fs::write(
        dir.path().join("gapura.toml"),
        ROUTES.replace("'gemma-chat'", "'fresh'"),
    )
    .unwrap();
    controller.reload(Origin::Admin).unwrap();
    assert!(label(&controller, "three").starts_with("fresh@"));
    let status = controller.plugin("fresh").unwrap();
    assert_eq!(status.routes, ["three"]);
}

#[test]
fn a_chain_that_would_not_work_keeps_the_server_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let code = |toml: &str| start(dir.path(), toml).map(drop).unwrap_err();
    let unknown = code("[[routes]]\nname = 'a'\nplugins = [{ plugin = 'chatlm' }]\n");
    insta::assert_snapshot!(unknown.to_string(), @"route `a` needs the plugin `chatlm`, which is not there: did you mean `chatml`? there are chatml, gemma-chat; others come from [plugins] dir as chatlm.wasm, or from [plugins.sources]");
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
    let history = controller.history();
    assert_eq!(history.len(), 5);
    assert!(history.iter().all(|change| change.outcome == "refused"));
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
fn an_old_version_is_freed_with_the_last_request_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let under_way = controller.routes().load().by_name("one").unwrap().clone();
    let old = Arc::downgrade(&under_way);
    controller.push("chatml", GEMMA, Until::Live).unwrap();
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

pub(super) fn wait_until(done: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !done() {
        assert!(
            std::time::Instant::now() < deadline,
            "it did not happen within 20 s"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// `component` with a mark, so that it is another version that does the same.
pub(super) fn marked(component: &[u8], mark: &str) -> Vec<u8> {
    let mut other = component.to_vec();
    gapura_plugin_runtime::add_custom_section(&mut other, "mark", mark.as_bytes());
    other
}

/// `component` with a golden case that does not hold.
fn broken_promise(component: &[u8]) -> Vec<u8> {
    let mut other = component.to_vec();
    let case = "[request]\nmessages = [{ role = 'user', content = 'Halo' }]\n\
                [expect]\nprompt = 'something else'\n";
    cases::embed(&mut other, "halo", case);
    other
}

#[test]
fn a_version_goes_step_by_step_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let mut events = controller.events();
    let (new, builtin) = (marked(CHATML, "new"), label(&controller, "one"));
    let status = controller.push("chatml", &new, Until::Staged).unwrap();
    assert_eq!(states(&status), ["staged", "live"]);
    assert_eq!(
        controller.activate("chatml", None).unwrap_err().code(),
        "not_verified"
    );
    let status = controller.verify("chatml", None).unwrap();
    assert_eq!(states(&status), ["verified", "live"]);
    assert_eq!(label(&controller, "one"), builtin);

    let status = controller
        .try_out("chatml", None, TrialMode::Shadow)
        .unwrap();
    assert_eq!(states(&status), ["shadow", "live"]);
    let status = controller
        .try_out("chatml", None, TrialMode::Canary(10))
        .unwrap();
    assert_eq!(states(&status), ["canary", "live"]);
    assert_eq!(status.versions[0].percent, Some(10));
    let table = controller.routes().load_full();
    assert!(table.by_name("one").unwrap().trial.is_some());
    assert!(table.by_name("three").unwrap().trial.is_none());

    let status = controller.activate("chatml", None).unwrap();
    assert_eq!(states(&status), ["live", "retired"]);
    assert_ne!(label(&controller, "one"), builtin);
    let table = controller.routes().load_full();
    assert!(table.by_name("one").unwrap().trial.is_none());

    let status = controller
        .roll_back("chatml", Origin::Admin, None, None)
        .unwrap();
    assert_eq!(states(&status), ["retired", "live"]);
    assert_eq!(label(&controller, "one"), builtin);
    assert_eq!(
        controller
            .roll_back("chatml", Origin::Admin, None, None)
            .unwrap_err()
            .code(),
        "no_candidate"
    );

    let outcomes: Vec<String> = std::iter::from_fn(|| events.try_recv().ok())
        .map(|change| change.outcome)
        .collect();
    let all = [
        "staged",
        "verified",
        "shadow",
        "canary 10 %",
        "retired",
        "live",
        "retired",
        "live",
    ];
    assert_eq!(outcomes, all);
    let history = controller.history();
    assert_eq!(history.len(), all.len());
    assert!(
        history
            .windows(2)
            .all(|pair| pair[0].sequence == pair[1].sequence + 1)
    );
}

#[test]
fn golden_cases_are_kept_or_the_version_stays_staged() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let before = label(&controller, "one");
    let error = controller
        .push("chatml", &broken_promise(CHATML), Until::Live)
        .unwrap_err();
    assert_eq!(error.code(), "golden_case");
    let said = error.to_string();
    assert!(said.contains("`halo` does not hold: prompt is"), "{said}");
    let status = controller.plugin("chatml").unwrap();
    assert_eq!(states(&status), ["staged", "live"]);
    assert_eq!(status.versions[0].reason.as_ref(), Some(&said));
    assert_eq!(label(&controller, "one"), before);
}

#[test]
fn everything_is_as_it_was_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let before = {
        let controller = start(dir.path(), ROUTES).unwrap();
        for mark in ["a", "b", "c"] {
            let component = marked(CHATML, mark);
            controller.push("chatml", &component, Until::Live).unwrap();
        }
        let tried = marked(GEMMA, "d");
        controller.push("chatml", &tried, Until::Verified).unwrap();
        controller
            .try_out("chatml", None, TrialMode::Canary(5))
            .unwrap();
        (controller.plugins(), controller.history())
    };
    let controller = start(dir.path(), ROUTES).unwrap();
    let (mut plugins, history) = before.clone();
    // Who is on probation is not: what a version has done is not kept.
    plugins
        .iter_mut()
        .for_each(|plugin| plugin.probation = None);
    assert_eq!(
        (controller.plugins(), controller.history()),
        (plugins, history)
    );
    let table = controller.routes().load_full();
    let route = table.by_name("one").unwrap();
    assert_eq!(
        route.trial.as_ref().unwrap().plugin.digest,
        before.0[0].versions[0].digest
    );
    // The version before is ready, and goes back to the one before that.
    controller
        .roll_back("chatml", Origin::Admin, None, None)
        .unwrap();
    controller
        .roll_back("chatml", Origin::Admin, None, None)
        .unwrap();
    let live = &controller.plugin("chatml").unwrap().digest;
    assert_eq!(*live, Digest::of(&marked(CHATML, "b")).to_hex());
}

#[test]
fn a_trial_that_its_route_would_not_bind_any_more_ends_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    {
        let controller = start(dir.path(), ROUTES).unwrap();
        let tried = marked(CHATML, "tried");
        controller.push("chatml", &tried, Until::Verified).unwrap();
        controller
            .try_out("chatml", None, TrialMode::Canary(5))
            .unwrap();
    }
    let pin = format!("'chatml', digest = '{}'", Digest::of(CHATML));
    let controller = start(dir.path(), &ROUTES.replace("'chatml'", &pin)).unwrap();
    let status = controller.plugin("chatml").unwrap();
    assert_eq!(states(&status), ["retired", "live"]);
    assert!(status.trial.is_none());
    let reason = status.versions[0].reason.as_deref().unwrap();
    assert!(reason.contains("pins `chatml`"), "{reason}");
    assert_eq!(controller.history()[0].origin, Origin::Guard);
}
