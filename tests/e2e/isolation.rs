//! Hostile plugins on routes beside a good one: nobody else pays for them.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use gapura_engine::EngineConfig;
use gapura_engine::sim::{SimLatency, SimRunner};
use gapura_test_guests as guests;
use gapura_tests::Server;
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";

/// A kind of requests: the `model` that they ask for, how many there are, and what may come of them.
struct Kind {
    model: &'static str,
    count: usize,
    /// The code of the error, or `none`.
    own: &'static str,
}

/// 1,024 in all. Of `huge` there are few, for each has 16 MiB in memory. Every second request to the
/// route `by-turns` loops, those that ask for its alias `Loops`; those for `ask` wait for a server that
/// never answers.
const KINDS: [Kind; 8] = [
    Kind::new("good", 320, "none"),
    Kind::new("looping", 160, "plugin_deadline"),
    Kind::new("by-turns", 64, "kept"),
    Kind::new("Loops", 64, "plugin_deadline"),
    Kind::new("leaking", 160, "plugin_memory"),
    Kind::new("logging", 128, "none"),
    Kind::new("ask", 96, ""),
    Kind::new("huge", 32, "plugin_output_too_large"),
];

impl Kind {
    const fn new(model: &'static str, count: usize, own: &'static str) -> Self {
        Self { model, count, own }
    }

    /// Whether its plugin fails, and may be left alone for that.
    fn fails(&self) -> bool {
        self.own.starts_with("plugin_") || self.model == "by-turns"
    }
}

/// Room for 1,024 requests in the engine's queue, which is not what is tested.
fn engine() -> EngineConfig {
    EngineConfig {
        max_queued: 1024,
        ..EngineConfig::default()
    }
}

/// A server with few instances for its many requests. What hangs asks `silent`.
fn server(plugins: &tempfile::TempDir, silent: &str) -> Server {
    let mut toml = format!(
        "[plugins]\ndir = '{}'\nwatch = false\nmax_instances = 64\n",
        plugins.path().display()
    );
    let http = format!("grants = ['http'], http = {{ allow = ['{silent}'], timeout_ms = 300 }}");
    for (name, component, more) in [
        ("good", guests::BRACKETS, ""),
        ("looping", guests::ENDLESS, ""),
        ("by-turns", guests::KEEPS, ""),
        ("leaking", guests::BOMB, ""),
        ("logging", guests::FLOOD, ""),
        ("hanging", guests::SENDS, &*http),
        ("huge", guests::HUGE, ""),
    ] {
        let file = plugins.path().join(name).with_extension("wasm");
        std::fs::write(file, component).expect("room in the temporary folder");
        let alias = match name {
            "by-turns" => "aliases = ['Loops']\n",
            "hanging" => "aliases = ['ask']\n",
            _ => "",
        };
        let more = match more {
            "" => String::new(),
            more => format!(", {more}"),
        };
        toml.push_str(&format!(
            "[[routes]]\nname = '{name}'\n{alias}plugins = [{{ plugin = '{name}'{more} }}, \
             {{ plugin = 'chatml' }}]\n"
        ));
    }
    Server::with_engine(&toml, SimRunner::default(), engine())
}

/// What the good route makes of the model's `You said: {text}`.
fn bracketed(text: &str) -> String {
    let deltas = format!("You said: {text}");
    let deltas = deltas.chars().map(|letter| format!("[{letter}]"));
    deltas.collect::<String>() + "|"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_beside_hostile_plugins() {
    let plugins = tempfile::tempdir().expect("a temporary folder");
    // Connections are made, and nobody answers.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = listener.local_addr().expect("an address").to_string();
    let server = Arc::new(server(&plugins, &silent));
    let mut models: Vec<_> = KINDS
        .iter()
        .flat_map(|kind| std::iter::repeat_n(kind.model, kind.count))
        .collect();
    assert_eq!(models.len(), 1024);
    // Mixed, and the same each time: 365 and 1,024 have no divisor in common.
    models = (0..1024).map(|place| models[place * 365 % 1024]).collect();
    let tasks: Vec<_> = models
        .into_iter()
        .enumerate()
        .map(|(number, model)| {
            let server = Arc::clone(&server);
            let said = match model {
                "ask" => format!("http://{silent}/"),
                _ => format!("nomor {number}"),
            };
            tokio::spawn(async move {
                let messages = json!([{"role": "user", "content": said}]);
                let body = json!({"model": model, "messages": messages});
                let answer = server.post(CHAT, body).await;
                let json = answer.json();
                if model == "good" {
                    let content = &json["choices"][0]["message"]["content"];
                    assert_eq!(*content, bracketed(&said), "{json}");
                }
                let code = match &json["error"] {
                    error if error.is_null() => "none",
                    error => error["code"].as_str().unwrap_or_default(),
                };
                (model, code.to_owned())
            })
        })
        .collect();
    let mut seen: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for task in tasks {
        *seen.entry(task.await.expect("no panic")).or_default() += 1;
    }
    let of = |kind: &Kind, code: &str| {
        let found = seen.get(&(kind.model, code.to_owned()));
        found.copied().unwrap_or_default()
    };
    for kind in &KINDS {
        // Nothing else: above all no `plugin_exhausted`, which is what finds no instance.
        let (own, left_alone) = (of(kind, kind.own), of(kind, "plugin_breaker_open"));
        assert_eq!(own + left_alone, kind.count, "{}: {seen:?}", kind.model);
        if !kind.fails() {
            assert_eq!(left_alone, 0, "{}: {seen:?}", kind.model);
        }
    }
    let looping = of(&KINDS[1], KINDS[1].own);
    assert!(looping >= 10, "{looping} before its breaker opened");
}

/// Twice as many answers as there are instances for, each of which takes the model a while: they
/// wait in the engine's queue, not in the pool's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_slow_answers_find_their_instances() {
    let plugins = tempfile::tempdir().expect("a temporary folder");
    for (name, component) in [("brackets", guests::BRACKETS), ("moody", guests::MOODY)] {
        let file = plugins.path().join(name).with_extension("wasm");
        std::fs::write(file, component).expect("room in the temporary folder");
    }
    let toml = format!(
        "[plugins]\ndir = '{}'\nwatch = false\n[[routes]]\nname = 'chat'\n\
         plugins = [{{ plugin = 'brackets' }}, {{ plugin = 'moody' }}, {{ plugin = 'chatml' }}]\n",
        plugins.path().display()
    );
    let latency = SimLatency {
        per_decode_step: Duration::from_millis(20),
        ..SimLatency::default()
    };
    let runner = SimRunner::default().with_latency(latency);
    let server = Arc::new(Server::with_engine(&toml, runner, engine()));
    let tasks: Vec<_> = (0..1024)
        .map(|number| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let said = format!("nomor {number}");
                let messages = json!([{"role": "user", "content": said}]);
                let answer = server.post(CHAT, json!({"messages": messages})).await;
                let json = answer.json();
                let content = &json["choices"][0]["message"]["content"];
                assert_eq!(*content, bracketed(&said) + ".", "{json}");
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("an answer");
    }
}

/// Plugins that ask the model wait for a template, which needs an instance too, with their own in
/// their hands: they must not take the last one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_find_an_instance_however_many_wait_for_them() {
    let plugins = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(plugins.path().join("asks.wasm"), guests::ASKS)
        .expect("room in the temporary folder");
    let toml = format!(
        "[plugins]\ndir = '{}'\nwatch = false\nmax_instances = 4\n[[routes]]\nname = 'chat'\n\
         aliases = ['ask']\nplugins = [{{ plugin = 'asks', grants = ['model'] }}, \
         {{ plugin = 'chatml' }}]\n",
        plugins.path().display()
    );
    let server = Arc::new(Server::with_engine(&toml, SimRunner::default(), engine()));
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let messages = json!([{"role": "user", "content": "halo"}]);
                let body = json!({"model": "ask", "messages": messages});
                server.post(CHAT, body).await.json()
            })
        })
        .collect();
    for task in tasks {
        let json = task.await.expect("no panic");
        let said = json["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(said, "You said: halo", "{json}");
    }
}
