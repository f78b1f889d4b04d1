//! What comes into the plugin folder, while a server runs and while none does.

use super::*;

/// Puts `bytes` into the folder as `name`.
fn put(dir: &Path, name: &str, bytes: &[u8]) {
    let folder = dir.join("plugins");
    fs::create_dir_all(&folder).expect("room in the temporary folder");
    fs::write(folder.join(name), bytes).expect("room in the temporary folder");
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
fn what_was_rolled_back_stays_so_though_its_file_is_still_there() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("plugins")).unwrap();
    fs::write(dir.path().join("plugins/chatml.wasm"), GEMMA).unwrap();
    let digest = |controller: &Controller| controller.plugin("chatml").unwrap().digest;
    {
        let controller = start(dir.path(), ROUTES).unwrap();
        assert_eq!(digest(&controller), Digest::of(GEMMA).to_hex());
        controller
            .roll_back("chatml", Origin::Admin, None, None)
            .unwrap();
        controller.file_changed("chatml").unwrap();
        assert_eq!(digest(&controller), Digest::of(CHATML).to_hex());
    }
    let controller = start(dir.path(), ROUTES).unwrap();
    assert_eq!(digest(&controller), Digest::of(CHATML).to_hex());
    // Another file is a change, also one that came while the server was down.
    drop(controller);
    fs::write(dir.path().join("plugins/chatml.wasm"), marked(GEMMA, "x")).unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    assert_eq!(
        digest(&controller),
        Digest::of(&marked(GEMMA, "x")).to_hex()
    );
}

#[test]
fn a_file_that_broke_while_the_server_ran_keeps_it_from_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("plugins")).unwrap();
    fs::write(dir.path().join("plugins/chatml.wasm"), GEMMA).unwrap();
    drop(start(dir.path(), ROUTES).unwrap());
    fs::write(dir.path().join("plugins/chatml.wasm"), b"broken").unwrap();
    for _ in 0..2 {
        let controller = start(dir.path(), ROUTES).unwrap();
        let status = controller.plugin("chatml").unwrap();
        assert_eq!(states(&status), ["staged", "live", "retired"]);
        assert_eq!(status.refused.unwrap().code, "not_wasm");
    }
}

#[test]
fn a_file_that_no_route_needs_may_be_broken_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "odd.wasm", b"broken");
    let controller = start(dir.path(), ROUTES).unwrap();
    let refused = controller.plugin("odd").unwrap().refused.unwrap();
    assert_eq!(refused.code, "not_wasm");
    assert_eq!(outcomes(&controller), ["staged", "refused"]);
    drop(controller);
    // One that a route needs, and nothing stands in for.
    let toml = ROUTES.replace("'gemma-chat'", "'odd'");
    let error = start(dir.path(), &toml).map(drop).unwrap_err();
    assert_eq!(error.code(), "not_wasm");
}

#[test]
fn a_broken_file_called_like_a_built_in_plugin_leaves_that_serving() {
    let dir = tempfile::tempdir().unwrap();
    for (file, code) in [
        (b"broken".to_vec(), "not_wasm"),
        (broken_promise(CHATML), "golden_case"),
    ] {
        put(dir.path(), "chatml.wasm", &file);
        let controller = start(dir.path(), ROUTES).unwrap();
        let status = controller.plugin("chatml").unwrap();
        assert_eq!(status.digest, Digest::of(CHATML).to_hex());
        assert_eq!(status.refused.unwrap().code, code);
    }
}

#[test]
fn a_file_that_its_routes_would_not_bind_is_refused_at_every_start() {
    let dir = tempfile::tempdir().unwrap();
    let pin = format!("'chatml', digest = '{}'", Digest::of(CHATML));
    let toml = ROUTES.replacen("'chatml'", &pin, 1);
    put(dir.path(), "chatml.wasm", GEMMA);
    for _ in 0..2 {
        let controller = start(dir.path(), &toml).unwrap();
        let status = controller.plugin("chatml").unwrap();
        assert_eq!(status.digest, Digest::of(CHATML).to_hex());
        assert_eq!(status.refused.unwrap().code, "digest_mismatch");
        // Said once.
        assert_eq!(outcomes(&controller), ["staged", "refused"]);
    }
    // Once they would, it serves.
    let controller = start(dir.path(), ROUTES).unwrap();
    let status = controller.plugin("chatml").unwrap();
    assert_eq!(status.digest, Digest::of(GEMMA).to_hex());
}

#[test]
fn files_that_only_the_new_configuration_binds_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("chatml", marked(CHATML, "new")),
        ("gemma-chat", marked(GEMMA, "new")),
    ];
    drop(start(dir.path(), ROUTES).unwrap());
    let mut toml = ROUTES.to_owned();
    for (name, bytes) in &files {
        put(dir.path(), &format!("{name}.wasm"), bytes);
        let pin = format!("'{name}', digest = '{}'", Digest::of(bytes));
        toml = toml.replace(&format!("'{name}'"), &pin);
    }
    // What served before would not do any more.
    let controller = start(dir.path(), &toml).unwrap();
    for (name, bytes) in &files {
        let status = controller.plugin(name).unwrap();
        assert_eq!(status.digest, Digest::of(bytes).to_hex());
    }
    // A bad one beside them spoils nothing.
    drop(controller);
    put(dir.path(), "chatml.wasm", b"broken");
    let next = marked(GEMMA, "next");
    put(dir.path(), "gemma-chat.wasm", &next);
    let toml = toml.replace(
        &Digest::of(&files[1].1).to_string(),
        &Digest::of(&next).to_string(),
    );
    let controller = start(dir.path(), &toml).unwrap();
    assert_eq!(
        controller.plugin("gemma-chat").unwrap().digest,
        Digest::of(&next).to_hex()
    );
    assert_eq!(
        controller.plugin("chatml").unwrap().digest,
        Digest::of(&files[0].1).to_hex()
    );
}

#[test]
fn what_is_taken_at_the_start_is_noted_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "chatml.wasm", GEMMA);
    let controller = start(dir.path(), ROUTES).unwrap();
    let history = controller.history();
    let lines: Vec<_> = history
        .iter()
        .rev()
        .map(|change| (change.outcome.as_str(), change.digest.clone()))
        .collect();
    let (file, builtin) = (Digest::of(GEMMA).to_hex(), Digest::of(CHATML).to_hex());
    assert_eq!(
        lines,
        [
            ("staged", Some(file.clone())),
            ("verified", Some(file.clone())),
            ("retired", Some(builtin)),
            ("live", Some(file)),
        ]
    );
    assert!(history.iter().all(|change| change.origin == Origin::File));
    let text = controller
        .metrics
        .scrape(&crate::telemetry::EngineGauges::default());
    for state in ["staged", "verified", "retired", "live"] {
        let sample = format!(
            "gapura_plugin_transitions_total{{origin=\"file\",plugin=\"chatml\",state=\"{state}\"}} 1"
        );
        assert!(text.contains(&sample), "{text}");
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_plugin_though_it_is_called_like_one_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "chatml.wasm", GEMMA);
    let folder = dir.path().join("plugins");
    fs::create_dir(folder.join("folder.wasm")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.join("link.wasm")).unwrap();
    // A signature that cannot be read; who put it there means it.
    fs::create_dir(folder.join("chatml.wasm.sig")).unwrap();
    fs::write(folder.join("NOT A NAME.wasm"), GEMMA).unwrap();
    fs::write(folder.join("template.wasm"), GEMMA).unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    let names: Vec<_> = controller.plugins().into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["chatml", "gemma-chat"]);
    let digest = |controller: &Controller| controller.plugin("chatml").unwrap().digest;
    assert_eq!(digest(&controller), Digest::of(CHATML).to_hex());
    let error = controller.file_changed("chatml").unwrap_err();
    assert!(error.to_string().contains("chatml.wasm.sig"), "{error}");
    drop(controller);
    fs::remove_dir(folder.join("chatml.wasm.sig")).unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    assert_eq!(digest(&controller), Digest::of(GEMMA).to_hex());
}

#[test]
fn a_file_mends_the_component_that_was_taken_from_it() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "chatml.wasm", GEMMA);
    drop(start(dir.path(), ROUTES).unwrap());
    let kept = dir.path().join(format!(
        "plugins/.releases/artefacts/sha256-{}.wasm",
        Digest::of(GEMMA).to_hex()
    ));
    fs::write(&kept, b"damaged").unwrap();
    let controller = start(dir.path(), ROUTES).unwrap();
    assert_eq!(
        controller.plugin("chatml").unwrap().digest,
        Digest::of(GEMMA).to_hex()
    );
    assert_eq!(fs::read(&kept).unwrap(), GEMMA);
}
