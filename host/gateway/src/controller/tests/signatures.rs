//! Routes that are particular about whose components they bind, and which.

use super::*;
use crate::signing::SigningKey;

/// `chatml` is the binary's own until something else is pushed.
const CONFIG: &str = "[plugins]\ndir = 'plugins'\n\
    [[routes]]\nname = 'one'\nplugins = [{ plugin = 'chatml' }]\n";

/// A template that is not part of the binary.
fn gemma() -> Vec<u8> {
    marked(GEMMA, "ours")
}

fn key() -> SigningKey {
    SigningKey::generate().unwrap()
}

/// [`CONFIG`], whose route takes what one of `keys` has signed; they are called k0, k1 and so on.
fn demanding(keys: &[&SigningKey]) -> String {
    let keys = keys.iter().enumerate().map(|(index, key)| {
        let public = key.public();
        format!("[[plugins.trusted_keys]]\nname = 'k{index}'\npublic_key = '{public}'\n")
    });
    format!(
        "{CONFIG}require_signature = true\n{}",
        keys.collect::<String>()
    )
}

fn signed(key: &SigningKey, component: &[u8]) -> String {
    key.sign(Digest::of(component)).to_string()
}

fn push(
    controller: &Controller,
    component: &[u8],
    signature: Option<&str>,
) -> Result<PluginStatus, &'static str> {
    let pushed = controller.push_signed("chatml", component, signature, Until::Live);
    pushed.map_err(|error| error.code())
}

fn reload(controller: &Arc<Controller>, dir: &Path, toml: &str) -> Result<(), ControlError> {
    fs::write(dir.join("gapura.toml"), toml).unwrap();
    controller.reload(Origin::Signal)
}

#[test]
fn only_what_a_trusted_key_has_signed_serves() {
    let dir = tempfile::tempdir().unwrap();
    let (mine, foreign) = (key(), key());
    let toml = demanding(&[&mine]);
    // The binary's own template needs no signature.
    let controller = start(dir.path(), &toml).unwrap();
    let before = label(&controller, "one");
    let cases = [
        (None, "signature_missing"),
        (Some(String::new()), "signature_invalid"),
        (Some(signed(&mine, CHATML)), "signature_invalid"),
        (Some(signed(&foreign, &gemma())), "signature_untrusted"),
    ];
    for (signature, code) in cases {
        let refused = push(&controller, &gemma(), signature.as_deref());
        assert_eq!(refused, Err(code), "{signature:?}");
        assert_eq!(label(&controller, "one"), before);
        let status = controller.plugin("chatml").unwrap();
        assert_eq!(states(&status), ["staged", "live"]);
        assert_eq!(status.refused.unwrap().code, code);
    }
    let status = push(&controller, &gemma(), Some(&signed(&mine, &gemma()))).unwrap();
    assert_eq!(states(&status), ["live", "retired"]);
    let foreign = foreign.public().to_string();
    assert_eq!(status.versions[0].signed_by, [foreign.as_str(), "k0"]);
    let route = &controller.route_statuses()[0];
    assert_eq!(route.signers.as_deref(), Some(&["k0".to_owned()][..]));
    assert_eq!(route.plugins[0].signed_by.as_deref(), Some("k0"));

    // A broken signature of what is live takes nothing away.
    let again = push(&controller, &gemma(), Some("broken"));
    assert_eq!(again, Err("signature_invalid"));
    let live = label(&controller, "one");
    drop(controller);
    let controller = start(dir.path(), &toml).unwrap();
    assert_eq!(label(&controller, "one"), live);
}

#[test]
fn a_refusal_names_route_plugin_digest_and_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (mine, foreign) = (key(), key());
    let controller = start(dir.path(), &demanding(&[&mine, &key()])).unwrap();
    let signature = signed(&foreign, &gemma());
    let error = controller
        .push_signed("chatml", &gemma(), Some(&signature), Until::Live)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "route `one` binds only plugins signed by k0 or k1; `chatml` ({}) cannot serve there: \
             it is signed by {}, which is none of these",
            Digest::of(&gemma()),
            foreign.public()
        )
    );
}

#[test]
fn a_component_without_its_signature_may_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mine = key();
    let controller = start(dir.path(), &demanding(&[&mine])).unwrap();
    let staged = controller.push("chatml", &gemma(), Until::Staged).unwrap();
    assert_eq!(states(&staged), ["staged", "live"]);
    let refused = controller.verify("chatml", None).unwrap_err();
    assert_eq!(refused.code(), "signature_missing");
    push(&controller, &gemma(), Some(&signed(&mine, &gemma()))).unwrap();
}

#[test]
fn keys_are_rotated_and_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (key(), key());
    let controller = start(dir.path(), &demanding(&[&old])).unwrap();
    push(&controller, &gemma(), Some(&signed(&old, &gemma()))).unwrap();
    let live = label(&controller, "one");

    // The new key alone would leave the live version without a signature that counts.
    let revoked = demanding(&[&new]);
    let error = reload(&controller, dir.path(), &revoked).unwrap_err();
    assert_eq!(error.code(), "signature_untrusted");
    assert!(
        error.to_string().contains(&old.public().to_string()),
        "{error}"
    );
    assert_eq!(label(&controller, "one"), live);
    assert_eq!(
        controller.route_statuses()[0].plugins[0]
            .signed_by
            .as_deref(),
        Some("k0")
    );

    // Signed by both, it outlives the old one, also through a restart.
    push(&controller, &gemma(), Some(&signed(&new, &gemma()))).unwrap();
    let newest = &controller.history()[0];
    assert_eq!(
        (newest.outcome.as_str(), newest.origin),
        ("signed", Origin::Admin)
    );
    reload(&controller, dir.path(), &revoked).unwrap();
    assert_eq!(label(&controller, "one"), live);
    drop(controller);
    let controller = start(dir.path(), &revoked).unwrap();
    assert_eq!(label(&controller, "one"), live);

    // Nobody whom the configuration trusts has signed what is live: the server does not start.
    drop(controller);
    let error = start(dir.path(), &demanding(&[&key()]))
        .map(drop)
        .unwrap_err();
    assert_eq!(error.code(), "signature_untrusted");
}

#[test]
fn there_is_no_way_back_to_what_is_not_signed() {
    let dir = tempfile::tempdir().unwrap();
    let mine = key();
    let controller = start(dir.path(), CONFIG).unwrap();
    push(&controller, &marked(CHATML, "unsigned"), None).unwrap();
    push(&controller, &gemma(), Some(&signed(&mine, &gemma()))).unwrap();
    reload(&controller, dir.path(), &demanding(&[&mine])).unwrap();
    let live = label(&controller, "one");
    let error = controller.roll_back("chatml", Origin::Admin, None, None);
    assert_eq!(error.unwrap_err().code(), "signature_missing");
    assert_eq!(label(&controller, "one"), live);
    let unsigned = Digest::of(&marked(CHATML, "unsigned")).to_hex();
    let error = controller.activate("chatml", Some(&unsigned));
    assert_eq!(error.unwrap_err().code(), "signature_missing");
    let error = controller.try_out("chatml", Some(&unsigned), TrialMode::Shadow);
    assert_eq!(error.unwrap_err().code(), "signature_missing");
    assert_eq!(label(&controller, "one"), live);
}

#[test]
fn a_pin_takes_the_components_that_it_lists() {
    let dir = tempfile::tempdir().unwrap();
    let pinned = |digests: &[&[u8]]| {
        let digests = digests
            .iter()
            .map(|bytes| format!("'{}'", Digest::of(bytes)));
        let list = digests.collect::<Vec<_>>().join(", ");
        CONFIG.replace("'chatml' }", &format!("'chatml', digest = [{list}] }}"))
    };
    let controller = start(dir.path(), &pinned(&[CHATML])).unwrap();
    let before = label(&controller, "one");
    let error = controller
        .push("chatml", &gemma(), Until::Live)
        .unwrap_err();
    assert_eq!(error.code(), "digest_mismatch");
    let (had, is) = (Digest::of(CHATML), Digest::of(&gemma()));
    assert_eq!(
        error.to_string(),
        format!(
            "route `one` pins `chatml` to {had}; {is} cannot serve there until its `digest` lists it"
        )
    );
    assert_eq!(label(&controller, "one"), before);
    let error = reload(&controller, dir.path(), &pinned(&[&gemma()])).unwrap_err();
    assert_eq!(error.code(), "digest_mismatch");

    reload(&controller, dir.path(), &pinned(&[CHATML, &gemma()])).unwrap();
    controller.push("chatml", &gemma(), Until::Live).unwrap();
    reload(&controller, dir.path(), &pinned(&[&gemma()])).unwrap();
    assert_ne!(label(&controller, "one"), before);
    assert!(controller.route_statuses()[0].plugins[0].is_pinned);
    let error = controller.roll_back("chatml", Origin::Admin, None, None);
    assert_eq!(error.unwrap_err().code(), "digest_mismatch");
}

#[test]
fn a_file_serves_once_its_signature_is_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let mine = key();
    let controller = start(dir.path(), &demanding(&[&mine])).unwrap();
    let _watch = Watch::start(&controller).unwrap();
    let folder = dir.path().join("plugins");
    let refused = |code: &str| {
        let refused = controller.plugin("chatml").unwrap().refused;
        refused.is_some_and(|refused| refused.code == code)
    };
    fs::write(folder.join("chatml.wasm"), gemma()).unwrap();
    wait_until(|| refused("signature_missing"));
    let sig = folder.join("chatml.wasm.sig");
    fs::write(&sig, signed(&mine, CHATML)).unwrap();
    wait_until(|| refused("signature_invalid"));
    fs::write(&sig, format!("{}\n", signed(&mine, &gemma()))).unwrap();
    let digest = Digest::of(&gemma()).to_hex();
    wait_until(|| controller.plugin("chatml").unwrap().digest == digest);

    // What was rolled back does not come back for being signed once more.
    controller
        .roll_back("chatml", Origin::Admin, None, None)
        .unwrap();
    fs::write(&sig, signed(&key(), &gemma())).unwrap();
    wait_until(|| controller.history()[0].outcome == "signed");
    let status = controller.plugin("chatml").unwrap();
    assert_eq!(states(&status), ["retired", "live"]);
    assert_eq!(status.versions[0].signed_by.len(), 2);
}

#[test]
fn a_file_that_is_not_signed_keeps_no_server_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let mine = key();
    let toml = demanding(&[&mine]);
    fs::create_dir(dir.path().join("plugins")).unwrap();
    let file = dir.path().join("plugins/chatml.wasm");
    fs::write(&file, gemma()).unwrap();
    // The binary's own template needs no signature, and serves on.
    let builtin = start(dir.path(), &toml).unwrap();
    let refused = builtin.plugin("chatml").unwrap().refused.unwrap();
    assert_eq!(refused.code, "signature_missing");
    assert_eq!(
        builtin.plugin("chatml").unwrap().digest,
        Digest::of(CHATML).to_hex()
    );
    drop(builtin);
    let sig = dir.path().join("plugins/chatml.wasm.sig");
    fs::write(&sig, signed(&mine, &gemma())).unwrap();
    let live = label(&start(dir.path(), &toml).unwrap(), "one");

    let next = marked(GEMMA, "next");
    fs::write(&file, &next).unwrap();
    for (signature, code) in [
        (signed(&mine, &gemma()), "signature_invalid"),
        (signed(&key(), &next), "signature_untrusted"),
    ] {
        fs::write(&sig, signature).unwrap();
        let controller = start(dir.path(), &toml).unwrap();
        assert_eq!(label(&controller, "one"), live);
        let refused = controller.plugin("chatml").unwrap().refused.unwrap();
        assert_eq!(refused.digest, Digest::of(&next).to_hex());
        assert_eq!(refused.code, code);
    }
    fs::write(&sig, signed(&mine, &next)).unwrap();
    assert_ne!(label(&start(dir.path(), &toml).unwrap(), "one"), live);

    // The file is taken up; a key that is new signs it while the server is down.
    let new = key();
    fs::write(&sig, signed(&new, &next)).unwrap();
    let controller = start(dir.path(), &demanding(&[&new])).unwrap();
    let newest = &controller.history()[0];
    assert_eq!(
        (newest.outcome.as_str(), newest.origin),
        ("signed", Origin::File)
    );
    assert_eq!(newest.digest, Some(Digest::of(&next).to_hex()));
}
