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
        manifest: None,
        since: 0,
        check: Check::Passed(Facts {
            version: "1.0.0".to_owned(),
            stages: Vec::new(),
            imports: Vec::new(),
            cases: 0,
        }),
        withdrawn: None,
        size_bytes: component.len() as u64,
        signatures: Vec::new(),
    });
    release.activate("p", &digest).unwrap();
    release.forget_old(0);
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
            is_final: is_final.into(),
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
    let changes = kept.history.newest_first().into_iter().rev();
    let sequences: Vec<u64> = changes.map(|change| change.sequence).collect();
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
fn who_brings_the_good_bytes_again_mends_a_component() {
    let dir = tempfile::tempdir().unwrap();
    let (store, kept) = Store::open(dir.path()).unwrap();
    apply(&store, &kept.releases, b"one").unwrap();
    let digest = Digest::of(b"one").to_hex();
    for damage in [&b""[..], b"on", b"two", b"one and more"] {
        fs::write(artefact_path(dir.path(), &digest), damage).unwrap();
        assert!(store.get(&digest).is_err());
        store.put(&digest, b"one").unwrap();
        assert_eq!(&*store.get(&digest).unwrap(), b"one");
    }
}

/// The lines of the history as they lie there.
fn lines(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join(HISTORY)).expect("there is a history");
    text.lines().map(str::to_owned).collect()
}

/// What is read of them, the newest first.
fn shown(dir: &Path) -> Vec<u64> {
    let (_, kept) = Store::look(dir).expect("it can be read");
    let changes = kept.history.newest_first().into_iter();
    changes.map(|change| change.sequence).collect()
}

#[test]
fn a_line_that_cannot_be_read_loses_neither_itself_nor_others() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (store, kept) = Store::open(dir.path()).unwrap();
        let first = apply(&store, &kept.releases, b"one").unwrap();
        apply(&store, &first, b"two").unwrap();
    }
    assert_eq!(shown(dir.path()), [4, 3, 2, 1]);
    let whole = lines(dir.path());
    let path = dir.path().join(HISTORY);
    // As a later version would write it, as a disk would, and both at the very end.
    let other = whole[1].replace("\"admin\"", "\"somebody new\"");
    assert_ne!(other, whole[1]);
    for (at, line, left) in [
        (1, other.as_str(), vec![4, 3, 1]),
        (0, "\u{fffd}{\"seq", vec![4, 3, 2]),
        (3, "{}", vec![3, 2, 1]),
        (3, "not JSON", vec![3, 2, 1]),
    ] {
        let mut damaged = whole.clone();
        line.clone_into(&mut damaged[at]);
        fs::write(&path, damaged.join("\n") + "\n").unwrap();
        assert_eq!(shown(dir.path()), left);
        let (store, kept) = Store::open(dir.path()).unwrap();
        apply(&store, &kept.releases, b"three").unwrap();
        drop(store);
        assert_eq!(lines(dir.path())[..4], damaged);
        assert_eq!(shown(dir.path())[..2], [6, 5]);
        // As it was, for the next.
        let (store, _) = Store::open(dir.path()).unwrap();
        store.commit(&kept.releases, &[]).unwrap();
    }
}

#[test]
fn what_was_not_committed_is_dropped_behind_a_line_that_cannot_be_read_too() {
    let dir = tempfile::tempdir().unwrap();
    let first = {
        let (store, kept) = Store::open(dir.path()).unwrap();
        apply(&store, &kept.releases, b"one").unwrap()
    };
    let whole = lines(dir.path());
    let (_, changes) = change(&first, b"two");
    let uncommitted = serde_json::to_string(&changes[0]).unwrap();
    let text = format!("{}\nodd\n{uncommitted}\nodd\n{{\"half", whole[0]);
    fs::write(dir.path().join(HISTORY), text).unwrap();
    let (store, kept) = Store::open(dir.path()).unwrap();
    apply(&store, &kept.releases, b"two").unwrap();
    let after = lines(dir.path());
    assert_eq!(after[..2], [whole[0].clone(), "odd".to_owned()]);
    assert_eq!(shown(dir.path()), [4, 3, 1]);
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
