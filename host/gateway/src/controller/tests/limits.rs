//! What is bounded, and what happens where it ends: names, versions, disks.

use super::*;

/// Whether changes of `name` are counted.
fn is_series(controller: &Controller, name: &str) -> bool {
    let gauges = crate::telemetry::EngineGauges::default();
    let text = controller.metrics.scrape(&gauges);
    let label = format!("plugin=\"{name}\"");
    let mut counted = text
        .lines()
        .filter(|line| line.starts_with("gapura_plugin_swaps_total{"));
    counted.any(|line| line.contains(&label))
}

#[test]
fn names_that_cannot_be_are_none_in_the_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let error = controller.push("../x", GEMMA, Until::Live).unwrap_err();
    assert_eq!(error.code(), "invalid_plugin_name");
    assert!(!is_series(&controller, "../x"));
    let error = controller
        .push("chatml", b"broken", Until::Live)
        .unwrap_err();
    assert_eq!(error.code(), "not_wasm");
    assert!(is_series(&controller, "chatml"));
}

#[test]
fn there_is_an_end_to_new_plugins_and_none_to_new_versions() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let known = controller.plugins().len();
    let mut state = controller.state();
    for number in known..release::MAX_PLUGINS {
        let plugins = &mut state.releases.plugins;
        plugins.insert(format!("p{number}"), release::Release::default());
    }
    drop(state);
    let error = controller.push("one-more", GEMMA, Until::Live).unwrap_err();
    assert_eq!(error.code(), "too_many_plugins");
    assert!(error.to_string().contains("1000"), "{error}");
    assert_eq!(
        crate::error::ApiError::from(error).status(),
        axum::http::StatusCode::CONFLICT
    );
    assert!(controller.plugin("one-more").is_none());
    assert!(!is_series(&controller, "one-more"));
    controller.push("chatml", GEMMA, Until::Live).unwrap();
}

#[test]
fn few_versions_are_enough_to_release_one_after_the_other() {
    for keep in [1_usize, 2] {
        let dir = tempfile::tempdir().unwrap();
        let toml = ROUTES.replace("[plugins]", &format!("[plugins]\nkeep_versions = {keep}"));
        let controller = start(dir.path(), &toml).unwrap();
        for mark in ["a", "b", "c", "d"] {
            let component = marked(CHATML, mark);
            let status = controller.push("chatml", &component, Until::Live).unwrap();
            assert_eq!(status.digest, Digest::of(&component).to_hex());
        }
        let versions = controller.plugin("chatml").unwrap().versions.len();
        // The live one, the one before, and the built-in one are beside those that are kept.
        assert_eq!(versions, 3 + keep, "keep {keep}");
        let back = controller.roll_back("chatml", Origin::Admin, None, None);
        assert_eq!(
            back.unwrap().digest,
            Digest::of(&marked(CHATML, "c")).to_hex()
        );
    }
}

fn shown_on_disk(dir: &Path) -> store::Kept {
    let (_, kept) = Store::look(&dir.join("plugins/.releases")).expect("it can be read");
    kept
}

#[test]
fn what_the_guard_does_on_a_full_disk_is_done_and_written_down_later() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let tried = marked(CHATML, "tried");
    controller.push("chatml", &tried, Until::Verified).unwrap();
    controller
        .try_out("chatml", None, TrialMode::Canary(50))
        .unwrap();
    let written = shown_on_disk(dir.path());
    let mut events = controller.events();

    controller.store.fail_after(Some(0));
    let error = controller.roll_back("chatml", Origin::Admin, None, None);
    assert_eq!(error.unwrap_err().code(), "plugin_store");
    let digest = Digest::of(&tried).to_hex();
    let back = controller
        .roll_back(
            "chatml",
            Origin::Guard,
            Some(&digest),
            Some("it fails".to_owned()),
        )
        .unwrap();
    assert_eq!(states(&back), ["retired", "live"]);
    let table = controller.routes().load_full();
    assert!(table.by_name("one").unwrap().trial.is_none());
    let event = events.try_recv().unwrap();
    assert_eq!(
        (event.origin, event.outcome.as_str()),
        (Origin::Guard, "retired")
    );
    // Others are refused as before, and nothing is said twice.
    let error = controller.activate("chatml", Some(&digest)).unwrap_err();
    assert_eq!(error.code(), "plugin_store");
    controller.write_down();
    assert_eq!(shown_on_disk(dir.path()).releases, written.releases);
    assert!(events.try_recv().is_err());

    controller.store.fail_after(None);
    controller.write_down();
    let kept = shown_on_disk(dir.path());
    assert_eq!(kept.releases, controller.state().releases);
    assert_eq!(kept.history.newest_first(), controller.history());
    assert_eq!(controller.history()[0].origin, Origin::Guard);
    // Nothing is left to be written.
    let state = dir.path().join("plugins/.releases/state.json");
    fs::remove_file(&state).unwrap();
    controller.write_down();
    assert!(!state.exists());
}

#[test]
fn what_the_guard_could_not_write_down_is_written_with_the_next_change() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    controller
        .push("chatml", &marked(CHATML, "bad"), Until::Live)
        .unwrap();
    controller.store.fail_after(Some(0));
    controller
        .roll_back("chatml", Origin::Guard, None, Some("it fails".to_owned()))
        .unwrap();
    controller.store.fail_after(None);
    controller
        .push("chatml", &marked(CHATML, "good"), Until::Staged)
        .unwrap();
    let kept = shown_on_disk(dir.path());
    assert_eq!(kept.history.newest_first(), controller.history());
    assert_eq!(
        outcomes(&controller),
        [
            "staged", "verified", "retired", "live", "retired", "live", "staged"
        ]
    );
}

#[test]
fn a_reload_that_cannot_be_written_has_not_happened() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let before = controller.routes().load_full();
    let toml = ROUTES.replace("'one'", "'first'") + "[plugins.guard]\nenabled = false\n";
    fs::write(dir.path().join("gapura.toml"), toml).unwrap();
    controller.store.fail_after(Some(0));
    let error = controller.reload(Origin::Admin).unwrap_err();
    assert_eq!(error.code(), "plugin_store");
    assert!(Arc::ptr_eq(&before, &controller.routes().load_full()));
    assert!(controller.config().plugins.guard.enabled);
    assert!(controller.history().is_empty());
    controller.store.fail_after(None);
    controller.reload(Origin::Admin).unwrap();
    assert!(controller.routes().load().by_name("first").is_some());
    assert_eq!(outcomes(&controller), ["live"]);
}

#[test]
fn a_version_whose_component_is_gone_cannot_be_tried_and_the_live_one_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let (next, before) = (marked(CHATML, "next"), label(&controller, "one"));
    controller.push("chatml", &next, Until::Verified).unwrap();
    let digest = Digest::of(&next).to_hex();
    let artefacts = dir.path().join("plugins/.releases/artefacts");
    fs::remove_file(artefacts.join(format!("sha256-{digest}.wasm"))).unwrap();
    let canary = TrialMode::Canary(50);
    let error = controller.try_out("chatml", None, canary).unwrap_err();
    assert_eq!(error.code(), "plugin_store");
    assert!(error.to_string().contains(&digest), "{error}");
    assert_eq!(label(&controller, "one"), before);
    let status = controller.plugin("chatml").unwrap();
    assert_eq!(states(&status), ["verified", "live"]);
    // Who pushes it again mends it.
    controller.push("chatml", &next, Until::Verified).unwrap();
    controller.try_out("chatml", None, canary).unwrap();
}
