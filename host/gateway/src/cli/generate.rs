//! `gapura generate`: one prompt through the same service that `serve` offers, in process.

use std::{
    io::{self, Write as _},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use axum::{Router, body::Body, http::Request};
use clap::Args;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{ConfigArgs, model_args::ModelArgs};
use crate::{
    app,
    config::{Config, Environment, Overrides},
    controller::Controller,
    model_loader,
    serve::plugin_runtime,
    state::AppState,
    telemetry::{Metrics, start_logging},
};

/// What to ask.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gapura generate --model SmolLM2-135M-Instruct.Q4_1.gguf --prompt 'What is a gapura?'
  gapura generate --model gemma-3-270m.gguf --raw --prompt 'Ibu kota Indonesia adalah'
  gapura generate --config gapura.toml --route asisten --prompt Halo --temperature 0")]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt: a user's message, or with --raw the text to go on from.
    #[arg(long, short)]
    prompt: String,
    /// Give the model the text as it is, without plugins that render or judge.
    #[arg(long)]
    raw: bool,
    /// The route. Default: the default route.
    #[arg(long)]
    route: Option<String>,
    /// Most tokens to generate.
    #[arg(long, default_value_t = 256)]
    max_tokens: u32,
    /// 0 is greedy.
    #[arg(long)]
    temperature: Option<f32>,
    /// Same seed, same prompt, same answer.
    #[arg(long)]
    seed: Option<i64>,
}

impl GenerateArgs {
    /// Loads, asks, and writes the answer as it comes.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut flags = Overrides {
            log_level: Some("warn".to_owned()),
            ..Overrides::default()
        };
        self.model.apply(&mut flags);
        let config = self.config.load(&flags)?;
        start_logging(&config.log)?;
        let app = load(config, flags)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.ask(app.router, &app.route))?;
        app.state
            .model
            .get()
            .expect("it was filled below")
            .engine
            .blocking_shutdown(std::time::Duration::ZERO);
        Ok(())
    }

    async fn ask(&self, router: Router, default_route: &str) -> anyhow::Result<()> {
        let mut body = json!({
            "model": self.route.as_deref().unwrap_or(default_route),
            "max_tokens": self.max_tokens,
            "stream": true,
        });
        let path = if self.raw {
            body["prompt"] = json!(self.prompt);
            "/v1/completions"
        } else {
            body["messages"] = json!([{ "role": "user", "content": self.prompt }]);
            "/v1/chat/completions"
        };
        if let Some(temperature) = self.temperature {
            body["temperature"] = json!(temperature);
        }
        if let Some(seed) = self.seed {
            body["seed"] = json!(seed);
        }
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))?;
        let response = router.oneshot(request).await?;
        let is_success = response.status().is_success();
        let mut pieces = response.into_body().into_data_stream();
        let mut text = Vec::new();
        while let Some(piece) = pieces.next().await {
            text.extend_from_slice(&piece?);
            // Events end with an empty line; an error answer is one JSON object.
            while let Some(end) = text
                .windows(2)
                .position(|pair| is_success && pair == b"\n\n")
            {
                let event: Vec<u8> = text.drain(..end + 2).collect();
                write_event(&event)?;
            }
        }
        if !is_success {
            let error: Value = serde_json::from_slice(&text).context("the answer is not JSON")?;
            bail!(
                "{}",
                error["error"]["message"]
                    .as_str()
                    .unwrap_or("no reason given")
            );
        }
        writeln!(io::stdout())?;
        Ok(())
    }
}

/// What answers.
struct InProcess {
    router: Router,
    route: String,
    state: Arc<AppState>,
}

fn load(mut config: Config, flags: Overrides) -> anyhow::Result<InProcess> {
    if config.model.source.is_none() {
        bail!("no model: name one with --model, MODEL_NAME or [model] source");
    }
    // Whoever runs this command needs no key for it.
    config.keys.clear();
    config.server.max_requests_per_minute = None;
    let metrics = Arc::new(Metrics::new());
    let controller = Controller::look(
        config.clone(),
        Environment::of_process(),
        flags,
        plugin_runtime(&config)?,
        Arc::clone(&metrics),
    )?;
    let model = model_loader::load(&config).context("cannot load the model")?;
    controller.model_known(model.engine.model())?;
    let routes = controller.routes();
    let route = routes.load().default_route().name.clone();
    let state = Arc::new(AppState::new(config.server, &controller));
    state.model.fill(model);
    Ok(InProcess {
        router: app::app(Arc::clone(&state), Router::new()),
        route,
        state,
    })
}

/// Writes the text of one server-sent event.
fn write_event(event: &[u8]) -> anyhow::Result<()> {
    let event = std::str::from_utf8(event)?;
    let Some(data) = event.strip_prefix("data: ").map(str::trim_end) else {
        return Ok(());
    };
    if data == "[DONE]" {
        return Ok(());
    }
    let data: Value = serde_json::from_str(data)?;
    if let Some(message) = data["error"]["message"].as_str() {
        bail!("{message}");
    }
    let choice = &data["choices"][0];
    let text = choice["delta"]["content"]
        .as_str()
        .or(choice["text"].as_str())
        .unwrap_or_default();
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
