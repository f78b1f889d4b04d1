//! Plugins by reference, over a registry of this process.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::oci::stub::{Stub, manifest_of};

/// A registry that has `component`, and is down while the switch is off.
fn registry(component: Vec<u8>) -> (Stub, Arc<AtomicBool>) {
    let is_up = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&is_up);
    let stub = Stub::start(move |request, _| {
        let is_manifest = request.line.contains("/manifests/");
        match (switch.load(Ordering::Relaxed), is_manifest) {
            (false, _) => (503, vec![], vec![]),
            (true, true) => (200, vec![], manifest_of(&component, component.len())),
            (true, false) => (200, vec![], component.clone()),
        }
    });
    (stub, is_up)
}

/// A configuration whose one route binds `name`, which is to come as `component`.
fn wanting(stub: &Stub, name: &str, component: &[u8]) -> String {
    let manifest = Digest::of(&manifest_of(component, component.len()));
    format!(
        "[plugins]\ndir = 'plugins'\n\
         [plugins.sources]\n{name} = 'oci://{}/persona@{manifest}'\n\
         [[routes]]\nname = 'one'\nplugins = [{{ plugin = '{name}' }}]\n",
        stub.authority
    )
}

fn source(controller: &Controller) -> SourceStatus {
    controller.sources().swap_remove(0)
}

/// Carries the source on until it stands as `state`.
fn follow(controller: &Arc<Controller>, state: SourceState) {
    wait_until(|| {
        controller.follow_sources();
        source(controller).state == state
    });
}

#[test]
fn what_is_named_is_pulled_verified_and_live_and_never_pulled_again() {
    let dir = tempfile::tempdir().unwrap();
    let component = marked(CHATML, "registry");
    let (stub, _) = registry(component.clone());
    let toml = wanting(&stub, "chatml", &component);
    {
        let controller = start(dir.path(), &toml).unwrap();
        // The built-in one serves meanwhile.
        assert_eq!(source(&controller).state, SourceState::Pulling);
        follow(&controller, SourceState::Current);
        let status = controller.plugin("chatml").unwrap();
        assert_eq!(status.digest, Digest::of(&component).to_hex());
        assert_eq!(status.source, Source::Registry);
        assert_eq!(
            outcomes(&controller),
            ["staged", "verified", "retired", "live"]
        );
    }
    let asked = stub.seen().len();
    let controller = start(dir.path(), &toml).unwrap();
    controller.follow_sources();
    assert_eq!(source(&controller).state, SourceState::Current);
    assert_eq!(stub.seen().len(), asked);
}

#[test]
fn a_route_that_has_nothing_else_waits_for_its_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let component = marked(CHATML, "only");
    let (stub, is_up) = registry(component.clone());
    let toml = wanting(&stub, "fresh", &component);
    let controller = start(dir.path(), &toml).unwrap();
    assert!(label(&controller, "one").starts_with("fresh@"));
    assert_eq!(outcomes(&controller), ["staged", "verified", "live"]);
    // The same by a reload, which is refused where it cannot be had.
    let other = tempfile::tempdir().unwrap();
    let controller = start(other.path(), ROUTES).unwrap();
    let before = label(&controller, "one");
    fs::write(other.path().join("gapura.toml"), &toml).unwrap();
    is_up.store(false, Ordering::Relaxed);
    let error = controller.reload(Origin::Admin).unwrap_err();
    assert_eq!(error.code(), "registry_failed");
    assert_eq!(label(&controller, "one"), before);
    is_up.store(true, Ordering::Relaxed);
    controller.reload(Origin::Admin).unwrap();
    assert!(label(&controller, "one").starts_with("fresh@"));
}

#[test]
fn a_registry_that_is_down_is_asked_again_later() {
    let dir = tempfile::tempdir().unwrap();
    let component = marked(CHATML, "late");
    let (stub, is_up) = registry(component.clone());
    is_up.store(false, Ordering::Relaxed);
    let controller = start(dir.path(), &wanting(&stub, "chatml", &component)).unwrap();
    follow(&controller, SourceState::Failed);
    let status = source(&controller);
    assert!(status.reason.unwrap().contains("answered 503"));
    assert!(status.next_try_s.unwrap() <= 2);
    assert_eq!(outcomes(&controller).len(), 0);
    is_up.store(true, Ordering::Relaxed);
    follow(&controller, SourceState::Current);
}

#[test]
fn what_does_not_keep_its_promise_stays_staged_until_somebody_asks() {
    let dir = tempfile::tempdir().unwrap();
    let component = broken_promise(CHATML);
    let (stub, _) = registry(component.clone());
    let controller = start(dir.path(), &wanting(&stub, "chatml", &component)).unwrap();
    let before = label(&controller, "one");
    follow(&controller, SourceState::Failed);
    let asked = stub.seen().len();
    for _ in 0..3 {
        controller.follow_sources();
    }
    let status = source(&controller);
    assert!(status.reason.unwrap().contains("`halo` does not hold"));
    assert_eq!(status.next_try_s, None);
    assert_eq!(stub.seen().len(), asked);
    assert_eq!(label(&controller, "one"), before);
    assert_eq!(outcomes(&controller), ["staged", "refused"]);
}

/// A pull is a change like any other: after each step at which it may end it is carried on.
#[test]
fn what_was_cut_short_is_carried_on_after_the_next_start() {
    let component = marked(CHATML, "registry");
    let (stub, _) = registry(component.clone());
    let toml = wanting(&stub, "chatml", &component);
    let compiled = tempfile::tempdir().expect("a temporary folder");
    let runtime = runtime_with(Some(compiled.path()));
    let mut steps = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let source = {
            let controller = start_on(&runtime, dir.path(), &toml).unwrap();
            controller.store.fail_after(Some(steps));
            let source = controller.config().plugins.sources["chatml"].clone();
            controller.advance("chatml", &source)
        };
        let controller = start_on(&runtime, dir.path(), &toml).unwrap();
        follow(&controller, SourceState::Current);
        let status = controller.plugin("chatml").unwrap();
        assert_eq!(status.digest, Digest::of(&component).to_hex());
        assert_eq!(
            outcomes(&controller),
            ["staged", "verified", "retired", "live"]
        );
        if source.is_ok() {
            break;
        }
        // Three commits have many; a few are enough to be between all of them.
        steps += 2;
    }
    assert!(steps >= 12, "{steps}");
}

#[test]
fn what_was_rolled_back_is_not_fought_for() {
    let dir = tempfile::tempdir().unwrap();
    let component = marked(CHATML, "unloved");
    let (stub, _) = registry(component.clone());
    let toml = wanting(&stub, "chatml", &component);
    let builtin = Digest::of(CHATML).to_hex();
    {
        let controller = start(dir.path(), &toml).unwrap();
        follow(&controller, SourceState::Current);
        controller
            .roll_back("chatml", Origin::Admin, None, None)
            .unwrap();
        controller.reload(Origin::Admin).unwrap();
        controller.follow_sources();
        assert_eq!(source(&controller).state, SourceState::Withdrawn);
        assert_eq!(controller.plugin("chatml").unwrap().digest, builtin);
    }
    let controller = start(dir.path(), &toml).unwrap();
    controller.follow_sources();
    assert_eq!(source(&controller).state, SourceState::Withdrawn);
    // By hand it may serve again.
    controller
        .activate("chatml", Some(&Digest::of(&component).to_hex()))
        .unwrap();
    assert_eq!(source(&controller).state, SourceState::Current);
}
