//! `gapura plugin replay` against a running server.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use gapura_test_guests as guests;
use serde_json::{Value, json};

use crate::process::{Process, TOKEN, component, gapura};

const CONFIG: &str = "[[routes]]\nname = 'accept'\nrecord = { redact = false }\n\
    plugins = [{ plugin = 'guard' }, { plugin = 'chatml' }, { plugin = 'mark' }]\n";

/// A server that has kept the request `r-1`.
fn recorded() -> Process {
    let plugins = [("guard", guests::VERDICTS), ("mark", guests::BRACKETS)];
    let server = Process::start(CONFIG, &plugins);
    let answer = ask(&server, "accept", "halo");
    assert!(answer["choices"].is_array(), "{answer}");
    server
}

/// The answer to the request `r-1`.
fn ask(server: &Process, model: &str, text: &str) -> Value {
    let body = json!({"model": model, "messages": [{"role": "user", "content": text}]});
    let mut answer = Process::agent()
        .post(format!("{}/v1/chat/completions", server.url))
        .header("x-request-id", "r-1")
        .send_json(body)
        .expect("the server answers");
    answer.body_mut().read_json().expect("an answer is JSON")
}

fn file(server: &Process, name: &str, component: &[u8]) -> String {
    let path: PathBuf = server.dir.path().join(name);
    fs::write(&path, component).expect("room in the temporary folder");
    path.to_str().expect("paths of tests are text").to_owned()
}

fn replay(server: &Process, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = gapura();
    command.args(["plugin", "replay"]).args(arguments);
    command
        .env("GAPURA_SERVER", &server.url)
        .env("GAPURA_ADMIN_TOKEN", TOKEN);
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the program starts");
    let text = String::from_utf8([stdout, stderr].concat()).expect("output is text");
    (status.code(), text)
}

/// `brackets` in other bytes, which do the same.
fn same() -> Vec<u8> {
    let mut component = guests::BRACKETS.to_vec();
    gapura_plugin_runtime::add_custom_section(&mut component, "padding", b"1");
    component
}

#[test]
fn a_version_that_does_the_same_ends_with_zero() {
    let server = recorded();
    let mark = file(&server, "mark.wasm", &same());
    let (code, text) = replay(&server, &["r-1", "--plugin", &mark]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("the same verdict, prompt and answer"),
        "{text}"
    );
    assert!(text.contains("respond   fuel "), "{text}");
    let (code, text) = replay(&server, &["r-1", "--plugin", &mark, "--json"]);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &json["result"]), (Some(0), &json!("same")));
    let cost = &json["cost"]["respond"];
    assert!(cost["old"]["fuel"].as_u64() > Some(0), "{text}");
    assert_eq!(cost["old"], cost["new"]);
    assert_eq!(json["note"], Value::Null);
    // It is listed.
    let mut records = gapura();
    records.args([
        "plugin",
        "records",
        "--server",
        &server.url,
        "--token",
        TOKEN,
    ]);
    let listed = records.output().expect("the program starts").stdout;
    let listed = String::from_utf8(listed).expect("output is text");
    assert!(
        listed.contains("r-1") && listed.contains("accept"),
        "{listed}"
    );
}

#[test]
fn what_was_recorded_goes_when_its_route_stops_recording() {
    let server = recorded();
    let records = || server.admin("GET", "records", None).1["records"].clone();
    assert_eq!(records().as_array().map(Vec::len), Some(1));
    let file = server.dir.path().join("gapura.toml");
    let text = fs::read_to_string(&file).expect("the configuration is there");
    let without = text.replace("record = { redact = false }\n", "");
    assert_ne!(without, text);
    fs::write(&file, without).expect("room in the temporary folder");
    let (status, said) = server.admin("POST", "reload", None);
    assert_eq!(status, 200, "{said}");
    assert_eq!(records(), json!([]));
    assert_eq!(server.admin("GET", "records/r-1", None).0, 404);
}

#[test]
fn a_version_that_does_otherwise_ends_with_one_and_says_what() {
    let server = recorded();
    let other = crate::swap::angled();
    let other = file(&server, "other.wasm", &other);
    let (code, text) = replay(&server, &["r-1", "--plugin", &other, "--name", "mark"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("- [") && text.contains("+ <"), "{text}");
    let trap = file(&server, "guard.wasm", guests::TRAP);
    let (code, text) = replay(&server, &["r-1", "--plugin", &trap, "--json"]);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &json["result"]), (Some(1), &json!("different")));
    let failed = json["differences"].as_array().expect("a list").iter();
    let failed = failed.filter(|of| of["key"] == "failed" && of["new"] == "validate: trap");
    assert_eq!(failed.count(), 1, "{text}");
}

#[test]
fn what_cannot_be_found_out_ends_with_two_and_advice() {
    let server = recorded();
    let mark = file(&server, "mark.wasm", &same());
    let old = file(&server, "old.wasm", guests::BRACKETS);
    let broken = file(&server, "broken.wasm", b"broken");
    let asks = file(&server, "asks.wasm", guests::ASKS);
    let [right, wrong] = [&old, &broken].map(|file| format!("mark={file}"));
    let (code, text) = replay(&server, &["r-1", "--plugin", &mark, "--component", &right]);
    assert_eq!(code, Some(0), "{text}");
    for (arguments, advice) in [
        (
            vec!["r-2", "--plugin", &mark],
            "there is no record of the request `r-2`",
        ),
        (
            vec!["r-1", "--plugin", &old],
            "say --name with one of guard, chatml, mark",
        ),
        (
            vec!["r-1", "--plugin", &broken, "--name", "mark"],
            "does not load",
        ),
        (
            vec!["r-1", "--plugin", "gone.wasm", "--name", "mark"],
            "cannot read gone.wasm",
        ),
        (
            vec!["r-1", "--plugin", &mark, "--component", &wrong],
            "is not the component of mark@",
        ),
        (
            vec!["r-1", "--plugin", &mark, "--component", "mark"],
            "say NAME=FILE",
        ),
        (
            vec!["r-1", "--plugin", &asks, "--name", "guard"],
            "does not grant model",
        ),
    ] {
        let (code, text) = replay(&server, &arguments);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(advice), "{text}");
    }
}

/// What is redacted compares all the same: both versions see the same letters. What depends on
/// words is told apart from a difference of the versions.
#[test]
fn a_redacted_record_compares_and_says_where_it_strays() {
    let config = "[[routes]]\nname = 'chat'\nrecord = {}\nplugins = [\
        { plugin = 'request-guard', grants = ['log', 'tokenizer'], \
        settings = { max_tokens = 100, deny = ['rahasia'] } }, { plugin = 'chatml' }]\n";
    let guard = component("request-guard");
    let server = Process::start(config, &[("request-guard", &guard)]);
    let refused = ask(&server, "chat", "Apa rahasia itu?");
    assert_eq!(refused["error"]["code"], "denied_content", "{refused}");
    let mut other = guard;
    gapura_plugin_runtime::add_custom_section(&mut other, "padding", b"1");
    let other = file(&server, "request-guard.wasm", &other);
    let (code, text) = replay(&server, &["r-1", "--plugin", &other]);
    assert_eq!(code, Some(0), "{text}");
    let note = "decided `refuse` then and `accept` now: the record is redacted";
    assert!(text.contains(note), "{text}");
    let trap = file(&server, "trap.wasm", guests::TRAP);
    let (code, text) = replay(
        &server,
        &["r-1", "--plugin", &trap, "--name", "request-guard"],
    );
    assert_eq!(code, Some(1), "{text}");
}
