//! Plugins by reference, over a registry of this process.

use std::{
    sync::{
        Condvar,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

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

/// A registry that has `components`, and keeps whoever asks waiting until the door is open.
fn slow_registry(components: &[Vec<u8>]) -> (Stub, Arc<(Mutex<bool>, Condvar)>) {
    let door: Arc<(Mutex<bool>, Condvar)> = Arc::default();
    let (waiting, components) = (Arc::clone(&door), components.to_vec());
    let stub = Stub::start(move |request, _| {
        let (is_open, news) = &*waiting;
        let is_open = is_open.lock().expect("nobody panics");
        let entered = news.wait_while(is_open, |is_open| !*is_open);
        drop(entered.expect("nobody panics"));
        for component in &components {
            let manifest = manifest_of(component, component.len());
            if request.line.contains(&Digest::of(&manifest).to_string()) {
                return (200, vec![], manifest);
            }
            if request.line.contains(&Digest::of(component).to_string()) {
                return (200, vec![], component.clone());
            }
        }
        (404, vec![], vec![])
    });
    (stub, door)
}

fn open(door: &(Mutex<bool>, Condvar)) {
    *door.0.lock().expect("nobody panics") = true;
    door.1.notify_all();
}

fn reference(stub: &Stub, component: &[u8]) -> String {
    let manifest = Digest::of(&manifest_of(component, component.len()));
    format!("oci://{}/persona@{manifest}", stub.authority)
}

/// A configuration whose one route binds `chatml`, of which `live` is to be live and `canary` to
/// answer a share beside it.
fn trying(stub: &Stub, live: &[u8], canary: Option<(&[u8], u8)>) -> String {
    let live = reference(stub, live);
    let source = match canary {
        None => format!("'{live}'"),
        Some((canary, percent)) => {
            let canary = reference(stub, canary);
            format!("{{ oci = '{live}', canary = {{ oci = '{canary}', percent = {percent} }} }}")
        }
    };
    format!(
        "[plugins]\ndir = 'plugins'\n[plugins.sources]\nchatml = {source}\n\
         [[routes]]\nname = 'one'\nplugins = [{{ plugin = 'chatml' }}]\n"
    )
}

/// Reads `toml` and follows it until all that it names stands as it is to.
fn settle(controller: &Arc<Controller>, dir: &Path, toml: &str) {
    fs::write(dir.join("gapura.toml"), toml).expect("it is written");
    controller.reload(Origin::Admin).expect("it is right");
    wait_until(|| {
        controller.follow_sources();
        let sources = controller.sources();
        let mut states = sources.iter().map(|source| source.state);
        states.all(|state| state == SourceState::Current)
    });
}

/// The digests of what is live and of what is tried, with its share.
fn serving(controller: &Controller) -> (String, Option<(String, VersionState)>) {
    let status = controller.plugin("chatml").expect("it is there");
    let mut versions = status.versions.iter();
    let tried = versions.find(|version| matches!(version.state, VersionState::Trial(_)));
    (
        status.digest.clone(),
        tried.map(|version| (version.digest.clone(), version.state)),
    )
}

fn canary(component: &[u8], percent: u8) -> Option<(String, VersionState)> {
    let state = VersionState::Trial(TrialMode::Canary(percent));
    Some((Digest::of(component).to_hex(), state))
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
        let is_done = {
            let controller = start_on(&runtime, dir.path(), &toml).unwrap();
            controller.store.fail_after(Some(steps));
            controller.follow_sources();
            wait_until(|| source(&controller).state != SourceState::Pulling);
            // Its thread lets go of the folder.
            wait_until(|| Arc::strong_count(&controller) == 1);
            source(&controller).state == SourceState::Current
        };
        let controller = start_on(&runtime, dir.path(), &toml).unwrap();
        follow(&controller, SourceState::Current);
        let status = controller.plugin("chatml").unwrap();
        assert_eq!(status.digest, Digest::of(&component).to_hex());
        assert_eq!(
            outcomes(&controller),
            ["staged", "verified", "retired", "live"]
        );
        if is_done {
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

#[test]
fn a_canary_is_what_the_file_says_of_it_on_every_gateway() {
    let [one, two, three] = ["1", "2", "3"].map(|mark| marked(CHATML, mark));
    let (stub, door) = slow_registry(&[one.clone(), two.clone(), three.clone()]);
    open(&door);
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), &trying(&stub, &one, Some((&two, 10)))).unwrap();
    let hex = |component: &[u8]| Digest::of(component).to_hex();
    // One that starts with it, one whose share is changed, one that takes the place of another.
    for (live, tried) in [
        (&one, Some((&two, 10))),
        (&one, Some((&two, 50))),
        (&one, Some((&three, 50))),
        (&two, Some((&three, 50))),
        (&three, None),
        (&two, Some((&three, 5))),
        (&two, None),
    ] {
        let tried = tried.map(|(component, percent)| (component.as_slice(), percent));
        let toml = trying(&stub, live, tried);
        settle(&controller, dir.path(), &toml);
        let expected = tried.and_then(|(component, percent)| canary(component, percent));
        assert_eq!(
            serving(&controller),
            (hex(live), expected.clone()),
            "{toml}"
        );
        // A gateway that has nothing yet comes to the same; two of them show it.
        if !matches!(tried, Some((_, 5 | 10))) {
            continue;
        }
        let fresh = tempfile::tempdir().unwrap();
        let other = start(fresh.path(), &toml).unwrap();
        settle(&other, fresh.path(), &toml);
        assert_eq!(serving(&other), (hex(live), expected), "{toml}");
    }
    let history = controller.history();
    let dropped = history.iter().find(|change| change.outcome == "retired");
    let reason = dropped.and_then(|change| change.reason.as_deref());
    assert_eq!(reason, Some("the configuration names it no more"));
}

#[test]
fn a_canary_never_goes_live_for_want_of_another_version() {
    let [one, two] = ["1", "2"].map(|mark| marked(CHATML, mark));
    let (stub, door) = slow_registry(std::slice::from_ref(&two));
    open(&door);
    let dir = tempfile::tempdir().unwrap();
    // The registry has the canary alone.
    let toml = trying(&stub, &one, Some((&two, 10))).replace("chatml", "fresh");
    let toml = toml.replace(
        "[[routes]]\nname = 'one'\nplugins = [{ plugin = 'fresh' }]\n",
        "",
    );
    let controller = start(dir.path(), &toml).unwrap();
    wait_until(|| {
        controller.follow_sources();
        let states: Vec<_> = controller
            .sources()
            .iter()
            .map(|source| source.state)
            .collect();
        let has_checked = outcomes(&controller).contains(&"verified".to_owned());
        states == [SourceState::Failed, SourceState::Pulling] && has_checked
    });
    controller.follow_sources();
    let waiting = controller.sources().swap_remove(1);
    assert_eq!(
        waiting.reason.as_deref(),
        Some("it waits for the live version")
    );
    assert_eq!(outcomes(&controller), ["staged", "verified"]);
}

#[test]
fn a_canary_that_was_taken_back_stays_so_until_it_is_to_be_live() {
    let [one, two] = ["1", "2"].map(|mark| marked(CHATML, mark));
    let (stub, door) = slow_registry(&[one.clone(), two.clone()]);
    open(&door);
    let dir = tempfile::tempdir().unwrap();
    let toml = trying(&stub, &one, Some((&two, 10)));
    let hex = |component: &[u8]| Digest::of(component).to_hex();
    {
        let controller = start(dir.path(), &toml).unwrap();
        settle(&controller, dir.path(), &toml);
        controller
            .roll_back("chatml", Origin::Guard, None, Some("too slow".to_owned()))
            .unwrap();
    }
    // Nor does a larger share bring it back, or a restart.
    let controller = start(dir.path(), &trying(&stub, &one, Some((&two, 50)))).unwrap();
    controller.follow_sources();
    let status = controller.sources().swap_remove(1);
    assert_eq!(status.state, SourceState::Withdrawn);
    assert_eq!(status.reason.as_deref(), Some("too slow"));
    assert_eq!(serving(&controller), (hex(&one), None));
    settle(&controller, dir.path(), &trying(&stub, &two, None));
    assert_eq!(serving(&controller), (hex(&two), None));
}

#[test]
fn plugins_by_reference_need_a_folder_that_remembers_them() {
    let dir = tempfile::tempdir().unwrap();
    let (stub, _) = registry(CHATML.to_vec());
    let toml = wanting(&stub, "chatml", CHATML).replace("dir = 'plugins'\n", "");
    let error = start(dir.path(), &toml).map(drop).unwrap_err();
    assert_eq!(error.code(), "no_releases_dir");
    assert!(
        error.to_string().contains("[plugins] releases_dir"),
        "{error}"
    );
    let controller = start(dir.path(), "").unwrap();
    fs::write(dir.path().join("gapura.toml"), &toml).unwrap();
    assert_eq!(
        controller.reload(Origin::Admin).unwrap_err().code(),
        "no_releases_dir"
    );
}

#[test]
fn a_version_that_is_slow_to_come_holds_up_no_newer_one() {
    let [old, new] = ["old", "new"].map(|mark| marked(CHATML, mark));
    let (slow, door) = slow_registry(std::slice::from_ref(&old));
    let (quick, open_door) = slow_registry(std::slice::from_ref(&new));
    open(&open_door);
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), &trying(&slow, &old, None)).unwrap();
    controller.follow_sources();
    assert_eq!(source(&controller).state, SourceState::Pulling);
    settle(&controller, dir.path(), &trying(&quick, &new, None));
    // What comes late is dropped.
    let before = outcomes(&controller);
    open(&door);
    wait_until(|| slow.seen().len() == 2);
    std::thread::sleep(Duration::from_millis(300));
    controller.follow_sources();
    assert_eq!(outcomes(&controller), before);
    assert_eq!(source(&controller).state, SourceState::Current);
}

#[test]
fn a_changed_file_waits_for_its_plugin_and_nothing_else_does() {
    let [bound, other] = ["bound", "other"].map(|mark| marked(CHATML, mark));
    let (slow, door) = slow_registry(std::slice::from_ref(&bound));
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let before = label(&controller, "one");
    fs::write(
        dir.path().join("gapura.toml"),
        wanting(&slow, "fresh", &bound),
    )
    .unwrap();
    let began = Instant::now();
    let error = controller.reload(Origin::File).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(error.code(), "plugin_awaited");
    // The file is looked at again, and the history says nothing of it yet.
    assert_eq!(controller.config_file(), None);
    assert_eq!(outcomes(&controller).len(), 0);
    let waiting = source(&controller);
    assert_eq!(
        (waiting.name.as_str(), waiting.state),
        ("fresh", SourceState::Pulling)
    );
    // Meanwhile another file takes effect, and another plugin comes.
    let (quick, open_door) = slow_registry(std::slice::from_ref(&other));
    open(&open_door);
    settle(&controller, dir.path(), &trying(&quick, &other, None));
    assert_ne!(label(&controller, "one"), before);
    // Once it is here, so does the first.
    fs::write(
        dir.path().join("gapura.toml"),
        wanting(&slow, "fresh", &bound),
    )
    .unwrap();
    assert_eq!(
        controller.reload(Origin::File).unwrap_err().code(),
        "plugin_awaited"
    );
    open(&door);
    wait_until(|| controller.reload(Origin::File).is_ok());
    assert!(label(&controller, "one").starts_with("fresh@"));
    assert_eq!(
        controller.config_file(),
        follow::digest(&dir.path().join("gapura.toml")).ok()
    );
}
