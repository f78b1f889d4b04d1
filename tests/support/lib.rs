//! What the end-to-end tests share: a whole server in this process, over the simulated model
//! and the real plugins.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use gapura::app::app;
use gapura::config::{Config, Environment, Overrides};
use gapura::controller::Controller;
use gapura::state::{AppState, LoadedModel};
use gapura::telemetry::Metrics;
use gapura_engine::sim::{SimRunner, sim_tokenizer};
use gapura_engine::{Engine, EngineConfig};
use gapura_plugin_runtime::{PluginRuntime, RuntimeConfig};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;

/// One route with nothing but a template.
pub const PLAIN: &str = "[[routes]]\nname = 'chat'\nplugins = [{ plugin = 'chatml' }]\n";

/// A server that answers in this process.
pub struct Server {
    /// The service, as `main` builds it.
    pub app: Router,
    /// Its state.
    pub state: Arc<AppState>,
    /// What swaps its plugins.
    pub controller: Arc<Controller>,
    /// The engine, running from the start whether or not the state has the model yet.
    pub engine: Engine,
    /// Holds the plugins of [`with_plugins`](Self::with_plugins).
    plugins: Option<TempDir>,
}

impl Server {
    /// A server with the configuration `toml`, over a model that `runner` plays.
    pub fn start(toml: &str, runner: SimRunner) -> Self {
        Self::with_engine(toml, runner, EngineConfig::default())
    }

    /// The same with the engine's own limits.
    pub fn with_engine(toml: &str, runner: SimRunner, engine: EngineConfig) -> Self {
        let server = Self::loading(toml, runner, engine);
        server.load();
        server
    }

    /// A server whose model is still loading, until [`load`](Self::load).
    pub fn loading(toml: &str, runner: SimRunner, engine: EngineConfig) -> Self {
        let engine = Engine::start(Box::new(runner), engine).expect("the engine starts");
        Self::loading_over(toml, engine)
    }

    /// A server over an engine that runs already.
    pub fn over(toml: &str, engine: Engine) -> Self {
        let server = Self::loading_over(toml, engine);
        server.load();
        server
    }

    fn loading_over(toml: &str, engine: Engine) -> Self {
        let (environment, flags) = (Environment::default(), Overrides::default());
        let config = Config::parse(None, toml, &environment, &flags).expect("a right config");
        let server = config.server.clone();
        let metrics = Arc::new(Metrics::default());
        let runtime = RuntimeConfig {
            small_reservations: true,
            max_instances: config.plugins.max_instances,
            // Compiled once for all tests.
            cache_dir: Some(std::env::temp_dir().join("gapura-e2e-compiled")),
            ..RuntimeConfig::default()
        };
        let runtime = PluginRuntime::new(runtime).expect("the plugin runtime starts");
        let controller = Controller::start(config, environment, flags, runtime, metrics);
        let controller = Arc::new(controller.expect("right plugins"));
        let state = Arc::new(AppState::new(server, &controller));
        let app = app(
            Arc::clone(&state),
            gapura::routes::admin::router(Arc::clone(&controller), Arc::clone(&state)),
        );
        Self {
            app,
            state,
            controller,
            engine,
            plugins: None,
        }
    }

    /// A server that has these plugins beside the built-in ones.
    pub fn with_plugins(toml: &str, runner: SimRunner, plugins: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for (name, component) in plugins {
            let file = dir.path().join(name).with_extension("wasm");
            std::fs::write(file, component).expect("room in the temporary folder");
        }
        let toml = format!(
            "[plugins]\ndir = '{}'\nwatch = false\n{toml}",
            dir.path().display()
        );
        let server = Self::start(&toml, runner);
        Self {
            plugins: Some(dir),
            ..server
        }
    }

    /// The folder of [`with_plugins`](Self::with_plugins).
    pub fn plugin_dir(&self) -> Option<&Path> {
        self.plugins.as_ref().map(TempDir::path)
    }

    /// The model answers from now on.
    pub fn load(&self) {
        self.controller
            .model_known(self.engine.model())
            .expect("a template that fits");
        self.state
            .model
            .fill(LoadedModel::new(self.engine.clone(), sim_tokenizer()));
    }

    /// Sends a request and waits for the whole answer.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self
            .app
            .clone()
            .oneshot(request)
            .await
            .expect("the service never fails");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX)
            .await
            .expect("the body ends well");
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.to_vec(),
        }
    }

    /// `POST path` with a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(post(path, body.to_string())).await
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> Answer {
        let request = Request::builder()
            .uri(path)
            .body(Body::empty())
            .expect("a right request");
        self.send(request).await
    }

    /// Answers on a free port of this machine, until the test ends.
    pub async fn listen(&self) -> SocketAddr {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = gapura::server::bind(any).await.expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let app = self.app.clone();
        tokio::spawn(gapura::server::serve(
            listener,
            app,
            Duration::from_secs(10),
            std::future::pending(),
        ));
        address
    }
}

/// `POST path` with a body that calls itself JSON.
pub fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("content-type", "application/json")
        .body(body.into())
        .expect("a right request")
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value; empty where it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("a readable header"))
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// The body as JSON, without what differs each time: ids and times.
    pub fn stable(&self) -> Value {
        stable(self.json())
    }

    /// The frames of a stream as clients read them: each is `data: `, JSON and a blank line;
    /// the last is `[DONE]`, which is left out. Comments are skipped.
    pub fn chunks(&self) -> Vec<Value> {
        let frames: Vec<&str> = self
            .text()
            .strip_suffix("\n\n")
            .expect("a stream ends with a blank line")
            .split("\n\n")
            .filter(|frame| !frame.starts_with(':'))
            .map(|frame| {
                frame
                    .strip_prefix("data: ")
                    .expect("a frame begins with `data: `")
            })
            .collect();
        let (done, frames) = frames.split_last().expect("a stream has frames");
        assert_eq!(*done, "[DONE]");
        frames
            .iter()
            .map(|frame| serde_json::from_str(frame).expect("a frame is one line of JSON"))
            .collect()
    }

    /// [`chunks`](Self::chunks) without what differs each time.
    pub fn stable_chunks(&self) -> Vec<Value> {
        self.chunks().into_iter().map(stable).collect()
    }

    /// The text of a streamed chat's choice.
    pub fn streamed_text(&self, index: u64) -> String {
        let choices = self.chunks().into_iter().flat_map(|mut chunk| {
            chunk["choices"]
                .as_array_mut()
                .map(std::mem::take)
                .unwrap_or_default()
        });
        choices
            .filter(|choice| choice["index"] == index)
            .filter_map(|choice| choice["delta"]["content"].as_str().map(str::to_owned))
            .collect()
    }
}

fn stable(mut json: Value) -> Value {
    for key in ["id", "created"] {
        if json.get(key).is_some() {
            json[key] = Value::from("…");
        }
    }
    json
}

/// The component of one of the repository's plugins, built by `plugins/build.sh`.
pub fn component(name: &str) -> Vec<u8> {
    let components = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/target/components");
    let file = Path::new(components).join(name).with_extension("wasm");
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
