//! Which moves may follow on which.

use super::*;

fn version(digit: char) -> Version {
    Version {
        digest: digit.to_string().repeat(64),
        source: Source::Pushed,
        manifest: None,
        since: 0,
        check: Check::Pending,
        withdrawn: None,
        size_bytes: 1,
        signatures: Vec::new(),
    }
}

fn passed() -> Check {
    Check::Passed(Facts {
        version: "1.0.0".to_owned(),
        stages: Vec::new(),
        imports: Vec::new(),
        cases: 0,
    })
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// Versions `a`, `b`, … verified in this order; the first is live.
fn release(digits: &str) -> Release {
    let mut release = Release::default();
    for digit in digits.chars() {
        release.stage(version(digit));
        release.checked(&id(digit), passed());
    }
    let first = digits.chars().next().unwrap();
    release.activate("p", &id(first)).unwrap();
    release
}

fn states(release: &Release) -> String {
    let shown = release.versions().iter().map(|version| {
        let state = release.state(version);
        format!("{}:{state}", &version.digest[..1])
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_version_comes_all_the_way() {
    let mut release = release("a");
    release.stage(version('b'));
    assert_eq!(states(&release), "b:staged a:live");
    release.checked(&id('b'), passed());
    assert_eq!(states(&release), "b:verified a:live");
    release.try_out("p", &id('b'), TrialMode::Shadow).unwrap();
    assert_eq!(states(&release), "b:shadow a:live");
    release
        .try_out("p", &id('b'), TrialMode::Canary(10))
        .unwrap();
    assert_eq!(states(&release), "b:canary 10 % a:live");
    release.activate("p", &id('b')).unwrap();
    assert_eq!(states(&release), "b:live a:retired");
    assert_eq!(release.previous(), Some(id('a').as_str()));
}

#[test]
fn back_goes_to_what_served_before_and_further() {
    let mut release = release("abc");
    release.activate("p", &id('b')).unwrap();
    release.activate("p", &id('c')).unwrap();
    let back = release
        .roll_back("p", None, Some("too slow".to_owned()))
        .unwrap();
    assert_eq!((back.withdrawn, back.live), (id('c'), Some(id('b'))));
    assert_eq!(states(&release), "c:retired b:live a:retired");
    assert_eq!(
        release.version(&id('c')).unwrap().withdrawn.as_deref(),
        Some("too slow")
    );
    release.roll_back("p", None, None).unwrap();
    assert_eq!(release.live(), Some(id('a').as_str()));
    let error = release.roll_back("p", None, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "plugin `p` has no version to go back to: no other version served before the live one"
    );
    // What was taken back may be tried again.
    release.activate("p", &id('c')).unwrap();
    assert_eq!(release.version(&id('c')).unwrap().withdrawn, None);
    assert_eq!(release.previous(), Some(id('a').as_str()));
}

#[test]
fn a_trial_ends_before_the_live_version_does() {
    let mut release = release("ab");
    release
        .try_out("p", &id('b'), TrialMode::Canary(50))
        .unwrap();
    let back = release.roll_back("p", None, None).unwrap();
    assert_eq!((back.withdrawn, back.live), (id('b'), None));
    assert_eq!(states(&release), "b:retired a:live");
}

#[test]
fn what_is_rolled_back_by_its_digest_is_nothing_else() {
    let mut release = release("abc");
    release.activate("p", &id('b')).unwrap();
    release.try_out("p", &id('c'), TrialMode::Shadow).unwrap();
    let error = release.roll_back("p", Some(&id('a')), None).unwrap_err();
    assert!(error.to_string().ends_with("serves no more"), "{error}");
    release.roll_back("p", Some(&id('b')), None).unwrap();
    assert_eq!(states(&release), "c:shadow b:retired a:live");
    release.roll_back("p", Some(&id('c')), None).unwrap();
    assert_eq!(states(&release), "c:retired b:retired a:live");
}

#[test]
fn one_version_is_tried_at_a_time() {
    let mut release = release("abc");
    release.try_out("p", &id('b'), TrialMode::Shadow).unwrap();
    let error = release
        .try_out("p", &id('c'), TrialMode::Canary(1))
        .unwrap_err();
    assert!(matches!(error, MoveError::OnTrial { .. }), "{error}");
    let error = release
        .try_out("p", &id('a'), TrialMode::Canary(1))
        .unwrap_err();
    assert!(matches!(error, MoveError::IsLive { .. }), "{error}");
}

#[test]
fn shares_that_are_none_are_refused() {
    let mut release = release("ab");
    for percent in [0, 101] {
        let mode = TrialMode::Canary(percent);
        let error = release.try_out("p", &id('b'), mode).unwrap_err();
        let percent = percent.into();
        assert_eq!(error, MoveError::Percent { percent });
    }
}

#[test]
fn what_did_not_pass_goes_nowhere_and_may_be_verified_again() {
    let mut release = release("a");
    release.stage(version('b'));
    let error = release.activate("p", &id('b')).unwrap_err();
    assert!(error.to_string().ends_with("verify it first"), "{error}");
    let failed = Check::Failed {
        code: "golden_case".to_owned(),
        reason: "case `halo` differs".to_owned(),
    };
    release.checked(&id('b'), failed);
    assert_eq!(states(&release), "b:staged a:live");
    for error in [
        release.activate("p", &id('b')).unwrap_err(),
        release
            .try_out("p", &id('b'), TrialMode::Shadow)
            .unwrap_err(),
    ] {
        assert!(
            error.to_string().ends_with("case `halo` differs"),
            "{error}"
        );
    }
    release.stage(version('b'));
    assert_eq!(release.version(&id('b')).unwrap().check, Check::Pending);
    // The next artefact takes the place of one that failed.
    release.checked(
        &id('b'),
        Check::Failed {
            code: String::new(),
            reason: String::new(),
        },
    );
    release.stage(version('c'));
    assert_eq!(states(&release), "c:staged a:live");
}

#[test]
fn versions_are_found_by_their_first_digits() {
    let release = release("ab");
    let found = |digits: &str| {
        release
            .find("p", digits)
            .map(|version| &version.digest[..1])
    };
    assert_eq!(found("aaaaaa"), Ok("a"));
    assert_eq!(found(&format!("sha256:{}", id('b'))), Ok("b"));
    for few in ["", "a", "aaaaa"] {
        let error = found(few).unwrap_err();
        assert!(matches!(error, MoveError::Ambiguous { .. }), "{error}");
    }
    assert_eq!(
        found("c0ffee").unwrap_err().to_string(),
        "plugin `p` has no version c0ffee: it has bbbbbbbbbbbb (verified), aaaaaaaaaaaa (live)"
    );
}

#[test]
fn a_move_without_a_version_means_the_one_that_waits() {
    let mut release = release("abc");
    let candidate = |release: &Release| {
        let found = release.candidate("p", "activate");
        found.map(|version| version.digest[..1].to_owned())
    };
    assert_eq!(candidate(&release).as_deref(), Ok("c"));
    release.try_out("p", &id('b'), TrialMode::Shadow).unwrap();
    assert_eq!(candidate(&release).as_deref(), Ok("b"));
    release.activate("p", &id('b')).unwrap();
    release.activate("p", &id('c')).unwrap();
    let error = candidate(&release).unwrap_err();
    assert!(matches!(error, MoveError::Nothing { .. }), "{error}");
}

#[test]
fn old_versions_are_forgotten_but_none_that_is_needed() {
    let mut release = release("abcdef");
    release.activate("p", &id('b')).unwrap();
    release.try_out("p", &id('c'), TrialMode::Shadow).unwrap();
    release.forget_old(2);
    assert_eq!(
        states(&release),
        "f:verified e:verified c:shadow b:live a:retired"
    );
    // The newest has just come; somebody is about to do something with it.
    release.forget_old(0);
    assert_eq!(states(&release), "f:verified c:shadow b:live a:retired");
}

#[test]
fn what_has_just_come_stays_however_few_are_kept() {
    let mut release = release("ab");
    release.activate("p", &id('b')).unwrap();
    for digit in "cdef".chars() {
        release.stage(version(digit));
        release.forget_old(1);
        assert_eq!(states(&release), format!("{digit}:staged b:live a:retired"));
    }
    let error = release.activate("p", &id('c')).unwrap_err().to_string();
    assert!(
        error.contains("newer versions have taken its place"),
        "{error}"
    );
}

#[test]
fn a_file_that_was_taken_up_stays_so_when_its_version_is_forgotten() {
    let mut release = release("ab");
    release.file = Some(id('a'));
    assert!(release.has_taken(&id('a')) && !release.has_taken(&id('b')));
    for digit in ['b', 'c'] {
        release.stage(version(digit));
        release.checked(&id(digit), passed());
        release.activate("p", &id(digit)).unwrap();
    }
    release.forget_old(0);
    assert!(release.version(&id('a')).is_none() && release.has_taken(&id('a')));
    // One that could not serve may be tried again, whatever came after it.
    let failed = Check::Failed {
        code: String::new(),
        reason: String::new(),
    };
    release.stage(version('d'));
    release.checked(&id('d'), failed.clone());
    release.file = Some(id('d'));
    release.stage(version('e'));
    release.checked(&id('e'), failed);
    assert!(!release.has_taken(&id('d')));
}

#[test]
fn a_new_binary_brings_its_own_template() {
    let builtin = |digit| Version {
        source: Source::Builtin,
        check: passed(),
        ..version(digit)
    };
    let mut release = Release::default();
    release.carry(builtin('a'));
    assert_eq!(states(&release), "a:live");
    release.stage(version('x'));
    release.checked(&id('x'), passed());
    release.activate("p", &id('x')).unwrap();
    release.carry(builtin('b'));
    assert_eq!(states(&release), "x:live b:retired");
    assert_eq!(release.previous(), Some(id('b').as_str()));
    // Where it serves, the next one does.
    release.activate("p", &id('b')).unwrap();
    release.carry(builtin('c'));
    assert_eq!(states(&release), "x:retired c:live");
    assert_eq!(release.previous(), Some(id('x').as_str()));
}

#[test]
fn a_template_that_was_only_staged_serves_when_a_binary_brings_it() {
    let builtin = |digit| Version {
        source: Source::Builtin,
        check: passed(),
        ..version(digit)
    };
    let mut release = Release::default();
    release.carry(builtin('a'));
    release.stage(version('b'));
    release.carry(builtin('b'));
    assert_eq!(states(&release), "b:live");
    // One that was taken out of service serves again, where nothing else does.
    release.stage(version('x'));
    release.checked(&id('x'), passed());
    release.activate("p", &id('x')).unwrap();
    release.roll_back("p", None, None).unwrap();
    release.carry(builtin('x'));
    assert_eq!(states(&release), "x:live");
    assert_eq!(release.version(&id('x')).unwrap().withdrawn, None);
}

#[test]
fn releases_are_read_back_as_they_were_written() {
    let mut release = release("ab");
    release
        .try_out("p", &id('b'), TrialMode::Canary(5))
        .unwrap();
    let mut releases = Releases::default();
    releases.plugins.insert("p".to_owned(), release);
    let text = serde_json::to_string(&releases).unwrap();
    assert_eq!(serde_json::from_str::<Releases>(&text).unwrap(), releases);
}
