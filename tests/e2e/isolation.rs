//! Hostile plugins on routes beside a good one: nobody else pays for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use gapura_engine::EngineConfig;
use gapura_engine::sim::SimRunner;
use gapura_test_guests as guests;
use gapura_tests::Server;
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";

/// Requests of each route; 1,024 in all. Of `huge` there are few, for each has 16 MiB in memory.
const REQUESTS: [(&str, usize); 5] = [
    ("good", 448),
    ("looping", 192),
    ("leaking", 192),
    ("logging", 160),
    ("huge", 32),
];

fn server(plugins: &tempfile::TempDir) -> Server {
    let mut toml = format!(
        "[plugins]\ndir = '{}'\nwatch = false\n",
        plugins.path().display()
    );
    for (name, component) in [
        ("good", guests::BRACKETS),
        ("looping", guests::ENDLESS),
        ("leaking", guests::BOMB),
        ("logging", guests::FLOOD),
        ("huge", guests::HUGE),
    ] {
        let file = plugins.path().join(name).with_extension("wasm");
        std::fs::write(file, component).expect("room in the temporary folder");
        toml.push_str(&format!(
            "[[routes]]\nname = '{name}'\nplugins = [{{ plugin = '{name}' }}, {{ plugin = 'chatml' }}]\n"
        ));
    }
    // The engine's queue is not what is tested.
    let engine = EngineConfig {
        max_queued: 1024,
        ..EngineConfig::default()
    };
    Server::with_engine(&toml, SimRunner::default(), engine)
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
    let server = Arc::new(server(&plugins));
    let mut names: Vec<_> = REQUESTS
        .iter()
        .flat_map(|(name, count)| std::iter::repeat_n(*name, *count))
        .collect();
    assert_eq!(names.len(), 1024);
    // Mixed, and the same each time: 365 and 1,024 have no divisor in common.
    names = (0..1024).map(|place| names[place * 365 % 1024]).collect();
    let tasks: Vec<_> = names
        .into_iter()
        .enumerate()
        .map(|(number, name)| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let said = format!("nomor {number}");
                let messages = json!([{"role": "user", "content": said}]);
                let body = json!({"model": name, "messages": messages});
                let answer = server.post(CHAT, body).await;
                let json = answer.json();
                if name == "good" {
                    let content = &json["choices"][0]["message"]["content"];
                    assert_eq!(*content, bracketed(&said), "{json}");
                }
                let code = json["error"]["code"].as_str().unwrap_or("none");
                (name, code.to_owned())
            })
        })
        .collect();
    let mut seen: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for task in tasks {
        *seen.entry(task.await.expect("no panic")).or_default() += 1;
    }
    let of = |name: &str, code: &str| {
        let found = seen
            .iter()
            .find(|((route, with), _)| (*route, with.as_str()) == (name, code));
        found.map_or(0, |(_, count)| *count)
    };
    for (name, count) in REQUESTS {
        let own = match name {
            "good" | "logging" => "none",
            "looping" => "plugin_deadline",
            "leaking" => "plugin_memory",
            _ => "plugin_output_too_large",
        };
        // Nothing else: above all no `plugin_exhausted`, which is what finds no instance.
        let left_alone = of(name, "plugin_breaker_open");
        assert_eq!(of(name, own) + left_alone, count, "{name}: {seen:?}");
        assert!(of(name, own) >= 10.min(count), "{name}: {seen:?}");
        if own == "none" {
            assert_eq!(left_alone, 0, "{name}: {seen:?}");
        }
    }
}
