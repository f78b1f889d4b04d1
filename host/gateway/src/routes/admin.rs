//! `/admin/v1`: what the operator may see and change while the server runs. A thin layer over
//! the [`Controller`]: every answer is JSON, every error has the API's shape.

mod explain;
mod records;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, FromRequest as _, Path, Query, Request, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post, put},
};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::{
    auth::Auth,
    controller::{ControlError, Controller, MoveError, Origin, PluginStatus, TrialMode, Until},
    error::ApiError,
    routes::ui,
    signing,
    state::AppState,
    telemetry::ledger::AccountStatus,
};

/// What the handlers share.
#[derive(Clone)]
struct Admin {
    controller: Arc<Controller>,
    auth: Arc<ArcSwap<Auth>>,
    state: Arc<AppState>,
    max_plugin_bytes: usize,
}

/// A plugin and what its versions have cost, those that no longer serve too.
#[derive(Serialize)]
struct WithLedger {
    #[serde(flatten)]
    status: PluginStatus,
    ledger: Vec<AccountStatus>,
}

impl Admin {
    fn with_ledger(&self, status: PluginStatus) -> WithLedger {
        let ledger = self.controller.ledger().status(&status.name);
        WithLedger { status, ledger }
    }
}

/// The routes under `/admin/v1`, and the page that uses them. Without a configured token all of
/// them answer 404. `state` is that of the server that `controller` changes.
pub fn router(controller: Arc<Controller>, state: Arc<AppState>) -> Router {
    let max_plugin_bytes = controller.config().admin.max_plugin_bytes;
    let admin = Admin {
        auth: controller.auth(),
        controller,
        state,
        max_plugin_bytes,
    };
    let inner = Router::new()
        .route("/plugins", get(list_plugins))
        .route("/plugins/{name}", put(push_plugin).get(show_plugin))
        .route("/plugins/{name}/{move}", post(move_plugin))
        .route("/routes", get(list_routes))
        .route("/routes/{name}/explain", post(explain::explain))
        .route("/reload", post(reload))
        .route("/history", get(history))
        .route("/events", get(events))
        .route("/records", get(records::list))
        // An id may hold slashes.
        .route("/records/{*request_id}", get(records::show))
        .route("/artefacts/{digest}", get(records::artefact))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(max_plugin_bytes))
        .layer(middleware::from_fn_with_state(admin.clone(), demand_token))
        .with_state(admin.clone());
    Router::new()
        .nest("/admin/v1", inner)
        .merge(ui::router(admin.auth))
}

/// Comes before everything else, the body included.
async fn demand_token(
    State(admin): State<Admin>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    admin.auth.load().authenticate_admin(request.headers())?;
    Ok(next.run(request).await)
}

/// How far a pushed component is to come.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PushQuery {
    #[serde(default)]
    until: Until,
}

/// Which version is meant, and how it is to serve.
#[derive(Default)]
struct Move {
    /// The first digits of the version's digest, 6 at least.
    digest: Option<String>,
    /// Of a hundred requests, for a canary.
    percent: Option<u8>,
}

impl Move {
    /// # Errors
    /// 400, naming the field that is wrong.
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut parsed = Self::default();
        if body.is_empty() {
            return Ok(parsed);
        }
        let fields: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("the body is not a move: {error}")))?;
        for (field, value) in fields {
            match (field.as_str(), value) {
                ("digest" | "percent", Value::Null) => {}
                ("digest", Value::String(digits)) => parsed.digest = Some(digits),
                ("digest", other) => {
                    let message = format!("`digest` is {other}; it is digits in quotes");
                    return Err(ApiError::invalid(field, message));
                }
                ("percent", value) => parsed.percent = Some(percent(&value)?),
                _ => {
                    let message =
                        format!("`{field}` is no field of a move: digest and percent are");
                    return Err(ApiError::invalid(field, message));
                }
            }
        }
        Ok(parsed)
    }
}

/// Of a hundred requests, those that a canary answers.
fn percent(value: &Value) -> Result<u8, ApiError> {
    let Some(percent) = value.as_u64() else {
        let message = format!("`percent` is {value}; it is a whole number from 1 to 100");
        return Err(ApiError::invalid("percent", message).with_code("invalid_percent"));
    };
    match u8::try_from(percent) {
        Ok(share @ 1..=100) => Ok(share),
        _ => Err(ControlError::from(MoveError::Percent { percent }).into()),
    }
}

async fn push_plugin(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    query: Result<Query<PushQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(PushQuery { until }) = query.map_err(|error| {
        let message = format!("{error}; `until` is staged, verified or live");
        ApiError::invalid("until", message)
    })?;
    let signature = request
        .headers()
        .get(signing::HEADER)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let limit = admin.max_plugin_bytes;
    let component = Bytes::from_request(request, &())
        .await
        .map_err(|error| match error {
            BytesRejection::FailedToBufferBody(inner)
                if inner.status() == StatusCode::PAYLOAD_TOO_LARGE =>
            {
                ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "invalid_request_error",
                    format!("the component is larger than the limit of {limit} bytes"),
                )
                .with_code("component_too_large")
            }
            other => ApiError::bad_request(format!("the body did not come in whole: {other}")),
        })?;
    let controller = admin.controller;
    let push = move || controller.push_signed(&name, &component, signature.as_deref(), until);
    let status = blocking(push).await?;
    let location = format!("/admin/v1/plugins/{}", status.name);
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(status),
    )
        .into_response())
}

/// `verify`, `shadow`, `canary`, `activate`, `rollback`.
async fn move_plugin(
    State(admin): State<Admin>,
    Path((name, action)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<PluginStatus>, ApiError> {
    let Move { digest, percent } = Move::parse(&body)?;
    if percent.is_some() && action != "canary" {
        let message = format!("`percent` means nothing to {action}; a canary has one");
        return Err(ApiError::invalid("percent", message));
    }
    let controller = admin.controller;
    let done: Box<dyn FnOnce() -> Result<PluginStatus, ControlError> + Send> = match action.as_str()
    {
        "verify" => Box::new(move || controller.verify(&name, digest.as_deref())),
        "shadow" => {
            Box::new(move || controller.try_out(&name, digest.as_deref(), TrialMode::Shadow))
        }
        "canary" => {
            let Some(percent) = percent else {
                let message = "`percent` is required: of a hundred requests, how many the \
                                   canary answers";
                return Err(ApiError::invalid("percent", message));
            };
            Box::new(move || {
                controller.try_out(&name, digest.as_deref(), TrialMode::Canary(percent))
            })
        }
        "activate" => Box::new(move || controller.activate(&name, digest.as_deref())),
        "rollback" if digest.is_some() => {
            let message = "a rollback ends the trial or goes back to the version before; to \
                               let a certain one serve, activate it";
            return Err(ApiError::invalid("digest", message));
        }
        "rollback" => Box::new(move || controller.roll_back(&name, Origin::Admin, None, None)),
        _ => return Err(unknown_path().await),
    };
    Ok(Json(blocking(done).await?))
}

async fn list_plugins(State(admin): State<Admin>) -> Json<Value> {
    let plugins = admin.controller.plugins().into_iter();
    let plugins: Vec<_> = plugins.map(|status| admin.with_ledger(status)).collect();
    Json(json!({ "plugins": plugins, "sources": admin.controller.sources() }))
}

async fn show_plugin(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<Json<WithLedger>, ApiError> {
    let status = admin.controller.plugin(&name).ok_or_else(|| {
        ApiError::not_found(format!("there is no plugin `{name}`")).with_code("plugin_not_found")
    })?;
    Ok(Json(admin.with_ledger(status)))
}

async fn list_routes(State(admin): State<Admin>) -> Json<Value> {
    Json(json!({ "routes": admin.controller.route_statuses() }))
}

async fn reload(State(admin): State<Admin>) -> Result<Json<Value>, ApiError> {
    let controller = Arc::clone(&admin.controller);
    blocking(move || controller.reload(Origin::Admin)).await?;
    Ok(Json(
        json!({ "reloaded": true, "routes": admin.controller.route_statuses() }),
    ))
}

async fn history(State(admin): State<Admin>) -> Json<Value> {
    Json(json!({ "history": admin.controller.history() }))
}

/// Changes as they are committed, one event each: the line of history as JSON. Who falls behind
/// misses some, and hears how many. They end when the server begins to shut down.
async fn events(State(admin): State<Admin>) -> impl IntoResponse {
    let changes = stream::unfold(admin.controller.events(), |mut changes| async {
        let event = match changes.recv().await {
            Ok(change) => Event::default().event("change").json_data(change),
            Err(RecvError::Lagged(missed)) => Event::default()
                .event("missed")
                .json_data(json!({ "missed": missed })),
            Err(RecvError::Closed) => return None,
        };
        Some((event, changes))
    });
    Sse::new(changes.take_until(admin.state.draining())).keep_alive(KeepAlive::default())
}

async fn unknown_path() -> ApiError {
    ApiError::not_found(
        "there is no such administration endpoint; there are plugins, plugins/{name}, \
         plugins/{name}/{verify, shadow, canary, activate or rollback}, routes, \
         routes/{name}/explain, reload, history, events, records, records/{request-id} and artefacts/{digest}",
    )
    .with_code("unknown_endpoint")
}

async fn wrong_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "invalid_request_error",
        "this endpoint does not take this method",
    )
    .with_code("method_not_allowed")
}

/// Runs a change where it may compile and touch files.
async fn blocking<T: Send + 'static>(
    change: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(change).await {
        Ok(result) => result.map_err(ApiError::from),
        Err(error) => {
            tracing::error!(%error, "a change panicked");
            Err(ApiError::internal())
        }
    }
}

#[cfg(test)]
mod tests;
