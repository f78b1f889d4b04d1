//! Which route a request is for: the one in its path, or the one that its `model` names.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::app::RequestId;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::routing::{Route, RouteTable};
use crate::state::AppState;

/// Asks for `Server-Timing`.
const X_GAPURA_TIMING: HeaderName = HeaderName::from_static("x-gapura-timing");

/// What the client's version of a route is chosen by, while one is a canary.
const X_GAPURA_STICKY: HeaderName = HeaderName::from_static("x-gapura-sticky");
/// Longest value of it.
const MAX_STICKY_BYTES: usize = 256;

/// What the path and the headers say of a request.
pub(crate) struct Target {
    /// The route in the path, where the request came in by `/routes/{route}/v1`.
    route: Option<String>,
    /// Who asks.
    pub(crate) caller: Arc<Caller>,
    /// The value of `x-request-id`.
    pub(crate) request_id: String,
    /// What the client wants its version of a route chosen by.
    sticky: Option<String>,
    /// Whether the answer is to say where the time went.
    pub(crate) is_timed: bool,
}

impl FromRequestParts<Arc<AppState>> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &Arc<AppState>,
    ) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state).await;
        let params = params
            .map_err(|_| ApiError::bad_request("the path is not valid UTF-8 once decoded"))?;
        let mut params = params.iter();
        let route = params
            .find(|(name, _)| *name == "route")
            .map(|(_, value)| value.to_owned());
        let caller = parts.extensions.get::<Arc<Caller>>().cloned();
        let request_id = parts.extensions.get::<RequestId>().cloned();
        let is_timed = asks_for_timing(&parts.headers)?;
        match (caller, request_id) {
            (Some(caller), Some(RequestId(request_id))) => Ok(Self {
                route,
                caller,
                request_id,
                sticky: sticky(&parts.headers)?,
                is_timed,
            }),
            // Both are set by layers around every route that extracts a target.
            _ => Err(ApiError::internal()),
        }
    }
}

impl Target {
    /// The route of a request that names `model`. A route in the path goes before it, whatever
    /// it is: applications often have a model's name built in.
    ///
    /// # Errors
    /// 404 for a route or model that there is not, 400 where neither is named and no route is
    /// the default, 403 for one that the caller's key does not open.
    pub(crate) fn route(
        &self,
        table: &RouteTable,
        model: Option<&str>,
    ) -> Result<Arc<Route>, ApiError> {
        let route = match (&self.route, model) {
            (Some(name), _) => self.in_path(table, name)?,
            (None, Some(model)) => table
                .by_model(model)
                .ok_or_else(|| ApiError::model_not_found(model))?,
            (None, None) => default_route(table)?,
        };
        self.caller.check_route(&route.name)?;
        Ok(Arc::clone(route))
    }

    /// What decides which version of a route answers while one is a canary: the header
    /// `x-gapura-sticky`, else the caller's key together with the request's `user`, as far as there
    /// are any, and else the request alone.
    pub(crate) fn sticky_key(&self, user: Option<&str>) -> String {
        match (&self.sticky, self.caller.tenant.as_deref(), user) {
            (Some(sticky), ..) => sticky.clone(),
            (None, None, None) => self.request_id.clone(),
            (None, tenant, user) => {
                let (tenant, user) = (tenant.unwrap_or_default(), user.unwrap_or_default());
                format!("{tenant}\n{user}")
            }
        }
    }

    /// The route in the path, if there is one in it.
    ///
    /// # Errors
    /// 404 for one that does not exist.
    pub(crate) fn path_route<'a>(
        &self,
        table: &'a RouteTable,
    ) -> Result<Option<&'a Arc<Route>>, ApiError> {
        self.route
            .as_deref()
            .map(|name| self.in_path(table, name))
            .transpose()
    }

    fn in_path<'a>(&self, table: &'a RouteTable, name: &str) -> Result<&'a Arc<Route>, ApiError> {
        table.by_name(name).ok_or_else(|| {
            ApiError::not_found(format!("there is no route `{name}`")).with_code("route_not_found")
        })
    }
}

/// # Errors
/// 400 for a value that is no text, or too long.
fn sticky(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(X_GAPURA_STICKY) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(text) if text.len() <= MAX_STICKY_BYTES => Ok(Some(text.to_owned())),
        _ => Err(ApiError::invalid(
            "x-gapura-sticky",
            format!(
                "the header x-gapura-sticky must be visible ASCII, at most {MAX_STICKY_BYTES} bytes"
            ),
        )),
    }
}

/// Whether the header [`X_GAPURA_TIMING`] is `1`.
fn asks_for_timing(headers: &HeaderMap) -> Result<bool, ApiError> {
    match headers.get(X_GAPURA_TIMING).map(HeaderValue::as_bytes) {
        None | Some(b"0") => Ok(false),
        Some(b"1") => Ok(true),
        Some(_) => Err(ApiError::invalid(
            X_GAPURA_TIMING.as_str(),
            "the header `x-gapura-timing` is 1, for an answer that says where the time went, or 0",
        )),
    }
}

fn default_route(table: &RouteTable) -> Result<&Arc<Route>, ApiError> {
    let route = table.default_route();
    if route.default {
        return Ok(route);
    }
    Err(ApiError::invalid(
        "model",
        "the field `model` is required: no route is the default",
    )
    .with_code("missing_required_parameter"))
}
