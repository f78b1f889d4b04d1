//! Plugins released like software: step by step, back again, and through the death of the server.

use std::{
    io::Write as _,
    net::TcpStream,
    process::Output,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use gapura_plugin_runtime::add_custom_section;
use gapura_test_guests as guests;
use serde_json::{Value, json};

use crate::process::{Process, TOKEN, complained, component, gapura, said, stream};

const CONFIG: &str = "[[routes]]\nname = 'chat'\n\
    plugins = [{ plugin = 'chatml' }, { plugin = 'mark' }]\n";

/// The guest that puts deltas into brackets, as one of many versions that do the same.
fn version(mark: &str) -> Vec<u8> {
    let mut component = guests::BRACKETS.to_vec();
    add_custom_section(&mut component, "mark", mark.as_bytes());
    component
}

fn cli(server: &Process, args: &[&str]) -> Output {
    gapura()
        .arg("plugin")
        .args(args)
        .args(["--server", &server.url, "--token", TOKEN])
        .output()
        .expect("the program starts")
}

/// The digest that serves, and the states of all versions, the newest first.
fn stand(server: &Process) -> (String, Vec<String>) {
    let (status, plugin) = server.admin("GET", "plugins/mark", None);
    assert_eq!(status, 200, "{plugin}");
    let versions = plugin["versions"].as_array().expect("a list");
    let states = versions
        .iter()
        .map(|version| version["state"].as_str().expect("a state").to_owned());
    let digest = plugin["digest"].as_str().expect("a digest").to_owned();
    (digest, states.collect())
}

#[test]
fn a_version_is_pushed_tried_activated_and_rolled_back() {
    let server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    let file = server.dir.path().join("next.wasm");
    std::fs::write(&file, version("next")).unwrap();
    let file = file.to_str().unwrap();

    let pushed = said(&cli(&server, &["push", "mark", file, "--until", "staged"]));
    assert!(pushed.contains("is staged: mark@"), "{pushed}");
    let error = complained(&cli(&server, &["activate", "mark"]));
    assert!(
        error.contains("409") && error.contains("verify it first"),
        "{error}"
    );
    let verified = said(&cli(&server, &["verify", "mark"]));
    assert!(
        verified.contains("verified") && verified.contains("live"),
        "{verified}"
    );
    let canary = said(&cli(&server, &["canary", "mark", "5"]));
    assert!(canary.contains("canary 5 %"), "{canary}");
    let status = said(&cli(&server, &["status"]));
    assert!(
        status.contains("canary 5 %") && status.contains("beside it"),
        "{status}"
    );
    let error = complained(&cli(&server, &["canary", "mark", "5", "c0ffee"]));
    assert!(
        error.contains("404") && error.contains("no version c0ffee"),
        "{error}"
    );
    said(&cli(&server, &["activate", "mark"]));
    assert_eq!(stand(&server).1, ["live", "retired"]);
    let back = said(&cli(&server, &["rollback", "mark"]));
    assert!(back.contains("retired"), "{back}");
    assert_eq!(stand(&server).1, ["retired", "live"]);
    let error = complained(&cli(&server, &["rollback", "mark"]));
    assert!(error.contains("no version to go back to"), "{error}");

    let history = said(&cli(&server, &["history", "mark", "--json"]));
    let outcomes: Vec<Value> = history
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["outcome"].clone())
        .collect();
    let expected = [
        "live",
        "retired",
        "live",
        "retired",
        "canary 5 %",
        "verified",
        "staged",
        "live",
    ];
    assert_eq!(outcomes, expected);
}

#[test]
fn what_a_golden_case_promises_is_kept_or_it_stays_staged() {
    let config = "[[routes]]\nname = 'chat'\n\
        plugins = [{ plugin = 'persona', settings = { persona = 'You are brief.' } }, \
                   { plugin = 'chatml' }]\n";
    let server = Process::start(config, &[("persona", &component("persona"))]);
    // Its own cases come along with it, and one of them is no longer true.
    let mut other = component("persona");
    let case = "a lie\n[request]\nmessages = [{ role = 'user', content = 'Halo' }]\n\
        [expect]\nverdict = 'refuse'\n";
    add_custom_section(&mut other, "gapura:case", case.as_bytes());
    let (status, answer) = server.push("persona", &other);
    assert_eq!(status, 422);
    assert_eq!(answer["error"]["code"], "golden_case");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("`a lie` does not hold"), "{message}");
    let (_, plugin) = server.admin("GET", "plugins/persona", None);
    assert_eq!(plugin["versions"][0]["state"], "staged");
    assert_eq!(plugin["state"], "live");
}

#[test]
fn an_import_without_a_grant_keeps_a_version_staged() {
    let config = "[[routes]]\nname = 'chat'\n\
        plugins = [{ plugin = 'chatml' }, { plugin = 'mark', grants = [] }]\n";
    let server = Process::start(config, &[("mark", guests::BRACKETS)]);
    let (status, answer) = server.push("mark", &component("answer-cache"));
    assert_eq!(status, 422);
    assert_eq!(answer["error"]["code"], "import_not_granted");
    let message = answer["error"]["message"].as_str().unwrap();
    let part = "route \"chat\" does not grant log to plugin mark@";
    assert!(message.contains(part), "{message}");
    assert_eq!(stand(&server).1, ["staged", "live"]);
    let (status, answer) = server.admin("POST", "plugins/mark/activate", None);
    assert_eq!(
        (status, &answer["error"]["code"]),
        (409, &json!("not_verified"))
    );
}

#[test]
fn moves_that_mean_nothing_are_refused_by_name() {
    let server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    let cases = [
        ("plugins/gone/activate", None, 404, "plugin_not_found"),
        ("plugins/mark/activate", None, 409, "no_candidate"),
        ("plugins/mark/canary", None, 400, ""),
        (
            "plugins/mark/canary",
            Some(json!({ "percent": 0 })),
            409,
            "no_candidate",
        ),
        (
            "plugins/mark/canary",
            Some(json!({ "percent": 1000 })),
            400,
            "invalid_percent",
        ),
        (
            "plugins/mark/canary",
            Some(json!({ "percent": 2.5 })),
            400,
            "invalid_percent",
        ),
        (
            "plugins/mark/shadow",
            Some(json!({ "percent": 5 })),
            400,
            "",
        ),
        (
            "plugins/mark/shadow",
            Some(json!({ "digits": "5" })),
            400,
            "",
        ),
        (
            "plugins/mark/activate",
            Some(json!({ "digest": "abc" })),
            404,
            "version_not_found",
        ),
        (
            "plugins/mark/rollback",
            Some(json!({ "digest": "abcdef" })),
            400,
            "",
        ),
        ("plugins/mark/promote", None, 404, "unknown_endpoint"),
    ];
    let before = stand(&server);
    for (path, body, status, code) in cases {
        let (found, answer) = server.admin("POST", path, body.as_ref());
        assert_eq!(found, status, "{path} {body:?}: {answer}");
        if !code.is_empty() {
            assert_eq!(answer["error"]["code"], code, "{path} {body:?}");
        }
        if code == "invalid_percent" {
            assert_eq!(answer["error"]["param"], "percent");
        }
        assert_eq!(stand(&server), before);
    }
    let (status, answer) = server.admin("PUT", "plugins/mark?until=soon", None);
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("until")));
}

#[test]
fn an_upload_that_is_cut_off_changes_nothing() {
    let server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    let before = stand(&server);
    let address = server.url.strip_prefix("http://").unwrap();
    for sent in [0, 1, 1000, guests::BRACKETS.len() - 1] {
        let mut connection = TcpStream::connect(address).unwrap();
        write!(
            connection,
            "PUT /admin/v1/plugins/mark HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
             content-length: {}\r\n\r\n",
            guests::BRACKETS.len()
        )
        .unwrap();
        connection.write_all(&version("cut")[..sent]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(stand(&server), before);
    assert_eq!(server.push("mark", &version("whole")).0, 201);
}

/// Two versions are pushed in turn while the server is killed at a random moment, again and
/// again: what serves then is what was last acknowledged, or what was being pushed.
#[test]
fn a_server_that_is_killed_comes_back_with_a_committed_state() {
    const KILLS: u64 = 20;
    let mut server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    let mut count = 0;
    let mut interrupted = 0;
    let mut served = stand(&server).0;
    let mut sequence = 0;
    for kill in 0..KILLS {
        let stop = AtomicBool::new(false);
        let mut attempted = served.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Spread over the time that a push takes.
                std::thread::sleep(Duration::from_micros(40_000 + kill * 3_700));
                server.signal("KILL");
                stop.store(true, Relaxed);
            });
            while !stop.load(Relaxed) {
                count += 1;
                let component = version(&count.to_string());
                let url = format!("{}/admin/v1/plugins/mark", server.url);
                let pushed = Process::agent()
                    .put(&url)
                    .header("authorization", format!("Bearer {TOKEN}"))
                    .send(&component);
                let digest = gapura::config::Digest::of(&component).to_hex();
                attempted.clone_from(&digest);
                match pushed {
                    Ok(answer) if answer.status() == 201 => served = digest,
                    _ => {
                        interrupted += 1;
                        break;
                    }
                }
            }
        });
        server = server.killed_and_started_again();
        let (live, states) = stand(&server);
        assert!(
            live == served || live == attempted,
            "{live} serves; {served} was acknowledged, {attempted} under way"
        );
        served = live;
        let live = states.iter().filter(|state| *state == "live");
        assert_eq!(live.count(), 1, "{states:?}");
        let (_, history) = server.admin("GET", "history", None);
        let newest = history["history"][0]["sequence"].as_u64().unwrap();
        assert!(newest >= sequence);
        sequence = newest;
        stream(&Process::agent(), &server.url, "Halo").unwrap();
    }
    assert!(interrupted > 0, "no push was interrupted in {KILLS} kills");
}

#[test]
fn one_folder_of_versions_serves_one_server() {
    let server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    let second = gapura()
        .args([
            "serve",
            "--model",
            "sim",
            "--listen",
            "localhost:0",
            "--config",
        ])
        .arg(server.dir.path().join("gapura.toml"))
        .arg("--plugin-dir")
        .arg(server.dir.path().join("plugins"))
        .output()
        .unwrap();
    let error = complained(&second);
    assert!(
        error.contains("belongs to another server") && error.contains("releases_dir"),
        "{error}"
    );
    // Who only checks may, meanwhile.
    let checked = gapura()
        .args(["check", "--config"])
        .arg(server.dir.path().join("gapura.toml"))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&checked.stderr).contains("mark"));
}
