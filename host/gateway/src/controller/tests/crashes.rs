//! A server that ends at any step of what a change writes, and is started again: what was
//! acknowledged is there, and what was not has happened or has not, and nothing in between.

use super::*;

/// What of `chatml` serves, and what beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stand {
    live: String,
    trial: Option<(String, VersionState)>,
}

fn stand(controller: &Controller) -> Stand {
    let status = controller.plugin("chatml").expect("it is known");
    let versions = status.versions.iter();
    let live: Vec<_> = versions
        .clone()
        .filter(|version| version.state == VersionState::Live)
        .collect();
    let [live] = live[..] else {
        panic!("not one version serves: {:?}", states(&status));
    };
    let mut trials = versions.filter(|version| matches!(version.state, VersionState::Trial(_)));
    let shown = Stand {
        live: live.digest.clone(),
        trial: trials
            .next()
            .map(|trial| (trial.digest.clone(), trial.state)),
    };
    assert!(label(controller, "one").contains(&shown.live[..6]));
    shown
}

/// The history has every number once, and all up to the newest.
fn check_history(controller: &Controller) {
    let history = controller.history().into_iter().rev();
    let numbers: Vec<u64> = history.map(|change| change.sequence).collect();
    let expected: Vec<u64> = (1..).take(numbers.len()).collect();
    assert_eq!(numbers, expected);
}

fn prepared(runtime: &PluginRuntime, dir: &Path, prepare: impl Fn(&Controller)) -> Arc<Controller> {
    let controller = start_on(runtime, dir, ROUTES).expect("it starts");
    prepare(&controller);
    controller
}

/// Makes `change` on servers that end after 0, 2, 4 … steps of writing, until it is acknowledged.
/// `check` sees each of them after its next start, and hears whether that was one.
fn at_every_step(
    prepare: impl Fn(&Controller),
    change: impl Fn(&Path, &Arc<Controller>) -> Result<(), ControlError>,
    check: impl Fn(&Path, &Controller, bool),
) {
    let compiled = tempfile::tempdir().expect("a temporary folder");
    let runtime = runtime_with(Some(compiled.path()));
    let mut steps = 0;
    loop {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let is_done = {
            let controller = prepared(&runtime, dir.path(), &prepare);
            controller.store.fail_after(Some(steps));
            change(dir.path(), &controller).is_ok()
        };
        let toml = fs::read_to_string(dir.path().join("gapura.toml")).expect("it is there");
        let controller = start_on(&runtime, dir.path(), &toml).expect("it starts again");
        check_history(&controller);
        check(dir.path(), &controller, is_done);
        if is_done {
            break;
        }
        // A commit has eight, and the store's own tests stop at each: these are to stop between them.
        steps += 2;
    }
    assert!(steps >= 6, "a change is written in more steps than {steps}");
}

/// [`at_every_step`] of one change, from what serves before to what serves after.
fn one_commit(
    prepare: impl Fn(&Controller),
    change: impl Fn(&Controller) -> Result<PluginStatus, ControlError>,
) {
    let (before, after) = {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let controller = prepared(&runtime(), dir.path(), &prepare);
        let before = stand(&controller);
        change(&controller).expect("it can be done");
        (before, stand(&controller))
    };
    assert_ne!(before, after);
    at_every_step(
        prepare,
        |_, controller| change(controller).map(drop),
        |_, controller, is_done| {
            let found = stand(controller);
            assert!(found == after || !is_done && found == before, "{found:?}");
            // What was cut short can be done now.
            if found == before {
                change(controller).expect("it can be done");
            }
            assert_eq!(stand(controller), after);
        },
    );
}

fn new() -> Vec<u8> {
    marked(CHATML, "new")
}

fn verified(controller: &Controller) {
    let pushed = controller.push("chatml", &new(), Until::Verified);
    pushed.expect("a good component");
}

#[test]
fn of_a_push() {
    one_commit(
        |_| (),
        |controller| controller.push("chatml", &new(), Until::Live),
    );
}

#[test]
fn of_a_trial() {
    for mode in [TrialMode::Shadow, TrialMode::Canary(10)] {
        one_commit(verified, |controller| {
            controller.try_out("chatml", None, mode)
        });
    }
}

#[test]
fn of_an_activation_and_a_rollback() {
    one_commit(verified, |controller| controller.activate("chatml", None));
    let back = |controller: &Controller| controller.roll_back("chatml", Origin::Admin, None, None);
    let live = |controller: &Controller| {
        let pushed = controller.push("chatml", &new(), Until::Live);
        pushed.expect("a good component");
    };
    one_commit(live, back);
}

#[test]
fn of_a_reload() {
    at_every_step(
        |_| (),
        |dir, controller| {
            let toml = ROUTES.replace("'two'", "'second'");
            fs::write(dir.join("gapura.toml"), toml).expect("room in the temporary folder");
            let before = controller.routes().load_full();
            let reloaded = controller.reload(Origin::Admin);
            let is_same = Arc::ptr_eq(&before, &controller.routes().load_full());
            assert_eq!(is_same, reloaded.is_err());
            reloaded
        },
        |_, controller, is_done| {
            assert!(controller.routes().load().by_name("second").is_some());
            let noted = outcomes(controller);
            assert!(
                noted == ["live"] || !is_done && noted.is_empty(),
                "{noted:?}"
            );
        },
    );
}

/// The file is still in the folder: wherever it was cut short, it serves in the end.
#[test]
fn of_a_file_of_the_folder() {
    let digest = Digest::of(&new()).to_hex();
    let drop_in = |dir: &Path, controller: &Arc<Controller>| {
        fs::write(dir.join("plugins/chatml.wasm"), new()).expect("room in the temporary folder");
        controller.file_changed("chatml")
    };
    at_every_step(
        |_| (),
        drop_in,
        |_, controller, _| {
            assert_eq!(stand(controller).live, digest);
            let noted = outcomes(controller);
            assert_eq!(noted, ["staged", "verified", "retired", "live"]);
        },
    );
    // The same where the server lives on and the disk has room again.
    let compiled = tempfile::tempdir().expect("a temporary folder");
    let runtime = runtime_with(Some(compiled.path()));
    for steps in (0..).step_by(2) {
        let dir = tempfile::tempdir().unwrap();
        let controller = prepared(&runtime, dir.path(), |_| ());
        controller.store.fail_after(Some(steps));
        let taken = drop_in(dir.path(), &controller);
        controller.store.fail_after(None);
        controller.file_changed("chatml").unwrap();
        assert_eq!(stand(&controller).live, digest, "after {steps} steps");
        if taken.is_ok() {
            break;
        }
    }
}

#[test]
fn of_a_file_that_may_not_serve() {
    let builtin = Digest::of(CHATML).to_hex();
    at_every_step(
        |_| (),
        |dir, controller| {
            let file = dir.join("plugins/chatml.wasm");
            fs::write(file, broken_promise(CHATML)).expect("room in the temporary folder");
            match controller.file_changed("chatml") {
                // The refusal is what is acknowledged.
                Err(ControlError::Cases { .. }) => Ok(()),
                other => other,
            }
        },
        |_, controller, _| {
            assert_eq!(stand(controller).live, builtin);
            assert_eq!(outcomes(controller), ["staged", "refused"]);
            let refused = controller.plugin("chatml").expect("it is known").refused;
            assert_eq!(refused.expect("it is shown").code, "golden_case");
        },
    );
}
