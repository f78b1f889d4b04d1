//! What a plugin costs in each language; printed on demand:
//! `cargo test --release --locked --workspace --test conformance -- --ignored --nocapture prices`.

use std::time::{Duration, Instant};

use gapura_plugin_runtime::{
    AnswerContext, Binding, Chain, Chat, Delta, Grants, Limits, Message, PluginRuntime, Role,
    RuntimeConfig, Sampling, Services, TokenCounter, Validated,
};

use crate::host::{LANGUAGES, component};

const ROUNDS: usize = 200;

struct None;

impl TokenCounter for None {
    fn count(&self, _text: &str) -> u32 {
        0
    }
}

/// The middle of `times`, in microseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// A request of ten messages, 1 KB in all.
fn chat() -> Chat {
    let message = |role| Message {
        role,
        content: vec!["x".repeat(100)],
        name: Option::None,
        tool_calls: Vec::new(),
        tool_call_id: Option::None,
    };
    Chat {
        request_id: "request-1".to_owned(),
        route: "route".to_owned(),
        model: "model".to_owned(),
        tenant: Option::None,
        stream: true,
        messages: (0..10).map(|_| message(Role::User)).collect(),
        sampling: Sampling::default(),
        extra: "{}".to_owned(),
        call_id: "call-1".to_owned(),
    }
}

#[tokio::test]
#[ignore = "a measurement, for machines with nothing else to do"]
async fn prices() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    println!(
        "| language | component | compile | load, compiled | fresh instance and validate | render, warm | push |"
    );
    println!("|---|---|---|---|---|---|---|");
    for language in LANGUAGES {
        let wasm = component(language);
        let load = || {
            let config = RuntimeConfig {
                max_instances: 16,
                cache_dir: Some(folder.path().to_owned()),
                ..RuntimeConfig::default()
            };
            let runtime = PluginRuntime::new(config).expect("a runtime");
            let started = Instant::now();
            let plugin = runtime.load(language, &wasm).expect("loads");
            (plugin, started.elapsed())
        };
        let (_, compile) = load();
        let (plugin, cached) = load();
        let limits = Limits {
            memory_bytes: 128 << 20,
            call_ms: 10_000,
            delta_ms: 10_000,
            ..Limits::default()
        };
        let binding = Binding {
            grants: Grants::ALL,
            limits,
            ..Binding::new(plugin)
        };
        let chain = std::sync::Arc::new(Chain::new("route", vec![binding]).expect("a chain"));
        let services = Services::detached(std::sync::Arc::new(None));
        let (mut validate, mut render, mut push) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let mut run = chain.start(services.clone());
            let chat = chat();
            let started = Instant::now();
            let verdict = run.validate(chat).await.expect("a verdict");
            validate.push(started.elapsed());
            let Validated::Continue(chat) = verdict else {
                panic!("goes on")
            };
            let started = Instant::now();
            run.render(&chat).await.expect("a prompt");
            render.push(started.elapsed());
            let context = AnswerContext {
                request_id: chat.request_id,
                route: chat.route,
                model: chat.model,
                tenant: chat.tenant,
                stream: chat.stream,
                choice: 0,
                extra: chat.extra,
                call_id: chat.call_id,
            };
            let mut responder = run.responder(context).await.expect("a responder");
            let delta = Delta {
                text: " kata".to_owned(),
                token_ids: vec![7],
                logprobs: Vec::new(),
            };
            responder.push(delta.clone()).await.expect("an output");
            let started = Instant::now();
            responder.push(delta).await.expect("an output");
            push.push(started.elapsed());
        }
        println!(
            "| {language} | {:.0} KB | {:.2} s | {:.1} ms | {:.0} µs | {:.1} µs | {:.1} µs |",
            wasm.len() as f64 / 1e3,
            compile.as_secs_f64(),
            cached.as_secs_f64() * 1e3,
            median(validate),
            median(render),
            median(push),
        );
    }
}
