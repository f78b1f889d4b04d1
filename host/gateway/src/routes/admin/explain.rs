//! `POST /admin/v1/routes/{name}/explain`: a chat through a route, as a stream of what each plugin
//! and the model did with it.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, Query, Request, State, rejection::QueryRejection},
    response::Response,
};
use gapura_plugin_runtime::Chat;
use serde::Deserialize;
use serde_json::Value;

use super::Admin;
use crate::{
    app::{RequestId, new_call_id, read_body},
    auth::Caller,
    error::ApiError,
    openai::{chat::ChatRequest, usage::Tokens},
    pipeline::{self, Call, Deadline, Piece, Pieces, PromptSource, Step, Trace},
    routes::sse::{self, Chunks, Frames},
    routing::Route,
    telemetry::RequestRecord,
};

/// Tokens of an answer, where the request says nothing.
const DEFAULT_MAX_TOKENS: u32 = 128;
/// And most of them: each may come with a call of every processor, and all of it is told.
const MAX_TOKENS: u32 = 1024;

/// Which version of the route is meant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainQuery {
    #[serde(default)]
    version: Which,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Which {
    #[default]
    Live,
    Trial,
}

/// Events are steps, whatever becomes of the request: a refusal is an explanation too. A request
/// that cannot be tried is an error as anywhere.
pub(super) async fn explain(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(ExplainQuery { version }) = query.map_err(|error| {
        let message = format!("{error}; `version` is live or trial");
        ApiError::invalid("version", message)
    })?;
    let state = &admin.state;
    let deadline = Deadline::after(state.server.request_timeout);
    let route = version_of(&admin, &name, version)?;
    let body = read_body(request, &state.server).await?;
    let request = bounded(
        ChatRequest::parse(&body, state.server.max_messages)?,
        &route,
    )?;
    let model = state.ready_model()?;

    let mut record = state.record("explain", &request_id);
    record.asked_by(None, true);
    record.routed(&route.name, route.chain.label());
    let trace = Arc::<Trace>::default();
    let call = call(request, request_id, route, deadline, &trace);
    match pipeline::run(state, &model, call, &mut record).await {
        Ok(answer) => {
            let pieces = Pieces::new(vec![answer], record);
            let keep_alive = state.server.keep_alive;
            Ok(sse::stream(pieces, Steps(trace), deadline, keep_alive))
        }
        Err(error) => Ok(refused(&error, Steps(trace), record)),
    }
}

fn version_of(admin: &Admin, name: &str, version: Which) -> Result<Arc<Route>, ApiError> {
    let table = admin.state.routes.load();
    let live = table.by_name(name).ok_or_else(|| {
        ApiError::not_found(format!("there is no route `{name}`")).with_code("route_not_found")
    })?;
    let trial = live.trial.as_ref().map(|trial| &trial.route);
    match (version, trial) {
        (Which::Live, _) => Ok(Arc::clone(live)),
        (Which::Trial, Some(trial)) => Ok(Arc::clone(trial)),
        (Which::Trial, None) => {
            let message = format!("the route `{name}` has no version on trial");
            Err(ApiError::invalid("version", message).with_code("no_candidate"))
        }
    }
}

/// # Errors
/// 400 for more than an explanation may hold.
fn bounded(mut request: ChatRequest, route: &Route) -> Result<ChatRequest, ApiError> {
    if request.options.n != 1 {
        return Err(ApiError::invalid("n", "one answer is explained: n is 1"));
    }
    let most = route.limits.max_tokens.unwrap_or(u32::MAX);
    let default = DEFAULT_MAX_TOKENS.min(most);
    let asked = *request.sampling.max_tokens.get_or_insert(default);
    if asked > MAX_TOKENS {
        let message =
            format!("max_tokens is {asked}, an explanation has at most {MAX_TOKENS} tokens");
        return Err(ApiError::invalid("max_tokens", message));
    }
    let salt = request.options.cache_salt.as_deref();
    request.options.cache_salt = Caller::default().cache_salt(salt);
    Ok(request)
}

fn call(
    request: ChatRequest,
    request_id: String,
    route: Arc<Route>,
    deadline: Deadline,
    trace: &Arc<Trace>,
) -> Call {
    Call {
        chat: Chat {
            call_id: new_call_id(),
            request_id: request_id.clone(),
            route: route.name.clone(),
            model: request.model.unwrap_or_else(|| route.name.clone()),
            tenant: None,
            stream: true,
            messages: request.messages,
            sampling: request.sampling,
            extra: Value::Object(request.extra).to_string(),
        },
        route,
        sticky_key: request_id,
        prompt: PromptSource::Template,
        options: request.options,
        deadline,
        trace: Some(Arc::clone(trace)),
    }
}

/// The request has ended before its answer began.
fn refused(error: &ApiError, mut steps: Steps, mut record: RequestRecord) -> Response {
    record.ended(Err(error));
    let mut frames = Frames::default();
    steps.error(error, &mut frames);
    sse::ended(frames)
}

/// One frame for each step.
struct Steps(Arc<Trace>);

impl Steps {
    fn push(&self, frames: &mut Frames) {
        for step in self.0.take() {
            frames.push(&step);
        }
    }
}

impl Chunks for Steps {
    fn piece(&mut self, _index: usize, piece: Piece, tokens: Tokens, frames: &mut Frames) {
        self.push(frames);
        if let Piece::End(end) = piece {
            frames.push(&Step::End {
                finish_reason: end.finish,
                usage: tokens.into(),
            });
        }
    }

    fn end(&mut self, _tokens: Tokens, frames: &mut Frames) {
        self.push(frames);
    }

    fn error(&mut self, error: &ApiError, frames: &mut Frames) {
        self.push(frames);
        let mut body = error.body();
        frames.push(&Step::Error {
            status: error.status().as_u16(),
            error: body["error"].take(),
        });
    }
}
