//! What probes and scrapers ask: no key needed, nothing here touches the model.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use gapura_plugin_runtime::BreakerState;
use serde_json::json;

use crate::error::ApiError;
use crate::state::AppState;
use crate::telemetry::EngineGauges;
use crate::version;

/// `GET /health`: 200 once the model answers, with what is running.
pub(crate) async fn health(State(state): State<Arc<AppState>>) -> Response {
    let model = state.model.get();
    let (status, word) = match condition(&state) {
        Condition::Ready => (StatusCode::OK, "ok"),
        Condition::Loading => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
        Condition::Failed => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
        Condition::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        Condition::Stuck(_) => (StatusCode::SERVICE_UNAVAILABLE, "stuck"),
        Condition::Restarting => (StatusCode::SERVICE_UNAVAILABLE, "restarting"),
        Condition::Dead => (StatusCode::SERVICE_UNAVAILABLE, "dead"),
    };
    let body = json!({
        "status": word,
        "model_loaded": model.is_some(),
        "version": version::SHORT,
        "device": model.map(|model| model.engine.model().device.clone()),
    });
    (status, Json(body)).into_response()
}

/// `GET /livez`: the process answers.
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: whether new requests should come here.
///
/// # Errors
/// 503 with the reason.
pub(crate) async fn readyz(State(state): State<Arc<AppState>>) -> Result<&'static str, ApiError> {
    match condition(&state) {
        Condition::Ready => Ok("ok\n"),
        Condition::Loading => Err(ApiError::loading()),
        Condition::Failed => Err(ApiError::model_failed()),
        Condition::Draining => Err(ApiError::draining()),
        Condition::Stuck(age) => {
            let message = format!("the engine has not moved for {} s", age.as_secs());
            Err(ApiError::unavailable(message, Duration::from_secs(10)).with_code("engine_stuck"))
        }
        Condition::Restarting => {
            let message = "the engine is being restarted after a failure";
            let error = ApiError::unavailable(message, Duration::from_secs(1));
            Err(error.with_code("engine_restarting"))
        }
        Condition::Dead => {
            let message = "the engine has failed for good; only a restart of the server helps";
            Err(ApiError::unavailable(message, Duration::from_secs(60)).with_code("engine_dead"))
        }
    }
}

/// `GET /version`.
pub(crate) async fn show_version() -> Response {
    Json(json!({ "version": version::SHORT })).into_response()
}

/// `GET /metrics`, in Prometheus' text format.
pub(crate) async fn metrics(State(state): State<Arc<AppState>>) -> Response {
    let engine = state.model.get().map(|model| model.engine.stats());
    let gauges = engine.map_or_else(EngineGauges::default, |stats| EngineGauges {
        model_loaded: true,
        running: stats.running,
        waiting: stats.waiting,
        kv_blocks_used: [stats.full_blocks.used, stats.windowed_blocks.used],
        kv_blocks_pinned: [stats.full_blocks.pinned, stats.windowed_blocks.pinned],
        kv_blocks_cached: [stats.full_blocks.cached, stats.windowed_blocks.cached],
        kv_blocks_total: [stats.full_blocks.total, stats.windowed_blocks.total],
        prefix_query_tokens: stats.prefix_query_tokens,
        prefix_hit_tokens: stats.prefix_hit_tokens,
        preemptions: stats.preemptions,
        restarts: stats.restarts,
    });
    let routes = state.routes.load();
    let with_trials = routes.iter().flat_map(|route| {
        let trial = route.trial.as_ref().map(|trial| &trial.route);
        std::iter::once(route).chain(trial)
    });
    state.metrics.breakers(with_trials.flat_map(|route| {
        let bindings = route.chain.bindings().iter().zip(route.chain.breakers());
        bindings.map(|(binding, breaker)| {
            let id = binding.plugin.id();
            let labels = [&route.name, &id.name, &id.version, &id.digest];
            (labels.map(String::as_str), breaker != BreakerState::Closed)
        })
    }));
    let content_type = (
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    );
    ([content_type], state.metrics.scrape(&gauges)).into_response()
}

/// How the server does, the worst first.
enum Condition {
    Failed,
    Draining,
    Loading,
    /// The engine has failed for good.
    Dead,
    /// Its runner is being made anew.
    Restarting,
    /// For so long.
    Stuck(Duration),
    Ready,
}

fn condition(state: &AppState) -> Condition {
    if state.model.has_failed() {
        return Condition::Failed;
    }
    if state.is_draining() {
        return Condition::Draining;
    }
    match state.model.get().map(|model| model.engine.stats()) {
        None => Condition::Loading,
        Some(stats) if !stats.alive => Condition::Dead,
        // Making a runner is no step, but it too must come to an end.
        Some(stats) if stats.since_heartbeat > state.server.stall => {
            Condition::Stuck(stats.since_heartbeat)
        }
        Some(stats) if stats.restarting => Condition::Restarting,
        Some(_) => Condition::Ready,
    }
}
