//! Routes that bind only signed components, with keys and signatures made by the program itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use gapura_plugin_runtime::add_custom_section;
use gapura_test_guests as guests;

use crate::process::{Process, TOKEN, complained, gapura, run, said, stream};

/// One version of a guest that does the same in all of them.
fn version(mark: &str) -> Vec<u8> {
    let mut component = guests::BRACKETS.to_vec();
    add_custom_section(&mut component, "mark", mark.as_bytes());
    component
}

/// The path as an argument.
fn arg(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// A pair of keys: the private one's file, the public one, and the lines for the configuration.
struct Key {
    file: PathBuf,
    public: String,
    toml: String,
}

impl Key {
    fn new(dir: &Path, name: &str) -> Self {
        let file = dir.join(format!("{name}.key"));
        let printed = said(&run(&[
            "key",
            "new",
            "--signing",
            arg(&file),
            "--name",
            name,
        ]));
        let (_, toml) = printed
            .split_once("\n\n")
            .expect("lines for the configuration");
        let (_, public) = toml.split_once("public_key = ").expect("a public key");
        Self {
            file,
            public: public.trim().trim_matches('"').to_owned(),
            toml: toml.to_owned(),
        }
    }

    /// Writes `component` to `file` and signs it.
    fn sign(&self, file: &Path, component: &[u8]) -> String {
        fs::write(file, component).expect("room in the temporary folder");
        let signed = run(&["plugin", "sign", arg(file), "--key", arg(&self.file)]);
        said(&signed);
        let signature = fs::read_to_string(format!("{}.sig", file.display()));
        signature.expect("a signature").trim_end().to_owned()
    }
}

/// `PUT` with a signature in the header: status and body.
fn push(server: &Process, component: &[u8], signature: &str) -> (u16, serde_json::Value) {
    let mut response = Process::agent()
        .put(format!("{}/admin/v1/plugins/mark", server.url))
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("x-gapura-signature", signature)
        .send(component)
        .expect("the server answers");
    let body = response.body_mut().read_json().expect("an answer is JSON");
    (response.status().as_u16(), body)
}

fn live(server: &Process) -> String {
    let (status, plugin) = server.admin("GET", "plugins/mark", None);
    assert_eq!(status, 200, "{plugin}");
    plugin["digest"].as_str().expect("a digest").to_owned()
}

fn digest(file: &Path) -> String {
    let inspected = said(&run(&["plugin", "inspect", "--json", arg(file)]));
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    inspected["digest"].as_str().expect("a digest").to_owned()
}

#[test]
fn only_signed_components_go_live_and_the_live_one_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let (release, foreign) = (
        Key::new(dir.path(), "release"),
        Key::new(dir.path(), "foreign"),
    );
    let first = dir.path().join("first.wasm");
    let signature = release.sign(&first, &version("first"));
    let config = format!(
        "[[routes]]\nname = 'chat'\nrequire_signature = ['release']\n\
         plugins = [{{ plugin = 'chatml' }}, {{ plugin = 'mark' }}]\n{}",
        release.toml
    );
    // Beside the component in the plugin folder, from the start.
    let server = Process::start_with(&config, &[("mark", &version("first"))], |command| {
        let folder = command
            .get_args()
            .skip_while(|arg| *arg != "--plugin-dir")
            .nth(1)
            .expect("a plugin folder");
        let sig = Path::new(folder).join("mark.wasm.sig");
        fs::write(sig, format!("{signature}\n")).expect("room in the plugin folder");
    });
    let before = live(&server);
    assert_eq!(before, digest(&first));

    let next = dir.path().join("next.wasm");
    let right = release.sign(&next, &version("next"));
    let by_foreign = foreign.sign(&dir.path().join("other.wasm"), &version("next"));
    let check = |(status, answer): (u16, serde_json::Value), code: &str| {
        assert_eq!(status, 422, "{answer}");
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert_eq!(live(&server), before);
        let answer = stream(&Process::agent(), &server.url, "halo").expect("an answer");
        assert!(answer.starts_with('['), "{answer}");
    };
    check(server.push("mark", &version("next")), "signature_missing");
    let next_version = version("next");
    for (signature, code) in [
        (signature.as_str(), "signature_invalid"),
        (&right[..right.len() - 8], "signature_invalid"),
        (&right.to_uppercase(), "signature_invalid"),
        ("", "signature_invalid"),
        (by_foreign.as_str(), "signature_untrusted"),
    ] {
        check(push(&server, &next_version, signature), code);
    }
    let (_, answer) = push(&server, &next_version, &by_foreign);
    let message = answer["error"]["message"].as_str().expect("a message");
    for part in [
        "`chat`",
        "`mark`",
        &digest(&next),
        "release",
        &foreign.public,
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }

    // The program sends what lies beside the file.
    let pushed = run(&[
        "plugin",
        "push",
        "mark",
        arg(&next),
        "--server",
        &server.url,
        "--token",
        TOKEN,
    ]);
    assert!(said(&pushed).contains("is live: serving chat"));
    assert_eq!(live(&server), digest(&next));
    let status = run(&[
        "plugin",
        "status",
        "mark",
        "--server",
        &server.url,
        "--token",
        TOKEN,
    ]);
    assert!(said(&status).contains("release"));
}

#[test]
fn a_key_that_is_revoked_leaves_the_old_configuration_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Key::new(dir.path(), "old"), Key::new(dir.path(), "new"));
    let config = |keys: &[&Key]| {
        let keys: String = keys.iter().map(|key| key.toml.as_str()).collect();
        format!(
            "[[routes]]\nname = 'chat'\nrequire_signature = true\n\
             plugins = [{{ plugin = 'chatml' }}]\n{keys}"
        )
    };
    let server = Process::start(&config(&[&old]), &[]);
    let file = dir.path().join("mark.wasm");
    let signature = old.sign(&file, &version("one"));
    let (status, answer) = push(&server, &version("one"), &signature);
    assert_eq!(status, 201, "{answer}");
    let bound = |keys: &[&Key]| {
        let toml = config(keys).replace(
            "{ plugin = 'chatml' }",
            "{ plugin = 'chatml' }, { plugin = 'mark' }",
        );
        fs::write(server.dir.path().join("gapura.toml"), toml).expect("a configuration");
        server.admin("POST", "reload", None)
    };
    let (status, answer) = bound(&[&old]);
    assert_eq!(status, 200, "{answer}");
    let (status, answer) = bound(&[&new]);
    assert_eq!(
        (status, answer["error"]["code"].as_str()),
        (422, Some("signature_untrusted"))
    );
    assert!(stream(&Process::agent(), &server.url, "halo").is_ok());
    let signature = new.sign(&file, &version("one"));
    assert_eq!(push(&server, &version("one"), &signature).0, 201);
    let (status, answer) = bound(&[&new]);
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn a_pinned_binding_takes_its_component_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pinned.wasm");
    fs::write(&file, version("pinned")).unwrap();
    let config = format!(
        "[[routes]]\nname = 'chat'\nplugins = [{{ plugin = 'chatml' }}, \
         {{ plugin = 'mark', digest = 'sha256:{}' }}]\n",
        digest(&file)
    );
    let server = Process::start(&config, &[("mark", &version("pinned"))]);
    let before = live(&server);
    let (status, answer) = server.push("mark", &version("other"));
    let code = answer["error"]["code"].as_str();
    assert_eq!((status, code), (422, Some("digest_mismatch")));
    assert_eq!(live(&server), before);
    let in_file = server.dir.path().join("check.toml");
    fs::write(&in_file, format!("[plugins]\ndir = 'plugins'\n{config}")).unwrap();
    let checked = said(&run(&["check", "--config", arg(&in_file)]));
    assert!(
        checked.contains("mark: grants needed: none; pinned"),
        "{checked}"
    );
}

#[test]
fn a_key_is_secret_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let key = Key::new(dir.path(), "release");
    let pem = fs::read_to_string(&key.file).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(&key.file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let error = complained(&run(&["key", "new", "--signing", arg(&key.file)]));
    assert!(
        error.contains("is there already; a key is never overwritten"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&key.file).unwrap(), pem);
    let file = dir.path().join("mark.wasm");
    fs::write(&file, version("one")).unwrap();
    fs::write(&key.file, "ed25519:no").unwrap();
    let error = complained(&run(&[
        "plugin",
        "sign",
        arg(&file),
        "--key",
        arg(&key.file),
    ]));
    assert!(error.contains("not a private ed25519 key"), "{error}");
    assert!(!dir.path().join("mark.wasm.sig").exists());
}

#[test]
fn inspect_says_whose_a_component_is() {
    let dir = tempfile::tempdir().unwrap();
    let (mine, other) = (Key::new(dir.path(), "mine"), Key::new(dir.path(), "other"));
    let file = dir.path().join("mark.wasm");
    fs::write(&file, version("one")).unwrap();
    let inspect = |trust: &[&str]| {
        let mut command = gapura();
        command.args(["plugin", "inspect"]).arg(&file);
        for key in trust {
            command.args(["--trust", key]);
        }
        command.output().expect("the program starts")
    };
    assert!(said(&inspect(&[])).ends_with("signature none\n"));
    let error = complained(&inspect(&[&mine.public]));
    assert!(
        error.contains("is not signed by a key that --trust names"),
        "{error}"
    );

    mine.sign(&file, &version("one"));
    let unknown = said(&inspect(&[]));
    assert!(
        unknown.ends_with(&format!("signature unknown: by {}\n", mine.public)),
        "{unknown}"
    );
    let valid = said(&inspect(&[&other.public, &mine.public]));
    assert!(
        valid.ends_with(&format!("signature valid: by {}\n", mine.public)),
        "{valid}"
    );
    complained(&inspect(&[&other.public]));

    // By the keys of a configuration, which has a name for each and demands none.
    let config = dir.path().join("gapura.toml");
    let by_config = |key: &Key, trust: &[&str]| {
        fs::write(&config, &key.toml).expect("room in the temporary folder");
        let command = ["plugin", "inspect", arg(&file), "--config", arg(&config)];
        run(&[&command[..], trust].concat())
    };
    let named = said(&by_config(&mine, &[]));
    let expected = format!("signature valid: by mine ({})\n", mine.public);
    assert!(named.ends_with(&expected), "{named}");
    let unknown = said(&by_config(&other, &[]));
    assert!(unknown.contains("signature unknown: by "), "{unknown}");
    complained(&by_config(&mine, &["--trust", &other.public]));

    fs::write(&file, version("another")).unwrap();
    let invalid = said(&inspect(&[]));
    assert!(
        invalid.contains("signature invalid: the signature by ed25519:"),
        "{invalid}"
    );
    let json = said(&run(&["plugin", "inspect", "--json", arg(&file)]));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["signature"]["status"], "invalid");
}
