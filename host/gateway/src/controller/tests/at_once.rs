//! Several who change the same plugin.

use super::*;

#[test]
fn changes_at_once_come_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let pushed: Vec<Vec<u8>> = (0..4)
        .map(|number| marked(CHATML, &number.to_string()))
        .collect();
    std::thread::scope(|scope| {
        for component in &pushed {
            scope.spawn(|| controller.push("chatml", component, Until::Live).unwrap());
        }
    });
    let status = controller.plugin("chatml").unwrap();
    let live = status.versions.iter();
    let live = live.filter(|version| version.state == VersionState::Live);
    assert_eq!(live.count(), 1);
    assert_eq!(status.versions.len(), 5);
    assert!(label(&controller, "one").contains(&status.digest[..6]));
    // Two activations of one version are one.
    let other = &status
        .versions
        .iter()
        .find(|version| version.state == VersionState::Retired);
    let digest = other.unwrap().digest.clone();
    let before = controller.history().len();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| controller.activate("chatml", Some(&digest)).unwrap());
        }
    });
    assert_eq!(controller.history().len(), before + 2);
}

#[test]
fn of_two_activations_at_once_both_happen_and_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let digests: Vec<String> = ["a", "b"]
        .iter()
        .map(|mark| {
            let component = marked(CHATML, mark);
            controller
                .push("chatml", &component, Until::Verified)
                .unwrap();
            Digest::of(&component).to_hex()
        })
        .collect();
    let before = controller.history().len();
    std::thread::scope(|scope| {
        for digest in &digests {
            scope.spawn(|| controller.activate("chatml", Some(digest)).unwrap());
        }
    });
    let status = controller.plugin("chatml").unwrap();
    let history = controller.history();
    // The built-in one went, and then the one that was first.
    let happened: Vec<&str> = history[..history.len() - before]
        .iter()
        .map(|change| change.outcome.as_str())
        .collect();
    assert_eq!(happened, ["live", "retired", "live", "retired"]);
    let [second, first] = [&history[0].digest, &history[2].digest];
    assert_ne!(first, second);
    assert_eq!(history[1].digest, *first);
    assert_eq!(Some(&status.digest), second.as_ref());
    assert!(label(&controller, "one").contains(&status.digest[..6]));
    let back = controller
        .roll_back("chatml", Origin::Admin, None, None)
        .unwrap();
    assert_eq!(Some(&back.digest), first.as_ref());
}
