//! Versions on trial: canaries, shadows, and the guard that takes back what does badly.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use gapura_test_guests as guests;
use serde_json::{Value, json};

use crate::process::{Process, TOKEN, gapura, stream};
use crate::versions::{marked, plugin};

/// A route whose processor is tried out; answers are short.
const CONFIG: &str = "[[routes]]\nname = 'chat'\n\
    plugins = [{ plugin = 'chatml' }, { plugin = 'mark' }]\n\
    [plugins.guard]\nmin_requests = 10\n";
/// A route whose validator is tried out.
const GUARDED: &str = "[[routes]]\nname = 'chat'\n\
    plugins = [{ plugin = 'chatml' }, { plugin = 'judge' }]\n\
    [plugins.guard]\nmin_requests = 10\n";

/// One whole answer: status, body, and the chain that made it.
fn ask(server: &Process, user: &str) -> (u16, Value, String) {
    let body = json!({
        "model": "chat", "user": user, "max_tokens": 8,
        "messages": [{ "role": "user", "content": "Halo, apa kabar?" }],
    });
    let mut response = Process::agent()
        .post(format!("{}/v1/chat/completions", server.url))
        .send_json(&body)
        .expect("the server answers");
    let chain = response.headers().get("x-gapura-chain");
    let chain = chain.and_then(|value| value.to_str().ok());
    let chain = chain.unwrap_or_default().to_owned();
    let status = response.status().as_u16();
    let body = response.body_mut().read_json().expect("an answer is JSON");
    (status, body, chain)
}

/// Pushes `component` and tries it out.
fn try_out(server: &Process, name: &str, component: &[u8], action: &str, body: Value) -> String {
    let (status, answer) = server.push(&format!("{name}?until=verified"), component);
    assert_eq!(status, 201, "{answer}");
    let (status, answer) = server.admin("POST", &format!("plugins/{name}/{action}"), Some(&body));
    assert_eq!(status, 200, "{answer}");
    answer["versions"][0]["digest"]
        .as_str()
        .expect("a digest")
        .to_owned()
}

/// Waits until the version `digest` is `state`; the reason that it has then.
fn becomes(server: &Process, name: &str, digest: &str, state: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let plugin = plugin(server, name);
        let versions = plugin["versions"].as_array().expect("a list");
        let version = versions.iter().find(|version| version["digest"] == digest);
        let version = version.expect("the version is known");
        if version["state"] == state {
            return version["reason"].as_str().unwrap_or_default().to_owned();
        }
        assert!(Instant::now() < deadline, "{version} is not {state}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_canary_answers_its_share_and_keys_stay_where_they_are() {
    let server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    let digest = try_out(
        &server,
        "mark",
        &marked(guests::BRACKETS, "next"),
        "canary",
        json!({ "percent": 20 }),
    );
    let users: Vec<String> = (0..300).map(|number| format!("user-{number}")).collect();
    let on_canary = || -> BTreeSet<&String> {
        users
            .iter()
            .filter(|user| {
                let (status, body, chain) = ask(&server, user);
                assert_eq!(status, 200, "{body}");
                chain.contains(&digest[..6])
            })
            .collect()
    };
    let first = on_canary();
    assert!((30..=90).contains(&first.len()), "{} of 300", first.len());
    assert_eq!(on_canary(), first, "keys stay");
    let body = json!({ "percent": 60 });
    let (status, answer) = server.admin("POST", "plugins/mark/canary", Some(&body));
    assert_eq!(status, 200, "{answer}");
    let more = on_canary();
    assert!(more.len() > first.len() && more.is_superset(&first));
    let trial = plugin(&server, "mark")["trial"].clone();
    assert_eq!(
        (&trial["mode"], &trial["percent"]),
        (&json!("canary"), &json!(60))
    );
    let requests = |side: &str| trial[side]["requests"].as_u64().unwrap();
    assert_eq!(requests("candidate"), more.len() as u64);
    assert_eq!(requests("live"), 300 - more.len() as u64);
    assert!(trial["candidate"]["p95_us"].as_f64().unwrap() > 0.0);

    // Who says so himself goes where that leads.
    let sticky = |value: &str| {
        let mut response = Process::agent()
            .post(format!("{}/v1/chat/completions", server.url))
            .header("x-gapura-sticky", value)
            .send_json(json!({ "model": "chat", "max_tokens": 1, "user": users[0],
                "messages": [{ "role": "user", "content": "a" }] }))
            .expect("the server answers");
        let body: Value = response.body_mut().read_json().expect("JSON");
        let chain = response.headers().get("x-gapura-chain").cloned();
        let chain = chain.map(|chain| chain.to_str().expect("ASCII").to_owned());
        (response.status().as_u16(), body, chain.unwrap_or_default())
    };
    let chains: BTreeSet<String> = (0..40).map(|key| sticky(&key.to_string()).2).collect();
    assert_eq!(chains.len(), 2);
    let (status, body, _) = sticky(&"x".repeat(300));
    assert_eq!(
        (status, &body["error"]["param"]),
        (400, &json!("x-gapura-sticky"))
    );
}

#[test]
fn a_canary_that_fails_is_taken_back_and_nobody_elses_request_fails() {
    let server = Process::start(GUARDED, &[("judge", guests::ACCEPT)]);
    let digest = try_out(
        &server,
        "judge",
        guests::TRAP,
        "canary",
        json!({ "percent": 40 }),
    );
    let mut failed = 0;
    for number in 0..200 {
        let (status, body, chain) = ask(&server, &format!("user-{number}"));
        match status {
            200 => assert!(!chain.contains(&digest[..6]), "{body}"),
            _ => {
                failed += 1;
                // The tenth failure in a row opens its breaker.
                let code = body["error"]["code"].as_str().expect("a code");
                assert!(
                    ["plugin_trap", "plugin_breaker_open"].contains(&code),
                    "{body}"
                );
                assert!(chain.contains(&digest[..6]), "{chain}");
            }
        }
        // As clients do, they come over a while.
        thread::sleep(Duration::from_millis(3));
    }
    assert!(failed > 0, "nothing failed");
    let reason = becomes(&server, "judge", &digest, "retired");
    assert!(
        reason.contains("it failed in") && reason.contains("limit is 2.0 %"),
        "{reason}"
    );
    let plugin = plugin(&server, "judge");
    assert!(plugin["trial"].is_null());
    assert_eq!(plugin["state"], "live");
    let (_, history) = server.admin("GET", "history", None);
    let newest = &history["history"][0];
    assert_eq!(
        (&newest["origin"], &newest["outcome"], &newest["digest"]),
        (&json!("guard"), &json!("retired"), &json!(digest))
    );
    assert_eq!(newest["reason"], reason);
    for number in 0..50 {
        assert_eq!(ask(&server, &format!("user-{number}")).0, 200);
    }
    let metrics = Process::agent()
        .get(format!("{}/metrics", server.url))
        .call();
    let metrics = metrics
        .expect("the server answers")
        .into_body()
        .read_to_string();
    let metrics = metrics.expect("metrics are text");
    let rolled_back =
        "gapura_plugin_transitions_total{origin=\"guard\",plugin=\"judge\",state=\"retired\"} 1";
    assert!(metrics.contains(rolled_back), "{metrics}");
}

#[test]
fn a_canary_that_runs_out_of_time_is_taken_back_for_that() {
    let config = format!("{GUARDED}[plugins.limits]\ncall_deadline_ms = 5\n");
    let server = Process::start(&config, &[("judge", guests::ACCEPT)]);
    let digest = try_out(
        &server,
        "judge",
        guests::KEEPS,
        "canary",
        json!({ "percent": 100 }),
    );
    // It loops where the model's name begins with an L.
    let body = json!({ "model": "Loop", "messages": [{ "role": "user", "content": "a" }] });
    let url = format!("{}/routes/chat/v1/chat/completions", server.url);
    // All of so many are enough; the next may meet the version before.
    for _ in 0..5 {
        let answer = Process::agent().post(&url).send_json(&body);
        assert_eq!(answer.expect("the server answers").status(), 500);
    }
    let reason = becomes(&server, "judge", &digest, "retired");
    assert!(reason.contains("ran out of time in"), "{reason}");
}

#[test]
fn a_canary_that_is_slow_is_taken_back_for_that() {
    let server = Process::start(GUARDED, &[("judge", guests::ACCEPT)]);
    for number in 0..20 {
        assert_eq!(ask(&server, &number.to_string()).0, 200);
    }
    let digest = try_out(
        &server,
        "judge",
        guests::SLOW,
        "canary",
        json!({ "percent": 50 }),
    );
    let is_retired = || plugin(&server, "judge")["trial"].is_null();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut number = 0;
    while !is_retired() {
        assert!(Instant::now() < deadline, "{}", plugin(&server, "judge"));
        number += 1;
        assert_eq!(ask(&server, &format!("user-{number}")).0, 200);
    }
    let reason = becomes(&server, "judge", &digest, "retired");
    assert!(
        reason.contains("one in twenty requests takes it more than")
            && reason.contains("the limit is 2 times as much"),
        "{reason}"
    );
    for number in 0..20 {
        let (status, _, chain) = ask(&server, &number.to_string());
        assert_eq!(status, 200);
        assert!(!chain.contains(&digest[..6]), "{chain}");
    }
}

#[test]
fn a_stream_stays_on_the_version_that_it_began_with() {
    let config = format!("[engine]\nsim_step_ms = 10\n{CONFIG}");
    let server = Process::start(&config, &[("mark", guests::BRACKETS)]);
    try_out(
        &server,
        "mark",
        guests::MOODY,
        "canary",
        json!({ "percent": 100 }),
    );
    let answer = thread::scope(|scope| {
        let streaming = scope.spawn(|| stream(&Process::agent(), &server.url, "halo"));
        thread::sleep(Duration::from_millis(150));
        let (status, _) = server.admin("POST", "plugins/mark/rollback", None);
        assert_eq!(status, 200);
        streaming.join().expect("no panic")
    });
    let answer = answer.expect("a whole answer");
    assert!(!answer.contains('[') && answer.ends_with('.'), "{answer}");
    let after = stream(&Process::agent(), &server.url, "halo").expect("a whole answer");
    assert!(after.starts_with('[') && after.ends_with('|'), "{after}");
}

#[test]
fn a_version_that_goes_live_and_fails_goes_back_by_itself() {
    let server = Process::start(GUARDED, &[("judge", guests::ACCEPT)]);
    for number in 0..20 {
        assert_eq!(ask(&server, &number.to_string()).0, 200);
    }
    let (status, answer) = server.push("judge", guests::TRAP);
    assert_eq!(status, 201, "{answer}");
    let digest = answer["digest"].as_str().unwrap();
    assert_eq!(answer["probation"]["mode"], "live");
    for number in 0..10 {
        let (status, body, _) = ask(&server, &number.to_string());
        assert!(matches!(status, 500 | 503), "{body}");
    }
    let reason = becomes(&server, "judge", digest, "retired");
    assert!(reason.contains("it failed in"), "{reason}");
    assert_eq!(ask(&server, "a").0, 200);
}

#[test]
fn a_rollback_that_a_route_forbids_is_said_once_and_tried_again() {
    let tools = tempfile::tempdir().unwrap();
    let log = tools.path().join("log");
    let server = Process::start_with(GUARDED, &[("judge", guests::ACCEPT)], |command| {
        command.stderr(std::fs::File::create(&log).unwrap());
    });
    for number in 0..20 {
        assert_eq!(ask(&server, &number.to_string()).0, 200);
    }
    let (status, answer) = server.push("judge", guests::TRAP);
    assert_eq!(status, 201, "{answer}");
    let digest = answer["digest"].as_str().unwrap();
    let configure = |toml: &str| {
        std::fs::write(server.dir.path().join("gapura.toml"), toml).unwrap();
        let (status, answer) = server.admin("POST", "reload", None);
        assert_eq!(status, 200, "{answer}");
    };
    // The route takes this version, and no other any more.
    let pin = format!("'judge', digest = 'sha256:{digest}'");
    configure(&GUARDED.replace("'judge'", &pin));
    for number in 0..10 {
        let (status, body, _) = ask(&server, &number.to_string());
        assert!(matches!(status, 500 | 503), "{body}");
    }
    thread::sleep(Duration::from_secs(3));
    let text = std::fs::read_to_string(&log).unwrap();
    let said: Vec<&str> = text.lines().filter(|line| line.contains("roll")).collect();
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(
        said[0].contains("cannot roll back") && said[0].contains("pins `judge`"),
        "{said:#?}"
    );
    assert_eq!(plugin(&server, "judge")["digest"], digest);
    configure(GUARDED);
    becomes(&server, "judge", digest, "retired");
    assert_eq!(ask(&server, "a").0, 200);
}

#[test]
fn a_shadow_is_compared_and_changes_nothing() {
    let server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    let (_, before, chain) = ask(&server, "a");
    let digest = try_out(
        &server,
        "mark",
        &marked(guests::BRACKETS, "same"),
        "shadow",
        json!({}),
    );
    for _ in 0..10 {
        let (status, body, of) = ask(&server, "a");
        assert_eq!(status, 200);
        assert_eq!(body["choices"], before["choices"]);
        assert_eq!(of, chain);
    }
    stream(&Process::agent(), &server.url, "Halo").unwrap();
    let compared = |count: u64| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let trial = plugin(&server, "mark")["trial"].clone();
            if trial["shadow"]["compared"] == count {
                return trial;
            }
            assert!(Instant::now() < deadline, "{trial}");
            thread::sleep(Duration::from_millis(50));
        }
    };
    let trial = compared(11);
    assert_eq!(trial["shadow"]["same"], 11, "{trial}");
    assert_eq!(trial["candidate"]["requests"], 11);
    assert_eq!(trial["live"]["requests"], 11, "{trial}");

    // Another one, which makes something else of the answer, takes its place.
    let (status, _) = server.admin("POST", "plugins/mark/rollback", None);
    assert_eq!(status, 200);
    assert_eq!(becomes(&server, "mark", &digest, "retired"), "rolled back");
    try_out(&server, "mark", guests::MOODY, "shadow", json!({}));
    for _ in 0..3 {
        assert_eq!(ask(&server, "a").1["choices"], before["choices"]);
    }
    let trial = compared(3);
    assert_eq!(trial["shadow"]["differ"]["answer"], 3, "{trial}");
    let sample = &trial["shadow"]["samples"][0];
    assert_eq!(
        (&sample["kind"], &sample["at_byte"]),
        (&json!("answer"), &json!(0))
    );
    let shown = gapura()
        .args([
            "plugin",
            "status",
            "mark",
            "--server",
            &server.url,
            "--token",
            TOKEN,
        ])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("is on trial (shadow)") && shown.contains("3 with another answer"),
        "{shown}"
    );
}

#[test]
fn a_shadow_that_fails_is_taken_back_and_no_client_hears_of_it() {
    let server = Process::start(GUARDED, &[("judge", guests::ACCEPT)]);
    let digest = try_out(&server, "judge", guests::TRAP, "shadow", json!({}));
    for number in 0..30 {
        assert_eq!(ask(&server, &number.to_string()).0, 200);
    }
    let reason = becomes(&server, "judge", &digest, "retired");
    assert!(reason.contains("it failed in"), "{reason}");
}

#[test]
fn one_trial_at_a_time_on_a_route() {
    let server = Process::start(
        "[[routes]]\nname = 'chat'\n\
         plugins = [{ plugin = 'chatml' }, { plugin = 'judge' }, { plugin = 'mark' }]\n",
        &[("judge", guests::ACCEPT), ("mark", guests::BRACKETS)],
    );
    let canary = json!({ "percent": 5 });
    try_out(
        &server,
        "mark",
        &marked(guests::BRACKETS, "a"),
        "canary",
        canary.clone(),
    );
    let other = marked(guests::ACCEPT, "b");
    assert_eq!(server.push("judge?until=verified", &other).0, 201);
    let (status, answer) = server.admin("POST", "plugins/judge/canary", Some(&canary));
    assert_eq!(
        (status, &answer["error"]["code"]),
        (409, &json!("two_trials"))
    );
}
