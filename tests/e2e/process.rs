//! The `gapura` program itself, as an operator runs it.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

/// The token that every server of these tests takes.
pub(crate) const TOKEN: &str = "admin-of-the-tests";

/// The program, built by `make build` before the tests.
pub(crate) fn gapura() -> Command {
    let test = std::env::current_exe().expect("a test knows its own path");
    let release = test
        .ancestors()
        .nth(2)
        .expect("tests lie in target/release/deps");
    let program = release.join("gapura");
    assert!(
        program.is_file(),
        "{} is missing: run `make build` first",
        program.display()
    );
    let mut command = Command::new(program);
    // Nothing of whoever runs the tests may change them.
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for kept in ["HOME", "CARGO_HOME", "RUSTUP_HOME", "XDG_CACHE_HOME"] {
        command.envs(std::env::var_os(kept).map(|value| (kept, value)));
    }
    command
}

/// One of the repository's own plugins.
pub(crate) fn component(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/target/components");
    let file = PathBuf::from(folder).join(format!("{name}.wasm"));
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Runs the program to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    gapura().args(args).output().expect("the program starts")
}

/// What a command that succeeded has printed.
pub(crate) fn said(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).expect("output is text")
}

/// What a command that failed has said of it.
pub(crate) fn complained(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr.clone()).expect("errors are text")
}

/// A running `gapura serve`. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// Such as `http://127.0.0.1:41234`.
    pub(crate) url: String,
    /// Holds `gapura.toml`, `plugins/` and the cache.
    pub(crate) dir: tempfile::TempDir,
}

impl Process {
    /// Serves the simulated model with the configuration `toml` on a free port; waits until it
    /// is ready. `plugins` are put into its plugin folder before.
    pub(crate) fn start(toml: &str, plugins: &[(&str, &[u8])]) -> Self {
        Self::start_with(toml, plugins, |_| {})
    }

    /// The same; `change` may add flags and variables.
    pub(crate) fn start_with(
        toml: &str,
        plugins: &[(&str, &[u8])],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = dir.path().join("plugins");
        std::fs::create_dir(&folder).expect("room in the temporary folder");
        for (name, component) in plugins {
            let file = folder.join(format!("{name}.wasm"));
            std::fs::write(file, component).expect("room in the temporary folder");
        }
        let config = dir.path().join("gapura.toml");
        std::fs::write(&config, toml).expect("room in the temporary folder");
        Self::serve(dir, change)
    }

    /// Kills it as nothing can be caught, and serves again from the same folder.
    pub(crate) fn killed_and_started_again(mut self) -> Self {
        self.child.kill().expect("the server runs");
        self.wait();
        let elsewhere = tempfile::tempdir().expect("a temporary folder");
        let dir = std::mem::replace(&mut self.dir, elsewhere);
        drop(self);
        Self::serve(dir, |_| {})
    }

    fn serve(dir: tempfile::TempDir, change: impl FnOnce(&mut Command)) -> Self {
        let folder = dir.path().join("plugins");
        let config = dir.path().join("gapura.toml");
        let mut command = gapura();
        command
            .args([
                "serve",
                "--model",
                "sim",
                "--listen",
                // By name, as operators write it.
                "localhost:0",
                "--config",
            ])
            .arg(&config)
            .arg("--plugin-dir")
            .arg(&folder)
            .arg("--cache-dir")
            .arg(dir.path().join("compiled"))
            .env("GAPURA_ADMIN_TOKEN", TOKEN)
            .env("LOG_LEVEL", "warn")
            .stdout(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().expect("the program starts");
        let stdout = child.stdout.take().expect("a pipe");
        // Whole from here on, so that a start that fails leaves no process behind.
        let mut server = Self {
            child,
            stdout: BufReader::new(stdout),
            url: String::new(),
            dir,
        };
        server.url = server.read_url();
        server
    }

    /// Reads the banner up to the address.
    fn read_url(&mut self) -> String {
        let mut banner = String::new();
        loop {
            let mut line = String::new();
            let read = self.stdout.read_line(&mut line);
            let read = read.expect("the banner is text");
            assert!(read > 0, "the server ended before it was ready:\n{banner}");
            if let Some(url) = line.trim().strip_prefix("ready") {
                return url.trim().trim_end_matches("/v1").to_owned();
            }
            banner.push_str(&line);
        }
    }

    /// A client that answers with whatever status comes.
    pub(crate) fn agent() -> ureq::Agent {
        ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into()
    }

    /// `PUT /admin/v1/plugins/{name}`: status and body.
    pub(crate) fn push(&self, name: &str, component: &[u8]) -> (u16, serde_json::Value) {
        let url = format!("{}/admin/v1/plugins/{name}", self.url);
        let mut response = Self::agent()
            .put(&url)
            .header("authorization", format!("Bearer {TOKEN}"))
            .send(component)
            .expect("the server answers");
        let body = response.body_mut().read_json().expect("an answer is JSON");
        (response.status().as_u16(), body)
    }

    /// A request to the administration API, with a JSON body where there is one: status and body.
    pub(crate) fn admin(
        &self,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> (u16, serde_json::Value) {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}/admin/v1/{path}", self.url))
            .header("authorization", format!("Bearer {TOKEN}"))
            .body(body.map(ToString::to_string).unwrap_or_default())
            .expect("a request");
        let mut response = Self::agent().run(request).expect("the server answers");
        let body = response.body_mut().read_json().expect("an answer is JSON");
        (response.status().as_u16(), body)
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal`, such as `TERM`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args([format!("-{signal}"), pid])
            .status();
        assert!(sent.expect("there is a kill").success());
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let path = PathBuf::from(format!("/proc/{}/status", self.child.id()));
        let text = std::fs::read_to_string(path).expect("the server runs");
        let line = text
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("a size");
        let kib: u64 = line
            .split_whitespace()
            .nth(1)
            .expect("a number")
            .parse()
            .expect("a number");
        kib << 10
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Streams one chat and returns its text.
///
/// # Errors
/// What was wrong with the answer: its status, a broken stream, a missing `[DONE]`.
pub(crate) fn stream(agent: &ureq::Agent, url: &str, prompt: &str) -> Result<String, String> {
    let body = serde_json::json!({
        "model": "chat",
        "stream": true,
        "messages": [{ "role": "user", "content": prompt }],
    });
    let mut response = agent
        .post(format!("{url}/v1/chat/completions"))
        .send_json(&body)
        .map_err(|error| error.to_string())?;
    let mut text = String::new();
    let read = response.body_mut().as_reader().read_to_string(&mut text);
    read.map_err(|error| format!("the stream broke off: {error}"))?;
    if response.status() != 200 {
        return Err(format!("{}: {text}", response.status()));
    }
    let Some(events) = text.strip_suffix("data: [DONE]\n\n") else {
        return Err(format!("no [DONE] at the end of {text:?}"));
    };
    let mut answer = String::new();
    for event in events
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
    {
        let event: serde_json::Value =
            serde_json::from_str(event).map_err(|error| format!("{error} in {event:?}"))?;
        if event.get("error").is_some() {
            return Err(event.to_string());
        }
        answer.push_str(
            event["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or_default(),
        );
    }
    Ok(answer)
}
