//! `GET /v1/models` and `GET /v1/models/{id}`: the model's own name and every name that leads
//! to a route. They answer while the model loads, because clients list models first.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::{RawPathParams, State};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use crate::error::ApiError;
use crate::routes::Target;
use crate::state::AppState;

/// A name that a request's `model` may be.
#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// The route that answers.
    route: &'a str,
    /// Most tokens of prompt and answer together; absent while the model loads.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_model_len: Option<usize>,
}

#[derive(Serialize)]
struct Models<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

/// All names that the caller's key opens; below `/routes/{route}`, those of that route.
///
/// # Errors
/// 404 for a route that does not exist.
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    target: Target,
) -> Result<Response, ApiError> {
    let table = state.routes.load();
    let only = target.path_route(&table)?.map(|route| route.name.as_str());
    let described = Described::new(&state);
    let models = table.model_ids().into_iter().filter_map(|id| {
        let route = &table.by_model(id)?.name;
        let is_shown = only.is_none_or(|only| only == route) && target.caller.may_use(route);
        is_shown.then(|| described.model(id, route))
    });
    Ok(Json(Models {
        object: "list",
        data: models.collect(),
    })
    .into_response())
}

/// One name.
///
/// # Errors
/// 404 for one that leads nowhere, 403 for one that the caller's key does not open.
pub(crate) async fn show(
    State(state): State<Arc<AppState>>,
    target: Target,
    params: RawPathParams,
) -> Result<Response, ApiError> {
    let id = params
        .iter()
        .find(|(name, _)| *name == "id")
        .map(|(_, id)| id)
        .unwrap_or_default();
    let route = target.route(&state.routes.load(), Some(id))?;
    Ok(Json(Described::new(&state).model(id, &route.name)).into_response())
}

/// What all entries have in common.
struct Described {
    created: u64,
    max_model_len: Option<usize>,
}

impl Described {
    fn new(state: &AppState) -> Self {
        let since_epoch = state.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let model = state.model.get();
        Self {
            created: since_epoch.as_secs(),
            max_model_len: model.map(|model| model.engine.model().context_length),
        }
    }

    fn model<'a>(&self, id: &'a str, route: &'a str) -> Model<'a> {
        Model {
            id,
            object: "model",
            created: self.created,
            owned_by: "gapura",
            route,
            max_model_len: self.max_model_len,
        }
    }
}
