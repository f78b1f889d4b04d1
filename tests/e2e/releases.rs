//! Plugins released like software: step by step, and back again.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::Output,
    time::Duration,
};

use gapura::config::Digest;
use gapura_plugin_runtime::add_custom_section;
use gapura_test_guests as guests;
use serde_json::{Value, json};

use crate::process::{Process, TOKEN, complained, component, gapura, said};
use crate::versions::{stand, version};

const CONFIG: &str = "[[routes]]\nname = 'chat'\n\
    plugins = [{ plugin = 'chatml' }, { plugin = 'mark' }]\n";

fn cli(server: &Process, args: &[&str]) -> Output {
    gapura()
        .arg("plugin")
        .args(args)
        .args(["--server", &server.url, "--token", TOKEN])
        .output()
        .expect("the program starts")
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
    let shadow = said(&cli(&server, &["shadow", "mark"]));
    assert!(
        shadow.contains("shadow") && shadow.contains("live"),
        "{shadow}"
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
        "shadow",
        "verified",
        "staged",
        "live",
        "verified",
        "staged",
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
            400,
            "invalid_percent",
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
fn a_move_that_is_wrong_names_its_field() {
    let server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    for (body, param, part) in [
        (json!({ "percent": 0 }), "percent", "percent is 0"),
        (json!({ "percent": 101 }), "percent", "percent is 101"),
        (json!({ "percent": 1000 }), "percent", "1 to 100"),
        (json!({ "percent": -1 }), "percent", "`percent` is -1"),
        (json!({ "percent": "5" }), "percent", "a whole number"),
        (json!({ "digest": 5 }), "digest", "digits in quotes"),
        (json!({ "digits": "5" }), "digits", "no field of a move"),
        (json!({}), "percent", "`percent` is required"),
    ] {
        let (status, answer) = server.admin("POST", "plugins/mark/canary", Some(&body));
        let error = &answer["error"];
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{answer}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
    }
    let (status, answer) = server.admin("POST", "plugins/mark/canary", Some(&json!([1])));
    assert_eq!((status, &answer["error"]["param"]), (400, &Value::Null));
}

/// Sends the beginning of a request, ends it there, and reads what is answered.
fn ended(server: &Process, request: &[u8]) -> String {
    let address = server.url.strip_prefix("http://").expect("a URL");
    let mut connection = TcpStream::connect(address).expect("it listens");
    connection.write_all(request).expect("it reads");
    connection
        .shutdown(std::net::Shutdown::Write)
        .expect("it is open");
    let mut answer = String::new();
    // What was read before the connection broke counts.
    let _ = connection.read_to_string(&mut answer);
    answer
}

#[test]
fn an_upload_that_cannot_be_read_whole_is_told_so_where_it_can_be() {
    let server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    let before = stand(&server);
    let head = format!(
        "PUT /admin/v1/plugins/mark HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         authorization: Bearer {TOKEN}\r\n"
    );
    for rest in [
        "content-length: 1000\r\n\r\nhalf",
        "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nodd\r\n",
    ] {
        let answer = ended(&server, format!("{head}{rest}").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer:?}");
        assert!(
            answer.contains("the body did not come in whole: "),
            "{answer}"
        );
    }
    assert_eq!(stand(&server), before);
}

/// Server-sent events: the next `count` of them, each with its name and data.
fn events(lines: &mut impl Iterator<Item = String>, count: usize) -> Vec<(String, Value)> {
    let mut events = Vec::new();
    let mut name = String::new();
    while events.len() < count {
        let line = lines.next().expect("the stream goes on");
        if let Some(said) = line.strip_prefix("event: ") {
            said.clone_into(&mut name);
        } else if let Some(data) = line.strip_prefix("data: ") {
            let data = serde_json::from_str(data).expect("data is JSON");
            events.push((name.clone(), data));
        }
    }
    events
}

#[test]
fn changes_are_events_as_they_are_committed() {
    let server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    let (_, before) = server.admin("GET", "history", None);
    let before = before["history"].as_array().unwrap().len();
    let stream = Process::agent()
        .get(format!("{}/admin/v1/events", server.url))
        .header("authorization", format!("Bearer {TOKEN}"))
        .call()
        .unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut lines = BufReader::new(stream.into_body().into_reader())
        .lines()
        .map(|line| line.expect("a stream of text"));

    let next = version("next");
    assert_eq!(server.push("mark?until=verified", &next).0, 201);
    for (action, body) in [
        ("shadow", json!({})),
        ("canary", json!({ "percent": 5 })),
        ("activate", json!({})),
        ("rollback", json!({})),
    ] {
        let (status, answer) = server.admin("POST", &format!("plugins/mark/{action}"), Some(&body));
        assert_eq!(status, 200, "{answer}");
    }
    assert_eq!(server.push("mark", b"broken").0, 422);
    assert_eq!(server.admin("POST", "reload", None).0, 200);

    let seen = events(&mut lines, 11);
    let (_, history) = server.admin("GET", "history", None);
    let mut committed = history["history"].as_array().unwrap().clone();
    committed.truncate(committed.len() - before);
    committed.reverse();
    assert!(seen.iter().all(|(name, _)| name == "change"));
    let data: Vec<Value> = seen.into_iter().map(|(_, data)| data).collect();
    assert_eq!(data, committed);

    let text = |key: &str| {
        data.iter()
            .map(|change| change[key].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        text("outcome"),
        [
            "staged",
            "verified",
            "shadow",
            "canary 5 %",
            "retired",
            "live",
            "retired",
            "live",
            "staged",
            "refused",
            "live"
        ]
    );
    let first = Digest::of(guests::BRACKETS).to_hex();
    let [next, broken] = [&next[..], b"broken"].map(|bytes| Digest::of(bytes).to_hex());
    let digests = [
        &next, &next, &next, &next, &first, &next, &next, &first, &broken, &broken,
    ];
    assert_eq!(text("digest")[..10], digests.map(|digest| json!(digest)));
    assert_eq!(text("digest")[10], Value::Null);
    for change in &data {
        assert_eq!(change["origin"], "admin");
        assert!(change["at"].as_u64().unwrap() > 0);
    }
    assert_eq!(
        (&data[9]["subject"], &data[10]["subject"]),
        (&json!("plugin mark"), &json!("configuration"))
    );
    let reason = data[9]["reason"].as_str().unwrap();
    assert!(reason.contains("was refused"), "{reason}");
    // The version that its author has written into it is known once it was read.
    assert_eq!(data[0]["version"], Value::Null);
    assert!(data[1]["version"].is_string());
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
