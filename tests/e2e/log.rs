//! What the operator reads on standard error.

use std::{
    fs::{self, File},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::process::{Process, TOKEN};

/// Every request has one line, however early it was refused, with its id and status; what was
/// sent as a key is in none.
#[test]
fn every_request_has_one_line_and_no_line_a_key() {
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("log");
    let key = "kunci-rahasia";
    let digest = gapura::config::Digest::of(key.as_bytes());
    let toml = format!(
        "[[routes]]\nname = 'chat'\nplugins = [{{ plugin = 'chatml' }}]\n\
         [[keys]]\nname = 'warung'\nsha256 = '{digest}'\nmax_requests_per_minute = 2\n"
    );
    let server = Process::start_with(&toml, &[], |command| {
        command
            .args(["--log-format", "json"])
            .env("LOG_LEVEL", "info")
            .stderr(File::create(&log).unwrap());
    });
    let agent = Process::agent();
    let chat = json!({"model": "chat", "messages": [{"role": "user", "content": "halo"}]});
    let wrong = "kunci-salah";
    // Path and key, then what the line says.
    let asked: [(&str, &str, u16, &str, &str); 9] = [
        ("/v1/chat/completions", "", 401, "invalid_api_key", ""),
        ("/v1/chat/completions", wrong, 401, "invalid_api_key", ""),
        ("/v1/chat/completions", key, 200, "", "warung"),
        // A handler has this one on record.
        (
            "/v1/completions",
            key,
            400,
            "missing_required_parameter",
            "",
        ),
        (
            "/v1/chat/completions",
            key,
            429,
            "rate_limit_exceeded",
            "warung",
        ),
        ("/nowhere?key=kunci-rahasia", key, 404, "unknown_path", ""),
        ("/health", key, 405, "method_not_allowed", ""),
        ("/admin/v1/reload", wrong, 401, "invalid_api_key", ""),
        ("/admin/v1/nothing", TOKEN, 404, "unknown_endpoint", ""),
    ];
    for (index, (path, key, status, _, _)) in asked.iter().enumerate() {
        let request = agent
            .post(format!("{}{path}", server.url))
            .header("x-request-id", format!("asked-{index}"))
            .header("authorization", format!("Bearer {key}"));
        let answer = request.send_json(&chat).unwrap();
        assert_eq!(answer.status(), *status, "{path}");
    }
    let lines = read_lines(&log, asked.len());
    for (index, (path, _, status, error, tenant)) in asked.iter().enumerate() {
        let id = format!("asked-{index}");
        let own: Vec<&Value> = lines
            .iter()
            .filter(|line| line["request_id"] == id)
            .collect();
        assert_eq!(own.len(), 1, "{path}: {own:?}");
        let found = (&own[0]["status"], &own[0]["error"], &own[0]["tenant"]);
        assert_eq!(
            found,
            (&json!(status), &json!(error), &json!(tenant)),
            "{path}"
        );
    }
    let text = fs::read_to_string(&log).unwrap();
    for secret in [key, wrong, TOKEN] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

/// The lines of requests, once there are so many: an answer can be there before its line.
fn read_lines(log: &std::path::Path, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let text = fs::read_to_string(log).expect("the log is there");
        let lines: Vec<Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|line: &Value| line["message"] == "request")
            .collect();
        if lines.len() >= count || Instant::now() > deadline {
            return lines;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
