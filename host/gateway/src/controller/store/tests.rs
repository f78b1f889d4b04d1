//! The store with every step of every change going wrong.

use super::{
    super::{
        Origin,
        release::{Check, Facts, Release, Source, Version},
    },
    files::Fault,
    *,
};

/// A state in which version `number` is live, and what led to it.
fn change(releases: &Releases, component: &[u8]) -> (Releases, Vec<Change>) {
    let mut next = releases.clone();
    let digest = Digest::of(component).to_hex();
    let release: &mut Release = next.plugins.entry("p".to_owned()).or_default();
    release.stage(Version {
        digest: digest.clone(),
        source: Source::Pushed,
        since: 0,
        check: Check::Passed(Facts {
            version: "1.0.0".to_owned(),
            stages: Vec::new(),
            imports: Vec::new(),
            cases: 0,
        }),
        withdrawn: None,
        size_bytes: component.len() as u64,
    });
    release.activate("p", &digest).unwrap();
    release.forget_old(2);
    let mut changes = Vec::new();
    for outcome in ["staged", "live"] {
        next.sequence += 1;
        changes.push(Change {
            sequence: next.sequence,
            ..Change::plugin(Origin::Admin, "p", outcome)
        });
    }
    (next, changes)
}

fn apply(store: &Store, releases: &Releases, component: &[u8]) -> Result<Releases, ControlError> {
    let (next, changes) = change(releases, component);
    store.put(&Digest::of(component).to_hex(), component)?;
    store.commit(&next, &changes)?;
    Ok(next)
}

fn with_fault(dir: &Path, after: u32, is_final: bool) -> (Store, Kept) {
    let (mut store, kept) = Store::open(dir).unwrap();
    if let Store::Folder(folder) = &mut store {
        folder.get_mut().unwrap().files.fault = Fault {
            after: None.into(),
            is_final,
        };
    }
    set_fault(&store, Some(after));
    (store, kept)
}

fn set_fault(store: &Store, after: Option<u32>) {
    if let Store::Folder(folder) = store {
        locked(folder).files.fault.after.set(after);
    }
}

/// Every version that the state names is there, and every line of the history up to it.
fn check_whole(dir: &Path, expected: &Releases) {
    let (store, kept) = Store::open(dir).unwrap();
    assert_eq!(kept.releases, *expected);
    for release in kept.releases.plugins.values() {
        for version in release.versions() {
            store.get(&version.digest).unwrap();
        }
    }
    let sequences: Vec<u64> = kept.history.iter().map(|change| change.sequence).collect();
    assert_eq!(
        sequences,
        (1..=expected.sequence).collect::<Vec<_>>(),
        "history"
    );
}

/// Three changes, the third of which fails at step `after` or succeeds; the store that is opened
/// then holds the state before or after it, whole. Says whether the change succeeded.
fn fails_at(after: u32, is_final: bool) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let before = {
        let (store, kept) = Store::open(dir.path()).unwrap();
        let first = apply(&store, &kept.releases, b"one").unwrap();
        apply(&store, &first, b"two").unwrap()
    };
    let (result, after_change) = {
        let (store, kept) = with_fault(dir.path(), after, is_final);
        assert_eq!(kept.releases, before);
        let result = apply(&store, &before, b"three");
        let outcome = result.as_ref().map_or(before.clone(), Clone::clone);
        // The disk has room again, and another change comes: nothing of the failed one is in it.
        let next = (!is_final).then(|| {
            set_fault(&store, None);
            apply(&store, &outcome, b"four").unwrap()
        });
        (result, next.unwrap_or(outcome))
    };
    check_whole(dir.path(), &after_change);
    let (store, kept) = Store::open(dir.path()).unwrap();
    let last = apply(&store, &kept.releases, b"five").unwrap();
    drop(store);
    check_whole(dir.path(), &last);
    let left = fs::read_dir(dir.path().join("artefacts")).unwrap().count();
    assert_eq!(left, 2, "what nothing names is swept");
    result.is_ok()
}

#[test]
fn a_process_killed_at_any_step_comes_back_with_a_committed_state() {
    let succeeded: Vec<bool> = (0..20).map(|after| fails_at(after, true)).collect();
    let committed = succeeded.iter().position(|ok| *ok).unwrap();
    assert!(committed >= 9, "steps before the commit: {committed}");
    assert!(succeeded[committed..].iter().all(|ok| *ok));
}

#[test]
fn a_full_disk_at_any_step_changes_nothing_and_the_next_change_goes_through() {
    for after in 0..20 {
        fails_at(after, false);
    }
}

#[test]
fn a_folder_belongs_to_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _) = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert_eq!(error.code(), "releases_in_use");
    // Who only looks needs no lock.
    Store::look(dir.path()).unwrap();
}

#[test]
fn who_only_looks_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let expected = {
        let (store, kept) = Store::open(dir.path()).unwrap();
        apply(&store, &kept.releases, b"one").unwrap()
    };
    let (store, kept) = Store::look(dir.path()).unwrap();
    assert_eq!(&*store.get(&Digest::of(b"one").to_hex()).unwrap(), b"one");
    let next = apply(&store, &kept.releases, b"two").unwrap();
    assert_eq!(&*store.get(&Digest::of(b"two").to_hex()).unwrap(), b"two");
    assert_ne!(next, expected);
    check_whole(dir.path(), &expected);
}

#[test]
fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let digest = Digest::of(b"one").to_hex();
    {
        let (store, kept) = Store::open(dir.path()).unwrap();
        apply(&store, &kept.releases, b"one").unwrap();
        fs::write(artefact_path(dir.path(), &digest), b"other").unwrap();
        let error = store.get(&digest).unwrap_err();
        assert_eq!(error.code(), "releases_damaged");
        assert!(error.to_string().contains(&digest), "{error}");
        fs::remove_file(artefact_path(dir.path(), &digest)).unwrap();
        assert_eq!(store.get(&digest).unwrap_err().code(), "plugin_store");
    }
    for (text, part) in [
        ("{", "EOF"),
        (r#"{"format":2,"sequence":0,"plugins":{}}"#, "format 2"),
        ("[]", "invalid"),
    ] {
        fs::write(dir.path().join("state.json"), text).unwrap();
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("state.json") && error.contains(part),
            "{error}"
        );
    }
}

#[test]
fn the_history_stays_short() {
    let dir = tempfile::tempdir().unwrap();
    let (store, kept) = Store::open(dir.path()).unwrap();
    let mut releases = kept.releases;
    for round in 0..=MAX_LINES / 2 {
        releases = apply(&store, &releases, &[u8::try_from(round % 2).unwrap()]).unwrap();
    }
    drop(store);
    let text = fs::read_to_string(dir.path().join("history.jsonl")).unwrap();
    assert_eq!(text.lines().count(), MAX_CHANGES);
    let (_, kept) = Store::open(dir.path()).unwrap();
    let newest = kept.history.newest_first();
    assert_eq!(newest[0].sequence, releases.sequence);
}
