//! The commands, as a user types them.

use crate::process::{Process, TOKEN, complained as error, component, gapura, run, said as stdout};

#[test]
fn the_printed_default_is_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gapura.toml");
    std::fs::write(&file, stdout(&run(&["check", "--print-default"]))).unwrap();
    let checked = stdout(
        &gapura()
            .args(["check", "--config"])
            .arg(&file)
            .output()
            .unwrap(),
    );
    assert!(
        checked.starts_with("route default (default): chatml@"),
        "{checked}"
    );
}

/// What the printed default shows commented out works with the plugins that we ship.
#[test]
fn the_printed_route_can_be_bound() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gapura.toml");
    let printed = stdout(&run(&["check", "--print-default"]));
    let route = printed
        .lines()
        .skip_while(|line| *line != "# [[routes]]")
        .take_while(|line| !line.is_empty())
        // Ours are not signed.
        .filter(|line| !line.contains("require_signature"))
        .map(|line| format!("{}\n", line.trim_start_matches("# ")));
    let plugins = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/target/components");
    let toml = format!(
        "[plugins]\ndir = '{plugins}'\n{}",
        route.collect::<String>()
    );
    std::fs::write(&file, toml).unwrap();
    let output = gapura().args(["check", "--config"]).arg(&file).output();
    let checked = stdout(&output.unwrap());
    assert!(
        checked.contains("request-guard@") && checked.contains("gemma-chat@"),
        "{checked}"
    );
    let needed =
        "\n  request-guard: grants needed: log, tokenizer\n  gemma-chat: grants needed: log\n";
    assert!(checked.contains(needed), "{checked}");
}

#[test]
fn a_mistake_has_file_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gapura.toml");
    std::fs::write(&file, "[server]\nlisten_ = '127.0.0.1:1'\n").unwrap();
    let error = error(
        &gapura()
            .args(["check", "--config"])
            .arg(&file)
            .output()
            .unwrap(),
    );
    let start = format!(
        "error: {}:2:1: unknown key `listen_`, did you mean `listen`?",
        file.display()
    );
    assert!(
        error.starts_with(&start) && error.lines().count() == 1,
        "{error}"
    );
}

#[test]
fn a_plugin_folder_that_is_not_there_is_a_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gapura.toml");
    std::fs::write(&file, "[plugins]\ndir = 'plugin'\n").unwrap();
    let check = || {
        let checked = gapura().args(["check", "--config"]).arg(&file).output();
        checked.unwrap()
    };
    let missing = dir.path().join("plugin");
    assert_eq!(
        error(&check()),
        format!(
            "error: [plugins] dir: {} is not a folder that exists; make it, or leave `dir` out\n",
            missing.display()
        )
    );
    std::fs::create_dir(&missing).unwrap();
    assert!(stdout(&check()).ends_with("the configuration is right\n"));
}

/// Each message stands once, and says what would be right.
#[test]
fn flags_that_cannot_be_say_what_could() {
    for (args, name, reason) in [
        (
            ["--threads", "0"],
            "<THREADS>",
            "it must be a whole number, 1 or more",
        ),
        (
            ["--threads", "x"],
            "<THREADS>",
            "it must be a whole number, 1 or more",
        ),
        (
            ["--kv-memory-mib", "0"],
            "<MIB>",
            "it must be a whole number, 1 or more",
        ),
        (
            ["--context-length", "-1"],
            "<TOKENS>",
            "it must be a whole number, 1 or more",
        ),
        (
            ["--listen", "localhost"],
            "<ADDRESS:PORT>",
            "an address or a name is needed, and a port, such as `127.0.0.1:8000`, `[::1]:8000` \
             or `localhost:8000`",
        ),
    ] {
        let [flag, value] = args;
        let output = run(&["serve", "--model", "sim", &format!("{flag}={value}")]);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            format!(
                "error: invalid value '{value}' for '{flag} {name}': {reason}\n\n\
                 For more information, try '--help'.\n"
            )
        );
    }
}

#[test]
fn a_key_is_shown_once_and_its_hash_can_be_configured() {
    let text = stdout(&run(&["key", "new", "--name", "team", "--route", "a"]));
    let key = text
        .lines()
        .next()
        .unwrap()
        .strip_prefix("key (shown once): ")
        .unwrap();
    let digest = gapura::config::Digest::of(key.as_bytes());
    assert!(text.contains(&format!("sha256 = \"{digest}\"")), "{text}");
    assert!(text.contains("routes = [\"a\"]"), "{text}");
}

#[test]
fn one_prompt_is_answered_without_a_server() {
    let answer = stdout(&run(&[
        "generate",
        "--model",
        "sim",
        "--prompt",
        "halo dunia",
    ]));
    assert_eq!(answer, "You said: halo dunia\n");
    let raw = stdout(&run(&[
        "generate", "--model", "sim", "--raw", "--prompt", "halo",
    ]));
    assert_eq!(raw, "You said: halo\n");
}

/// Where there is no driver, `cuda` says what is missing and `auto` goes on without.
#[test]
fn a_gpu_that_is_not_there_is_an_error_only_where_it_was_asked_for() {
    let fixture = |name: &str| format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let on = |device: &str, model: &str| {
        gapura()
            .args([
                "generate",
                "--model",
                &fixture(model),
                "--prompt",
                "a",
                "--max-tokens",
                "2",
            ])
            .args(["--raw", "--device", device])
            .env("LD_LIBRARY_PATH", "/nowhere")
            .output()
            .unwrap()
    };
    if std::path::Path::new("/dev/nvidia0").exists() {
        eprintln!("SKIPPED: this machine has a GPU");
        return;
    }
    let refused = error(&on("cuda", "tiny-gemma2-b"));
    assert!(refused.contains("libcuda.so.1"), "{refused}");
    assert!(refused.contains("driver"), "{refused}");
    stdout(&on("auto", "tiny-gemma2-b"));
    // Its heads are of 12, which no kernel has.
    stdout(&on("auto", "tiny-llama"));
}

#[test]
fn doctor_reports_in_json() {
    let text = stdout(&run(&["doctor", "--json"]));
    let findings: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    for topic in [
        "cpu",
        "memory",
        "NVIDIA driver",
        "CUDA driver",
        "cuBLASLt",
        "NVRTC",
        "kernel cache",
        "plugin cache",
        "cargo",
    ] {
        assert!(
            findings.iter().any(|finding| finding["topic"] == topic),
            "no {topic}"
        );
    }
}

#[test]
fn a_component_is_inspected() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mark.wasm");
    std::fs::write(&file, component("pii-redact")).unwrap();
    let text = stdout(
        &gapura()
            .args(["plugin", "inspect", "--json"])
            .arg(&file)
            .output()
            .unwrap(),
    );
    let plugin: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(plugin["stages"], serde_json::json!(["validate", "respond"]));
    assert_eq!(plugin["grants_needed"], serde_json::json!(["log"]));
    std::fs::write(&file, component("request-guard")).unwrap();
    let inspected = gapura().args(["plugin", "inspect"]).arg(&file).output();
    let text = stdout(&inspected.unwrap());
    assert!(text.contains("\ngrants needed: log, tokenizer\n"), "{text}");
    std::fs::write(&file, b"#!/bin/sh").unwrap();
    let error = error(
        &gapura()
            .args(["plugin", "inspect"])
            .arg(&file)
            .output()
            .unwrap(),
    );
    assert!(error.contains("not a WebAssembly file"), "{error}");
}

#[test]
fn a_plugin_is_pushed_and_seen() {
    let server = Process::start(
        "[[routes]]\nname = 'chat'\nplugins = [{ plugin = 'chatml' }, { plugin = 'mark' }]\n",
        &[("mark", &component("pii-redact"))],
    );
    let file = server.dir.path().join("plugins/mark.wasm");
    let client = |args: &[&str], token: &str| {
        let mut command = gapura();
        command
            .arg("plugin")
            .args(args)
            .args(["--server", &server.url]);
        command.env("GAPURA_ADMIN_TOKEN", token).output().unwrap()
    };
    let pushed = stdout(&client(&["push", "mark", file.to_str().unwrap()], TOKEN));
    let said = " is live: serving chat\nimports  log, config\ngranted  by chat: log, config\n";
    assert!(pushed.ends_with(said), "{pushed}");
    let status = stdout(&client(&["status"], TOKEN));
    assert!(
        status.contains("mark") && status.contains("chatml@"),
        "{status}"
    );
    let one = stdout(&client(&["status", "mark"], TOKEN));
    assert!(!one.contains("requests"), "{one}");
    assert!(crate::process::stream(&Process::agent(), &server.url, "halo").is_ok());
    // A stream's request is booked a moment after its client has read the end.
    let one = std::iter::from_fn(|| Some(stdout(&client(&["status", "mark"], TOKEN))))
        .find(|one| one.contains(" on chat: 1 requests, 0 failed, 0 out of time; p50 "))
        .expect("it never ends");
    for stage in ["| validate |     1 |       0 |", "| respond  |"] {
        assert!(one.contains(stage), "{one}");
    }
    let refused = error(&client(&["status"], "another"));
    assert!(
        refused.contains("401") && refused.contains("token is wrong"),
        "{refused}"
    );
}

/// Whoever installs a plugin that talks to servers sees to which.
#[test]
fn a_plugin_that_asks_servers_says_so_wherever_it_is_installed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fetch.wasm");
    std::fs::write(&file, gapura_test_guests::SENDS).unwrap();
    let plugins = [("fetch", gapura_test_guests::SENDS)];
    let toml = "[[routes]]\nname = 'chat'\nplugins = [{ plugin = 'chatml' }, { plugin = 'fetch', \
                grants = ['http'], http = { allow = ['api.example.com', '*.example.org:8443', \
                '10.0.0.0/8', '[fd00::1]:8080'] } }]\n";
    let server = Process::start(toml, &plugins);
    let hosts = "http to api.example.com, *.example.org:8443, 10.0.0.0/8, [fd00::1]:8080\n";

    let inspected = gapura().args(["plugin", "inspect"]).arg(&file).output();
    let inspected = stdout(&inspected.unwrap());
    assert!(
        inspected.contains("\nhint     it asks servers by HTTP"),
        "{inspected}"
    );

    let config = dir.path().join("check.toml");
    let plugins = server.dir.path().join("plugins");
    let toml = format!("[plugins]\ndir = '{}'\n{toml}", plugins.display());
    std::fs::write(&config, toml).unwrap();
    let checked = gapura().args(["check", "--config"]).arg(&config).output();
    let checked = stdout(&checked.unwrap());
    assert!(
        checked.contains(&format!("  fetch: grants needed: http; {hosts}")),
        "{checked}"
    );

    let mut push = gapura();
    push.args(["plugin", "push", "fetch"]).arg(&file);
    push.args(["--server", &server.url])
        .env("GAPURA_ADMIN_TOKEN", TOKEN);
    let pushed = stdout(&push.output().unwrap());
    let granted = format!("\nimports  http\ngranted  by chat: http; {hosts}");
    assert!(pushed.ends_with(&granted), "{pushed}");
}

#[test]
fn bench_measures_a_running_server() {
    let server = Process::start(
        "[[routes]]\nname = 'chat'\nplugins = [{ plugin = 'chatml' }]\n",
        &[],
    );
    let args = [
        "bench",
        "--server",
        &server.url,
        "--requests",
        "8",
        "--max-tokens",
        "8",
        "--json",
    ];
    let report: serde_json::Value = serde_json::from_str(&stdout(&run(&args))).unwrap();
    assert_eq!(
        (report["requests"].as_u64(), report["failures"].as_u64()),
        (Some(8), Some(0))
    );
    assert!(report["time_to_first_token_ms"]["p50"].as_f64().unwrap() > 0.0);
}

#[test]
fn completions_name_the_commands() {
    let script = stdout(&run(&["completions", "bash"]));
    assert!(
        script.contains("gapura__plugin") || script.contains("gapura,plugin"),
        "{}",
        script.len()
    );
}
