//! A server's life: listen, load plugins, answer while the model loads, serve, drain.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::Router;
use gapura_engine::{BLOCK_TOKENS, Engine};
use gapura_plugin_runtime::{PluginRuntime, RuntimeConfig};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{
    app,
    config::{Config, Environment, Overrides},
    controller::{Controller, Guard, Origin, Watch},
    model_loader,
    pipeline::Prefill,
    routes,
    server::{self, Drained},
    state::{AppState, LoadedModel},
    telemetry::Metrics,
    version,
};

/// After the drain: for clients to read what was said last.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// After that: for the engine to end its last step and the thread to be joined.
const ENGINE_GRACE: Duration = Duration::from_secs(2);

/// The plugin runtime that `config` asks for.
///
/// # Errors
/// A cache folder that cannot be written, or no threads.
pub fn plugin_runtime(config: &Config) -> anyhow::Result<PluginRuntime> {
    let runtime = PluginRuntime::new(RuntimeConfig {
        cache_dir: Some(config.plugins.cache_dir.clone()),
        max_component_bytes: config.admin.max_plugin_bytes as u64,
        max_instances: config.plugins.max_instances,
        // A request that waits for an instance ends with its own time.
        instance_wait: config.server.request_timeout,
        ..RuntimeConfig::default()
    })?;
    Ok(runtime)
}

/// Serves until SIGTERM or SIGINT; SIGHUP reads the configuration again.
///
/// # Errors
/// Whatever keeps the server from starting, and a model that cannot be loaded.
pub async fn serve(
    config: Config,
    environment: Environment,
    flags: Overrides,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        config.model.source.is_some(),
        "no model: name one with --model, MODEL_NAME or [model] source \
         (a hub id, a folder, a .gguf file, or `sim`)"
    );
    let mut signals = Signals::new()?;
    let listener = server::bind(config.server.listen).await?;
    let admin_listener = match config.admin.listen {
        Some(at) => Some(server::bind(at).await?),
        None => None,
    };
    let address = listener.local_addr()?;

    let metrics = Arc::new(Metrics::new());
    let controller = start_controller(&config, environment, flags, &metrics).await?;
    let _watch = Watch::start(&controller)?;
    let _guard = Guard::start(&controller).context("cannot start a thread to watch plugins")?;
    let state = Arc::new(AppState::new(config.server.clone(), &controller));

    let (stop, stopped) = watch::channel(None);
    let header_timeout = config.server.header_timeout;
    let drain_timeout = config.server.drain_timeout;
    let admin = routes::admin::router(Arc::clone(&controller), Arc::clone(&state));
    let servers: Vec<JoinHandle<Drained>> = match admin_listener {
        None => vec![spawn(
            listener,
            app::app(Arc::clone(&state), admin),
            header_timeout,
            stopped,
        )],
        Some(own) => vec![
            spawn(
                listener,
                app::app(Arc::clone(&state), Router::new()),
                header_timeout,
                stopped.clone(),
            ),
            spawn(own, app::with_request_ids(admin), header_timeout, stopped),
        ],
    };
    show(&banner(&config, &controller, address));

    let loading = load_in_background(&config, &controller);
    let loaded = tokio::select! {
        loaded = loading => Some(loaded),
        () = signals.end(&controller) => None,
    };
    match loaded {
        Some(Ok(model)) => {
            let engine = model.engine.clone();
            state.model.fill(model);
            show(&format!("  memory    {}\n", memory_plan(&engine)));
            show(&format!("  ready     http://{address}/v1\n"));
            tokio::select! {
                () = signals.end(&controller) => {}
                // Whoever started the process can start it again, which is what helps.
                () = engine.ended() => {
                    stop.send_replace(Some(Instant::now()));
                    anyhow::bail!("the engine has ended: its device or its model fails for good");
                }
            }
            drain(&state, drain_timeout, stop, servers).await;
            engine.shutdown(ENGINE_GRACE).await;
            Ok(())
        }
        Some(Err(error)) => {
            state.model.fail();
            stop.send_replace(Some(Instant::now()));
            Err(error.context("cannot load the model"))
        }
        None => {
            drain(&state, drain_timeout, stop, servers).await;
            Ok(())
        }
    }
}

async fn start_controller(
    config: &Config,
    environment: Environment,
    flags: Overrides,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Arc<Controller>> {
    let (config, metrics) = (config.clone(), Arc::clone(metrics));
    let start = move || {
        let runtime = plugin_runtime(&config)?;
        let controller = Controller::start(config, environment, flags, runtime, metrics)?;
        anyhow::Ok(Arc::new(controller))
    };
    tokio::task::spawn_blocking(start)
        .await
        .context("loading the plugins panicked")?
}

fn spawn(
    listener: tokio::net::TcpListener,
    app: Router,
    header_timeout: Duration,
    mut stopped: watch::Receiver<Option<Instant>>,
) -> JoinHandle<Drained> {
    tokio::spawn(server::serve(listener, app, header_timeout, async move {
        let deadline = stopped.wait_for(Option::is_some).await;
        // An error means that the sender is gone, and the server with it.
        deadline
            .map_or(None, |deadline| *deadline)
            .unwrap_or_else(Instant::now)
    }))
}

/// Loads the model on a thread of its own; the routes learn its name before it answers.
async fn load_in_background(
    config: &Config,
    controller: &Arc<Controller>,
) -> anyhow::Result<LoadedModel> {
    let (done, result) = oneshot::channel();
    let (config, controller) = (config.clone(), Arc::clone(controller));
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("gapura-load".to_owned())
        .spawn(move || {
            let started = Instant::now();
            let loaded = model_loader::load(&config).and_then(|model| {
                controller.model_known(model.engine.model())?;
                Ok(model)
            });
            let seconds = started.elapsed().as_secs_f64();
            if let Ok(model) = &loaded {
                let info = model.engine.model();
                tracing::info!(
                    model = info.id,
                    seconds,
                    device = info.device,
                    "loaded the model"
                );
            }
            let prefill = loaded
                .as_ref()
                .ok()
                .map(|model| Prefill::new(model.engine.clone(), model.tokenizer.clone(), runtime));
            // Nobody listens any more when the server was stopped meanwhile.
            let _ = done.send(loaded);
            if let Some(prefill) = prefill {
                controller.prefill_with(prefill);
            }
        })
        .context("cannot start a thread to load the model")?;
    result
        .await
        .context("loading the model panicked; the log says where")?
}

/// Ends the requests under way, then the servers. Until the last of them has ended the port
/// stays open: `/readyz` says no, and new requests hear that they have to go elsewhere.
async fn drain(
    state: &AppState,
    timeout: Duration,
    stop: watch::Sender<Option<Instant>>,
    servers: Vec<JoinHandle<Drained>>,
) {
    tracing::info!("draining");
    let deadline = Instant::now() + timeout;
    state.drain();
    let drained = tokio::time::timeout_at(deadline.into(), state.drained()).await;
    if let (Err(_), Some(model)) = (drained, state.model.get()) {
        tracing::warn!("the drain's deadline ends running requests");
        // Each hears why, in its stream or as its answer.
        model.engine.shutdown(Duration::ZERO).await;
    }
    stop.send_replace(Some(Instant::now() + LAST_WORDS));
    for server in servers {
        match server.await {
            Ok(Drained::Whole) => {}
            Ok(Drained::Cut) => tracing::warn!("the drain's deadline cut running requests"),
            Err(error) => tracing::error!(%error, "a server ended badly"),
        }
    }
}

/// The signals that a server heeds.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the end; reloads on the way.
    async fn end(&mut self, controller: &Arc<Controller>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    let controller = Arc::clone(controller);
                    // The controller logs how it went.
                    drop(tokio::task::spawn_blocking(move || controller.reload(Origin::Signal)));
                }
            }
        }
    }
}

fn banner(config: &Config, controller: &Controller, address: std::net::SocketAddr) -> String {
    let routes = controller.route_statuses();
    let names: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
    let access = match (config.keys.len(), address.ip().is_loopback()) {
        (0, true) => "no API key set: local only".to_owned(),
        (0, false) => "no API key set: OPEN to whoever reaches this port".to_owned(),
        (1, _) => "1 API key".to_owned(),
        (count, _) => format!("{count} API keys"),
    };
    let admin = match (&config.admin.token, config.admin.listen) {
        (None, _) => "off (set GAPURA_ADMIN_TOKEN to push plugins)".to_owned(),
        (Some(_), None) => format!("http://{address}/admin/v1"),
        (Some(_), Some(at)) => format!("http://{at}/admin/v1"),
    };
    let source = config.model.source.as_deref().unwrap_or_default();
    let mut text = String::new();
    let lines = [
        ("gapura", version::SHORT.to_owned()),
        ("model", format!("{source} (loading)")),
        ("routes", names.join(", ")),
        ("api", format!("http://{address}/v1")),
        ("access", access),
        ("admin", admin),
    ];
    for (name, value) in lines {
        writeln!(text, "  {name:<9} {value}").expect("a string takes all that is written");
    }
    text
}

/// What the engine has taken and will not exceed.
fn memory_plan(engine: &Engine) -> String {
    let (model, plan) = (engine.model(), engine.kv_plan());
    let mut text = format!(
        "{} of weights, {} of keys and values",
        binary_size(model.weight_bytes),
        binary_size(plan.bytes(&model.kv))
    );
    let groups = [
        ("full", plan.num_full_blocks, model.kv.full_block_bytes),
        (
            "windowed",
            plan.num_windowed_blocks,
            model.kv.windowed_block_bytes,
        ),
    ];
    let held = groups.iter().filter(|(_, _, block_bytes)| *block_bytes > 0);
    for (index, (name, num_blocks, block_bytes)) in held.enumerate() {
        let separator = if index == 0 { ": " } else { ", " };
        let bytes = binary_size(u64::from(*num_blocks) * block_bytes);
        let tokens = *num_blocks as usize * BLOCK_TOKENS;
        write!(text, "{separator}{tokens} tokens {name} ({bytes})")
            .expect("a string takes all that is written");
    }
    let context_length = model.context_length;
    write!(text, "; contexts of {context_length}").expect("a string takes all that is written");
    text
}

fn binary_size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// For the person who started the server; log lines are for machines too.
fn show(text: &str) {
    // Nothing depends on somebody reading it.
    let _ = io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .and_then(|()| io::stdout().flush());
}
