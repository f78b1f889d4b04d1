//! `/admin/v1`: what the operator may see and change while the server runs. A thin layer over
//! the [`Controller`]: every answer is JSON, every error has the API's shape.

mod records;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, FromRequest as _, Path, Request, State, rejection::BytesRejection,
    },
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    auth::Auth,
    controller::{ControlError, Controller, Origin, PluginStatus},
    error::ApiError,
    recording::Records,
    telemetry::ledger::AccountStatus,
};

/// What the handlers share.
#[derive(Clone)]
struct Admin {
    controller: Arc<Controller>,
    auth: Arc<ArcSwap<Auth>>,
    records: Arc<Records>,
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

/// The routes under `/admin/v1`. Without a configured token all of them answer 404. `records` are
/// those of the server that `controller` changes.
pub fn router(controller: Arc<Controller>, records: Arc<Records>) -> Router {
    let max_plugin_bytes = controller.config().admin.max_plugin_bytes;
    let admin = Admin {
        auth: controller.auth(),
        controller,
        records,
        max_plugin_bytes,
    };
    let inner = Router::new()
        .route("/plugins", get(list_plugins))
        .route("/plugins/{name}", put(push_plugin).get(show_plugin))
        .route("/routes", get(list_routes))
        .route("/reload", post(reload))
        .route("/history", get(history))
        .route("/records", get(records::list))
        // An id may hold slashes.
        .route("/records/{*request_id}", get(records::show))
        .route("/artefacts/{digest}", get(records::artefact))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(max_plugin_bytes))
        .layer(middleware::from_fn_with_state(admin.clone(), demand_token))
        .with_state(admin);
    Router::new().nest("/admin/v1", inner)
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

async fn push_plugin(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
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
    let status = blocking(move || controller.push(&name, &component)).await?;
    let location = format!("/admin/v1/plugins/{}", status.name);
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(status),
    )
        .into_response())
}

async fn list_plugins(State(admin): State<Admin>) -> Json<Value> {
    let refused: Vec<Value> = admin
        .controller
        .refusals()
        .into_iter()
        .map(|(name, refusal)| json!({ "name": name, "refused": refusal }))
        .collect();
    let plugins = admin.controller.plugins().into_iter();
    let plugins: Vec<_> = plugins.map(|status| admin.with_ledger(status)).collect();
    Json(json!({ "plugins": plugins, "refused": refused }))
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

async fn unknown_path() -> ApiError {
    ApiError::not_found(
        "there is no such administration endpoint; there are plugins, plugins/{name}, routes, \
         reload, history, records, records/{request-id} and artefacts/{digest}",
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
