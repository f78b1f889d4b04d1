//! `/ui`: the operator's page. It is static and holds nothing; what it shows comes from
//! `/admin/v1`, with the token that the operator types into it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Redirect, Response},
    routing::get,
};

use crate::{auth::Auth, error::ApiError};

/// Nothing from elsewhere, nothing inline, no markup out of strings, no frame around it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    // The files change with the binary, under the same names.
    (header::CACHE_CONTROL, "no-cache"),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// Path, type and text. Paths are relative to each other, so that a proxy may put a prefix before
/// all of them.
const FILES: [(&str, &str, &str); 7] = [
    ("/ui", HTML, include_str!("ui/index.html")),
    ("/ui/style.css", CSS, include_str!("ui/style.css")),
    ("/ui/app.js", JS, include_str!("ui/app.js")),
    ("/ui/dom.js", JS, include_str!("ui/dom.js")),
    ("/ui/api.js", JS, include_str!("ui/api.js")),
    ("/ui/plugins.js", JS, include_str!("ui/plugins.js")),
    ("/ui/chat.js", JS, include_str!("ui/chat.js")),
];

/// The page and its files. Without a configured token there is none, as there is no administration.
pub(super) fn router(auth: Arc<ArcSwap<Auth>>) -> Router {
    let mut router = Router::new().route("/ui/", get(Redirect::permanent("../ui")));
    for (path, kind, text) in FILES {
        let file = move || async move { ([(header::CONTENT_TYPE, kind)], text) };
        router = router.route(path, get(file));
    }
    router.layer(middleware::from_fn_with_state(auth, guard))
}

async fn guard(
    State(auth): State<Arc<ArcSwap<Auth>>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    auth.load().check_admin()?;
    let mut response = next.run(request).await.into_response();
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
