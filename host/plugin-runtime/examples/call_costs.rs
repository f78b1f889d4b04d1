//! What guest calls cost here: min and median in microseconds. Without arguments it measures the
//! smallest guests there are, so that what is left is the runtime's own share; with the path of a
//! component it measures that plugin (every import granted, no settings). Last comes how long a
//! guest that never ends runs, where a call may take [`RUNAWAY_MS`].
//!
//! `cargo run --release -p gapura-plugin-runtime --example call_costs [plugin.wasm]`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gapura_plugin_runtime::{
    AnswerContext, Binding, Chain, Chat, Delta, FinishReason, Grants, Limits, Message,
    PluginRuntime, Role, RuntimeConfig, Sampling, Services, Stage, TokenCounter,
};
use gapura_test_guests as guests;

const ROUNDS: usize = 2_000;
const PUSHES: usize = 100;
const RUNAWAY_MS: u64 = 50;
const RUNAWAYS: usize = 40;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = PluginRuntime::new(RuntimeConfig {
        max_instances: 16,
        ..Default::default()
    })?;
    let mut bindings = Vec::new();
    match std::env::args_os().nth(1).map(PathBuf::from) {
        Some(path) => bindings.push(("plugin", std::fs::read(path)?)),
        None => bindings.push(("every-stage", guests::EVERY_STAGE.to_vec())),
    }
    let started = Instant::now();
    let plugin = runtime.load(bindings[0].0, &bindings[0].1)?;
    let loaded = started.elapsed();
    let mut chain = vec![generous(plugin.clone())];
    if !plugin.has(Stage::Render) {
        chain.push(generous(runtime.load("render", guests::RENDER)?));
    }
    let chain = Arc::new(Chain::new("route", chain)?);
    let services = Services::detached(Arc::new(Nothing));
    let mut costs = Costs::default();
    for _ in 0..ROUNDS {
        request(&chain, &services, &mut costs).await?;
    }
    runaway(&runtime, &services, &mut costs).await?;
    let mut out = format!("{} loaded in {loaded:.1?}\n", plugin.label());
    for (name, times) in &mut costs.0 {
        times.sort_unstable();
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let (min, median) = (micros(times[0]), micros(times[times.len() / 2]));
        out.push_str(&format!(
            "{name:<34} min {min:>8.2} us  median {median:>8.2} us\n"
        ));
    }
    std::io::Write::write_all(&mut std::io::stdout(), out.as_bytes())?;
    Ok(())
}

async fn runaway(
    runtime: &PluginRuntime,
    services: &Services,
    costs: &mut Costs,
) -> Result<(), Box<dyn std::error::Error>> {
    let endless = generous(runtime.load("endless", guests::ENDLESS)?);
    let limits = Limits {
        call_ms: RUNAWAY_MS,
        ..endless.limits.clone()
    };
    let render = generous(runtime.load("render", guests::RENDER)?);
    let chain = vec![Binding { limits, ..endless }, render];
    let chain = Arc::new(Chain::new("route", chain)?);
    for _ in 0..RUNAWAYS {
        let mut run = chain.start(services.clone());
        let started = Instant::now();
        if run.validate(chat()).await.is_ok() {
            return Err("a guest that never ends has ended".into());
        }
        costs.add("runaway, 50 ms allowed", started);
    }
    Ok(())
}

async fn request(
    chain: &Arc<Chain>,
    services: &Services,
    costs: &mut Costs,
) -> Result<(), Box<dyn std::error::Error>> {
    let whole = Instant::now();
    let mut run = chain.start(services.clone());
    let started = Instant::now();
    run.validate(chat()).await?;
    costs.add("instance + validate", started);
    let started = Instant::now();
    run.render(&chat()).await?;
    costs.add("render (its instance where needed)", started);
    let started = Instant::now();
    let mut responder = run.responder(context()).await?;
    costs.add("instance + processor", started);
    for _ in 0..PUSHES {
        let delta = Delta {
            text: " kata".to_owned(),
            token_ids: vec![7],
            logprobs: Vec::new(),
        };
        let started = Instant::now();
        responder.push(delta).await?;
        costs.add("push", started);
    }
    let started = Instant::now();
    responder.finish(FinishReason::Stop).await?;
    costs.add("finish", started);
    drop((run, responder));
    costs.add("whole request, 100 pushes", whole);
    Ok(())
}

/// Times by name, in the order of first use.
#[derive(Default)]
struct Costs(Vec<(&'static str, Vec<Duration>)>);

impl Costs {
    fn add(&mut self, name: &'static str, started: Instant) {
        let time = started.elapsed();
        match self.0.iter_mut().find(|(found, _)| *found == name) {
            Some((_, times)) => times.push(time),
            None => self.0.push((name, vec![time])),
        }
    }
}

/// Every import, and time enough on a busy machine.
fn generous(plugin: gapura_plugin_runtime::Plugin) -> Binding {
    let limits = Limits {
        call_ms: 1_000,
        delta_ms: 1_000,
        ..Limits::default()
    };
    Binding {
        grants: Grants::ALL,
        limits,
        ..Binding::new(plugin)
    }
}

fn chat() -> Chat {
    let message = |index: usize| Message {
        role: if index.is_multiple_of(2) {
            Role::User
        } else {
            Role::Assistant
        },
        content: vec!["Selamat pagi, apa kabar hari ini? ".repeat(4)],
        name: None,
        tool_calls: Vec::new(),
        tool_call_id: None,
    };
    Chat {
        request_id: "request".to_owned(),
        route: "route".to_owned(),
        model: "model".to_owned(),
        tenant: None,
        stream: true,
        messages: (0..9).map(message).collect(),
        sampling: Sampling::default(),
        extra: "{}".to_owned(),
        call_id: "call-1".to_owned(),
    }
}

fn context() -> AnswerContext {
    AnswerContext {
        request_id: "request".to_owned(),
        route: "route".to_owned(),
        model: "model".to_owned(),
        tenant: None,
        stream: true,
        choice: 0,
        extra: "{}".to_owned(),
        call_id: "call-1".to_owned(),
    }
}

struct Nothing;

impl TokenCounter for Nothing {
    fn count(&self, text: &str) -> u32 {
        u32::try_from(text.len() / 4).unwrap_or(u32::MAX)
    }
}
