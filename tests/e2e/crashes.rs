//! A server that is killed as nothing can be caught, and started again.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use gapura::config::Digest;
use gapura_test_guests as guests;
use serde_json::json;

use crate::process::{Process, TOKEN, component, stream};
use crate::versions::{marked, plugin, stand, version, within};

const CONFIG: &str = "[[routes]]\nname = 'chat'\n\
    plugins = [{ plugin = 'chatml' }, { plugin = 'mark' }]\n";

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
                let digest = Digest::of(&component).to_hex();
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

/// What serves, and what is on trial beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Serving {
    live: String,
    /// Digest and state.
    trial: Option<(String, &'static str)>,
}

fn serving(server: &Process) -> Serving {
    let plugin = plugin(server, "mark");
    let versions = plugin["versions"].as_array().expect("a list");
    let of = |state: &str| -> Vec<String> {
        let found = versions.iter().filter(|version| version["state"] == state);
        let digests = found.map(|version| version["digest"].as_str().expect("a digest").to_owned());
        digests.collect()
    };
    let live = of("live");
    assert_eq!(live.len(), 1, "{plugin}");
    let trials = ["shadow", "canary"].map(|state| of(state).pop().map(|digest| (digest, state)));
    Serving {
        live: live[0].clone(),
        trial: trials.into_iter().flatten().next(),
    }
}

/// A request to a server that may be killed meanwhile; whether it was acknowledged.
fn is_acknowledged(server: &Process, method: &str, path: &str, body: &[u8]) -> bool {
    let request = ureq::http::Request::builder()
        .method(method)
        .uri(format!("{}/admin/v1/{path}", server.url))
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(body.to_vec())
        .expect("a request");
    match Process::agent().run(request) {
        Ok(mut answer) => {
            let status = answer.status().as_u16();
            let body = answer.body_mut().read_to_string();
            let Ok(body) = body else { return false };
            assert!(matches!(status, 200 | 201), "{path}: {status} {body}");
            true
        }
        // It is gone.
        Err(_) => false,
    }
}

/// The moves of one release, each with what serves after it, until one is not acknowledged. Returns
/// what was acknowledged last, and what was under way.
fn release(server: &Process, number: u64, before: Serving) -> (Serving, Serving) {
    let component = version(&format!("move-{number}"));
    let next = Digest::of(&component).to_hex();
    let on_trial = |state| Serving {
        live: before.live.clone(),
        trial: Some((next.clone(), state)),
    };
    let alone = |live: &str| Serving {
        live: live.to_owned(),
        trial: None,
    };
    let name = json!({ "digest": next }).to_string();
    let canary = json!({ "digest": next, "percent": 10 }).to_string();
    let (name, canary) = (name.as_bytes(), canary.as_bytes());
    let moves: [(&str, &str, &[u8], Serving); 7] = [
        (
            "PUT",
            "plugins/mark?until=verified",
            &component,
            before.clone(),
        ),
        ("POST", "plugins/mark/shadow", name, on_trial("shadow")),
        ("POST", "plugins/mark/canary", canary, on_trial("canary")),
        ("POST", "plugins/mark/activate", name, alone(&next)),
        ("POST", "plugins/mark/rollback", b"", alone(&before.live)),
        ("POST", "reload", b"", alone(&before.live)),
        ("POST", "plugins/mark/activate", name, alone(&next)),
    ];
    let mut acknowledged = before.clone();
    for (method, path, body, after) in moves {
        if !is_acknowledged(server, method, path, body) {
            return (acknowledged, after);
        }
        acknowledged = after;
    }
    (acknowledged.clone(), acknowledged)
}

/// Every kind of move is cut short somewhere: what serves then is what was acknowledged, or what
/// was under way.
#[test]
fn whatever_move_a_kill_cuts_short_has_happened_or_has_not() {
    const KILLS: u64 = 16;
    let mut server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    let mut number = 0;
    let mut interrupted = 0;
    for kill in 0..KILLS {
        let mut found = serving(&server);
        // The trial of the move before; the next release needs its place.
        if found.trial.is_some() {
            assert!(is_acknowledged(
                &server,
                "POST",
                "plugins/mark/rollback",
                b""
            ));
            found = serving(&server);
        }
        let stop = AtomicBool::new(false);
        let (acknowledged, under_way) = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_micros(30_000 + kill * 17_300));
                server.signal("KILL");
                stop.store(true, Relaxed);
            });
            let mut last = (found.clone(), found);
            while !stop.load(Relaxed) {
                number += 1;
                last = release(&server, number, last.0);
                if last.0 != last.1 {
                    break;
                }
            }
            last
        });
        interrupted += u32::from(acknowledged != under_way);
        server = server.killed_and_started_again();
        let found = serving(&server);
        assert!(
            found == acknowledged || found == under_way,
            "{found:?} serves; {acknowledged:?} was acknowledged, {under_way:?} under way"
        );
        stream(&Process::agent(), &server.url, "Halo").unwrap();
    }
    assert!(interrupted > 0, "no move was interrupted in {KILLS} kills");
}

fn put(server: &Process, component: &[u8]) {
    let folder = server.dir.path().join("plugins");
    let new = folder.join(".mark.wasm.new");
    fs::write(&new, component).expect("room in the temporary folder");
    fs::rename(new, folder.join("mark.wasm")).expect("it is there");
}

/// A file that was put into the folder before a kill serves after it, wherever that came.
#[test]
fn a_file_of_the_folder_serves_in_the_end() {
    let mut server = Process::start(CONFIG, &[("mark", guests::BRACKETS)]);
    for kill in 0..12_u64 {
        let component = version(&format!("file-{kill}"));
        put(&server, &component);
        // The folder is quiet for 50 ms before it is looked at.
        thread::sleep(Duration::from_micros(45_000 + kill * 6_100));
        server = server.killed_and_started_again();
        let digest = Digest::of(&component).to_hex();
        assert_eq!(serving(&server).live, digest, "kill {kill}");
        let (_, history) = server.admin("GET", "history", None);
        let lines = history["history"].as_array().unwrap().iter();
        let mut outcomes: Vec<&str> = lines
            .filter(|change| change["digest"] == digest)
            .map(|change| change["outcome"].as_str().unwrap())
            .collect();
        outcomes.reverse();
        assert_eq!(outcomes, ["staged", "verified", "live"]);
    }
}

/// A file that its route would not bind was refused while the server ran, and is at its next starts.
#[test]
fn a_refused_file_keeps_no_server_from_starting_again() {
    let config = "[[routes]]\nname = 'chat'\n\
        plugins = [{ plugin = 'chatml' }, { plugin = 'mark', grants = [] }]\n";
    let mut server = Process::start(config, &[("mark", guests::BRACKETS)]);
    let good = serving(&server);
    put(&server, &component("answer-cache"));
    let refused = |server: &Process| plugin(server, "mark")["refused"]["code"].clone();
    within(20, "the file is refused", || {
        refused(&server) == "import_not_granted"
    });
    for _ in 0..2 {
        server = server.killed_and_started_again();
        assert_eq!(serving(&server), good);
        assert_eq!(refused(&server), "import_not_granted");
        stream(&Process::agent(), &server.url, "Halo").unwrap();
    }
    // One that came while no server ran; a second template, which no route can have.
    put(&server, &component("gemma-chat"));
    server = server.killed_and_started_again();
    assert_eq!(serving(&server), good);
    let found = refused(&server);
    assert!(
        ["two_renderers", "import_not_granted"].contains(&found.as_str().unwrap()),
        "{found}"
    );
    stream(&Process::agent(), &server.url, "Halo").unwrap();
}

/// A new configuration and the files that it wants came while no server ran. No route could be built
/// with one of the files alone, nor with what served before.
#[test]
fn files_that_fit_a_route_only_together_are_taken_together() {
    let mut server = Process::start(
        "[[routes]]\nname = 'chat'\n\
         plugins = [{ plugin = 'chatml' }, { plugin = 'judge' }, { plugin = 'mark' }]\n",
        &[("judge", guests::ACCEPT), ("mark", guests::BRACKETS)],
    );
    let judge = marked(guests::ACCEPT, "new");
    let mark = version("new");
    let [pinned_judge, pinned_mark] = [&judge, &mark].map(|bytes| Digest::of(bytes));
    let config = format!(
        "[[routes]]\nname = 'chat'\n\
         plugins = [{{ plugin = 'chatml' }}, {{ plugin = 'judge', digest = '{pinned_judge}' }}, \
                    {{ plugin = 'mark', digest = '{pinned_mark}' }}]\n\
         [plugins]\nwatch = false\n"
    );
    server.signal("STOP");
    fs::write(server.dir.path().join("gapura.toml"), config).unwrap();
    fs::write(server.dir.path().join("plugins/judge.wasm"), &judge).unwrap();
    put(&server, &mark);
    server = server.killed_and_started_again();
    assert_eq!(serving(&server).live, pinned_mark.to_hex());
    let (_, plugin) = server.admin("GET", "plugins/judge", None);
    assert_eq!(plugin["digest"], pinned_judge.to_hex());
    stream(&Process::agent(), &server.url, "Halo").unwrap();
}
