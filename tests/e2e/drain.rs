//! How a server starts, ends and takes signals.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use crate::process::{Process, TOKEN, gapura, run, stream};

/// A stream takes about a second.
const SLOW: &str = "[engine]\nsim_step_ms = 25\n[[routes]]\nname = 'chat'\n\
    plugins = [{ plugin = 'chatml' }]\n";

#[test]
fn sigterm_lets_a_stream_end_and_sends_new_requests_elsewhere() {
    let mut server = Process::start(SLOW, &[]);
    let url = server.url.clone();
    let under_way = {
        let url = url.clone();
        std::thread::spawn(move || stream(&Process::agent(), &url, "sebuah jawaban yang panjang"))
    };
    std::thread::sleep(Duration::from_millis(300));
    server.signal("TERM");
    std::thread::sleep(Duration::from_millis(200));
    assert!(
        !under_way.is_finished(),
        "the stream was over before the drain"
    );
    // Load balancers hear it while the stream goes on.
    let get = |path: &str| Process::agent().get(format!("{url}{path}")).call().unwrap();
    assert_eq!(get("/livez").status(), 200);
    let mut ready = get("/readyz");
    assert_eq!(ready.status(), 503);
    let reason: serde_json::Value = ready.body_mut().read_json().unwrap();
    assert_eq!(reason["error"]["code"], "shutting_down");
    let refused = stream(&Process::agent(), &url, "halo").unwrap_err();
    assert!(
        refused.starts_with("503") && refused.contains("shutting_down"),
        "{refused}"
    );
    assert!(
        !under_way.is_finished(),
        "all this took longer than the stream"
    );
    let answer = under_way.join().unwrap().unwrap();
    assert_eq!(answer, "You said: sebuah jawaban yang panjang");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn an_idle_server_ends_at_once() {
    let mut server = Process::start(SLOW, &[]);
    server.signal("INT");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_stream_of_events_ends_with_the_server() {
    let mut server = Process::start(SLOW, &[]);
    let events = Process::agent()
        .get(format!("{}/admin/v1/events", server.url))
        .header("authorization", format!("Bearer {TOKEN}"))
        .call()
        .unwrap();
    assert_eq!(events.status(), 200);
    let reading = std::thread::spawn(move || events.into_body().read_to_string());
    let began = Instant::now();
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    // The deadline for what does not end by itself is 30 s.
    assert!(began.elapsed() < Duration::from_secs(10));
    let read = reading.join().unwrap();
    assert!(read.is_ok(), "the stream was cut, not ended: {read:?}");
}

#[test]
fn sighup_takes_a_right_file_and_keeps_out_a_wrong_one() {
    let server = Process::start(SLOW, &[]);
    let file = server.dir.path().join("gapura.toml");
    let models = || {
        let url = format!("{}/v1/models", server.url);
        Process::agent()
            .get(&url)
            .call()
            .unwrap()
            .body_mut()
            .read_to_string()
            .unwrap()
    };
    std::fs::write(&file, "[[routes]]\nnmae = 'wrong'\n").unwrap();
    server.signal("HUP");
    std::thread::sleep(Duration::from_millis(500));
    assert!(models().contains("\"chat\""), "{}", models());
    std::fs::write(&file, SLOW.replace("'chat'", "'obrolan'")).unwrap();
    server.signal("HUP");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !models().contains("\"obrolan\"") {
        assert!(Instant::now() < deadline, "{}", models());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_taken_port_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let output = run(&["serve", "--model", "sim", "--listen", &at.to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8(output.stderr).unwrap();
    let start = format!(
        "error: port {} on 127.0.0.1 is taken by another program;",
        at.port()
    );
    assert!(
        line.starts_with(&start) && line.lines().count() == 1,
        "{line}"
    );
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_server_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broken.gguf");
    std::fs::write(&file, b"GGUF").unwrap();
    let output = gapura()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--log-level",
            "error",
            "--model",
        ])
        .arg(&file)
        .arg("--cache-dir")
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.starts_with("error: cannot load the model: "), "{line}");
    assert!(line.contains("broken.gguf"), "{line}");
}

#[test]
fn an_unwritable_cache_is_named() {
    let args = [
        "serve",
        "--model",
        "sim",
        "--listen",
        "127.0.0.1:0",
        "--cache-dir",
        "/proc/cache",
    ];
    let output = run(&args);
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(
        line.starts_with("error: ") && line.contains("/proc/cache"),
        "{line}"
    );
}

#[test]
fn a_request_that_outlives_the_drain_hears_why_it_ends() {
    let toml = SLOW.replace(
        "[engine]",
        "[server]\ndrain_timeout_seconds = 0.2\n[engine]",
    );
    let mut server = Process::start(&toml, &[]);
    let url = server.url.clone();
    let prompt = "sebuah jawaban yang panjang sekali ".repeat(4);
    let under_way = std::thread::spawn(move || stream(&Process::agent(), &url, &prompt));
    std::thread::sleep(Duration::from_millis(300));
    server.signal("TERM");
    let cause = under_way.join().unwrap().unwrap_err();
    assert!(cause.contains("shutting_down"), "{cause}");
    assert_eq!(server.wait().code(), Some(0));
}
