//! `gapura plugin test` and `bench`, as an author runs them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::Value;

use crate::process::gapura;

const PLUGINS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins");

/// A case of `persona` that holds.
const CASE: &str = r#"# Kept as it is.
settings = { system = "Kamu Sari." }
[request]
messages = [{ role = "user", content = "Halo!" }]
"#;

fn component(name: &str) -> PathBuf {
    Path::new(PLUGINS).join(format!("target/components/{name}.wasm"))
}

fn plugin(command: &str, name: &str, arguments: &[&str]) -> Output {
    let mut gapura = gapura();
    gapura.args(["plugin", command]).arg(component(name));
    gapura.args(arguments).output().expect("the program starts")
}

fn test(name: &str, cases: &Path, arguments: &[&str]) -> (bool, String) {
    let cases = ["--cases", cases.to_str().expect("paths of tests are text")];
    let output = plugin("test", name, &[&cases, arguments].concat());
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8(text).expect("output is text"),
    )
}

#[test]
fn the_cases_of_our_plugins_hold() {
    for name in [
        "answer-cache",
        "chatml",
        "gemma-chat",
        "json-guard",
        "judge",
        "persona",
        "pii-redact",
        "rag-context",
        "request-guard",
        "router",
    ] {
        let (holds, text) = test(name, &Path::new(PLUGINS).join(name).join("cases"), &[]);
        assert!(holds, "{name}: {text}");
        assert!(text.contains(" fuel, "), "{text}");
    }
}

#[test]
fn a_case_is_written_down_and_then_held() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sari.toml");
    fs::write(&file, CASE).unwrap();
    let (holds, text) = test("persona", dir.path(), &[]);
    assert!(!holds && text.contains("nothing is expected yet"), "{text}");
    let (holds, text) = test("persona", dir.path(), &["--update"]);
    assert!(holds && text.starts_with("updated"), "{text}");
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.starts_with(CASE) && written.contains("\n[expect]\nverdict = \"amend\"\n"));
    let (holds, text) = test("persona", dir.path(), &[]);
    assert!(holds && text.ends_with("1 case passed\n"), "{text}");

    fs::write(&file, written.replace("Sari.\"\nrole", "Budi.\"\nrole")).unwrap();
    let (holds, text) = test("persona", dir.path(), &[]);
    assert!(!holds && text.contains("FAILED"), "{text}");
    let (wanted, found) = (text.find("Kamu Budi."), text.find("Kamu Sari."));
    assert!(wanted.unwrap() < found.unwrap(), "{text}");
    assert!(text.contains("1 of 1 cases failed"), "{text}");
    test("persona", dir.path(), &["--update"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), written);
}

#[test]
fn fuel_is_the_same_every_time_and_can_be_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sari.toml");
    fs::write(&file, CASE).unwrap();
    test("persona", dir.path(), &["--update"]);
    let fuel = || {
        let (_, text) = test("persona", dir.path(), &["--json"]);
        let case: Value = serde_json::from_str(&text).unwrap();
        case["stages"]["validate"]["fuel"].as_u64().unwrap()
    };
    let used = fuel();
    assert!(used > 1000 && used == fuel());
    let bounded = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("max_fuel = {}\n{bounded}", used - 1)).unwrap();
    let (holds, text) = test("persona", dir.path(), &[]);
    assert!(
        !holds && text.contains(&format!("{used} fuel, the case allows")),
        "{text}"
    );
}

#[test]
fn what_is_wrong_with_a_case_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let says = |text: &str, arguments: &[&str], expected: &str| {
        fs::write(dir.path().join("sari.toml"), text).unwrap();
        let (holds, text) = test("persona", dir.path(), arguments);
        assert!(!holds && text.contains(expected), "{text}");
    };
    says(
        "[request]\nmessage = []",
        &[],
        "sari: request: the field `messages` is required",
    );
    says("[request", &[], "sari: TOML parse error at line 1");
    says(
        &CASE.replace("[request]", "grants = []\n[request]"),
        &[],
        "does not grant log",
    );
    says(CASE, &["--only", "budi"], "no case's name contains `budi`");
    let (_, text) = test("persona", &dir.path().join("none"), &[]);
    assert!(text.contains("there are no cases in"), "{text}");
    let output = plugin("test", "persona", &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("carries no cases"));
}

/// Servers are scripted as the model is: what a plugin sends is answered, or told apart.
#[test]
fn http_requests_are_answered_by_the_case() {
    let dir = tempfile::tempdir().unwrap();
    let component = dir.path().join("sends.wasm");
    fs::write(&component, gapura_test_guests::SENDS).unwrap();
    let file = dir.path().join("ask.toml");
    let run = |http: &str, model: &str, arguments: &[&str]| {
        let request = format!(
            "{http}\n[request]\nmodel = '{model}'\n\
             messages = [{{ role = 'user', content = 'https://api.example.com/' }}]\n"
        );
        fs::write(&file, request).unwrap();
        let mut gapura = gapura();
        gapura.args(["plugin", "test"]).arg(&component);
        gapura.arg("--cases").arg(dir.path()).args(arguments);
        let output = gapura.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            String::from_utf8(said).unwrap(),
            fs::read_to_string(&file).unwrap(),
        )
    };
    let sent = |http: &str, model: &str| {
        let (said, written) = run(http, model, &["--update"]);
        assert!(said.starts_with("updated"), "{said}");
        let file: toml::Table = written.parse().unwrap();
        let expect = &file["expect"];
        let refusal = &expect["refusal"];
        (
            expect["http"].to_string(),
            refusal["status"].as_integer(),
            refusal["message"].as_str().map(str::to_owned),
        )
    };
    let one = "[[http]]\nrequest = { url = 'https://api.example.com/' }\n";
    let get = r#""GET https://api.example.com/"#;
    assert_eq!(
        sent(&format!("{one}response = {{ body = 'ya' }}"), "ask"),
        (format!("[{get}\"]"), Some(420), Some("ya".to_owned()))
    );
    // Each response comes once.
    let none = "the case has no such request in `http`".to_owned();
    assert_eq!(
        sent(one, "loop"),
        (
            format!("[{get}\", {get} (not scripted)\"]"),
            Some(455),
            Some(none.clone())
        )
    );
    let other = one.replace(".com/", ".com/other");
    let not_scripted = format!("[{get} (not scripted)\"]");
    assert_eq!(
        sent(&other, "ask"),
        (not_scripted.clone(), Some(455), Some(none.clone()))
    );
    let post = one.replace("{ url", "{ method = 'POST', url");
    assert_eq!(sent(&post, "ask"), (not_scripted, Some(455), Some(none)));
    let timeout = sent(&format!("{one}error = 'timeout'"), "ask");
    assert_eq!(timeout.1, Some(453));
    let hosts_own = "the header `host` is the host's to set".to_owned();
    assert_eq!(
        sent(one, "host"),
        (format!("[{get} (invalid)\"]"), Some(451), Some(hosts_own))
    );
    for (wrong, expected) in [
        ("response = { status = 99 }", "http.0: its status is 99"),
        (
            "response = { body = 'ya' }\nerror = 'tls'",
            "http.0: it has both a response and an error",
        ),
        ("error = 'lost'", "unknown variant `lost`"),
    ] {
        let (said, _) = run(&format!("{one}{wrong}"), "ask", &[]);
        assert!(said.contains(expected), "{said}");
    }
}

/// A component that carries its cases needs nothing beside it.
#[test]
fn cases_travel_in_the_component() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("persona.wasm");
    let mut wasm = fs::read(component("persona")).unwrap();
    let case = fs::read_to_string(Path::new(PLUGINS).join("persona/cases/replace.toml")).unwrap();
    gapura::cases::embed(&mut wasm, "replace", &case);
    fs::write(&file, wasm).unwrap();
    let output = gapura()
        .args(["plugin", "test"])
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("replace"),
        "{text}"
    );
    let output = gapura()
        .args(["plugin", "inspect"])
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("cases    replace\n"), "{text}");
}

#[test]
fn costs_are_held_against_a_budget() {
    let output = plugin(
        "bench",
        "pii-redact",
        &[
            "--requests",
            "20",
            "--json",
            "--budget",
            "1e6",
            "--delta-budget",
            "1e6",
        ],
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report}");
    assert_eq!(report["calls"]["push"]["count"], 2000);
    assert_eq!(report["within_budget"], true);
    for name in [
        "instantiate",
        "validate",
        "processor",
        "push",
        "finish",
        "request",
    ] {
        assert!(
            report["calls"][name]["p50_us"].as_f64().unwrap() > 0.0,
            "{report}"
        );
    }
    let output = plugin(
        "bench",
        "pii-redact",
        &["--requests", "20", "--delta-budget", "0"],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("BEYOND 0 us for a delta"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 of 1 cases are beyond the budget"));
}
