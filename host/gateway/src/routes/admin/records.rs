//! Recorded requests, and the components that they ran on.

use axum::{
    Json,
    extract::{Path, State},
    http::header,
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use super::Admin;
use crate::error::ApiError;

pub(super) async fn list(State(admin): State<Admin>) -> Json<Value> {
    Json(json!({ "records": admin.state.records.list() }))
}

pub(super) async fn show(
    State(admin): State<Admin>,
    Path(request_id): Path<String>,
) -> Result<Response, ApiError> {
    let record = admin.state.records.get(&request_id).ok_or_else(|| {
        ApiError::not_found(format!(
            "there is no record of the request `{request_id}`: its route keeps none (`record`), or \
             newer ones have taken its place"
        ))
        .with_code("record_not_found")
    })?;
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok((json, record.to_string()).into_response())
}

pub(super) async fn artefact(
    State(admin): State<Admin>,
    Path(digest): Path<String>,
) -> Result<Response, ApiError> {
    let (controller, of) = (admin.controller, digest.clone());
    let component = tokio::task::spawn_blocking(move || controller.component(&of)).await;
    let component = component.map_err(|error| {
        tracing::error!(%error, "reading a component panicked");
        ApiError::internal()
    })?;
    let component = component.ok_or_else(|| {
        ApiError::not_found(format!(
            "no component with the SHA-256 `{digest}` is kept here"
        ))
        .with_code("artefact_not_found")
    })?;
    let wasm = [(header::CONTENT_TYPE, "application/wasm")];
    Ok((wasm, component.to_vec()).into_response())
}
