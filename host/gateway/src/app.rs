//! The whole HTTP service as one [`Router`], the same for `main` and for tests.

mod access;
mod body;
mod request_id;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, header};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

pub(crate) use body::read_body;
pub(crate) use request_id::{RequestId, new_call_id};

use crate::config::ServerConfig;
use crate::error::{ApiError, Unrecorded};
use crate::routes::{chat, completions, health, models, tokenize};
use crate::state::AppState;

/// The service over `state`. `admin` is the administration API where it shares the listener,
/// else an empty router; it checks its own token.
pub fn app(state: Arc<AppState>, admin: Router) -> Router {
    let cors = cors(&state.server);
    let keyed = Router::new()
        .nest("/v1", v1())
        .nest("/routes/{route}/v1", v1())
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route_layer(middleware::from_fn_with_state(
            Arc::clone(&state),
            access::authenticate,
        ));
    let open = Router::new()
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/version", get(health::show_version))
        .route("/metrics", get(health::metrics));
    let app = Router::new()
        .merge(keyed)
        .merge(open)
        .with_state(state)
        .merge(admin)
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(access::limit_headers))
        .layer(CatchPanicLayer::custom(panicked));
    let app = match cors {
        Some(cors) => app.layer(cors),
        None => app,
    };
    with_request_ids(app)
}

/// `router` with an id for every request, and a log line for each that is refused.
pub(crate) fn with_request_ids(router: Router) -> Router {
    router.layer(middleware::from_fn(request_id::request_id))
}

/// The endpoints below `/v1`, and below `/routes/{route}/v1`.
fn v1() -> Router<Arc<AppState>> {
    Router::new()
        .route("/chat/completions", post(chat::chat))
        .route("/completions", post(completions::completions))
        .route("/models", get(models::list))
        // A model's id may hold slashes, raw or as `%2F`.
        .route("/models/{*id}", get(models::show))
}

async fn unknown_path(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::not_found(format!("there is nothing at {method} {path}")).with_code("unknown_path")
}

/// axum adds `Allow`.
async fn wrong_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::method_not_allowed(format!("{path} does not answer {method}"))
}

/// A defect of ours must not look like a broken connection.
fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let reason = text
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(reason, "a handler panicked");
    let mut response = ApiError::internal().into_response();
    // The panic has its line, and where there was a record, that has written its own.
    response.extensions_mut().remove::<Unrecorded>();
    response
}

/// Browsers of other origins are kept out unless the configuration lets them in.
fn cors(server: &ServerConfig) -> Option<CorsLayer> {
    if server.cors_allow_origins.is_empty() {
        return None;
    }
    let origins = if server.cors_allow_origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let origins = server.cors_allow_origins.iter();
        AllowOrigin::list(origins.filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        // Official clients add headers of their own (`x-stainless-*`); none has power here.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([
            request_id::X_REQUEST_ID,
            crate::error::X_GAPURA_CHAIN,
            header::RETRY_AFTER,
            crate::error::RETRY_AFTER_MS,
            crate::error::X_SHOULD_RETRY,
            crate::routes::SERVER_TIMING,
        ]);
    Some(layer)
}
