//! `POST /tokenize` and `POST /detokenize`, in vLLM's shape: for authors of plugins, and for
//! clients that count before they ask.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use gapura_engine::TokenId;
use gapura_plugin_runtime::{Chat, Sampling};
use serde_json::{Value, json};

use crate::app::{new_call_id, read_body};
use crate::error::ApiError;
use crate::openai::body::Fields;
use crate::openai::message;
use crate::pipeline;
use crate::routes::Target;
use crate::routes::answering::failed;
use crate::state::AppState;
use crate::telemetry::RequestRecord;

/// The tokens of a `prompt`, or of `messages` as the route's template renders them.
pub(crate) async fn tokenize(
    State(state): State<Arc<AppState>>,
    target: Target,
    request: Request,
) -> Response {
    let mut record = state.record("tokenize", &target.request_id);
    match tokens(&state, target, request, &mut record).await {
        Ok(answer) => {
            record.ended(Ok(()));
            Json(answer).into_response()
        }
        Err(error) => failed(error, record),
    }
}

/// The text of `tokens`.
pub(crate) async fn detokenize(
    State(state): State<Arc<AppState>>,
    target: Target,
    request: Request,
) -> Response {
    let mut record = state.record("detokenize", &target.request_id);
    match text(&state, &target, request).await {
        Ok(answer) => {
            record.ended(Ok(()));
            Json(answer).into_response()
        }
        Err(error) => failed(error, record),
    }
}

async fn tokens(
    state: &AppState,
    target: Target,
    request: Request,
    record: &mut RequestRecord,
) -> Result<Value, ApiError> {
    let body = read_body(request, &state.server).await?;
    let mut fields = Fields::parse(&body)?;
    let model_name: Option<String> = fields.take("model")?;
    let model = state.ready_model()?;
    let route = target.route(&state.routes.load(), model_name.as_deref())?;
    let route = Arc::clone(route.version_for(&target.sticky_key(None)));
    record.routed(&route.name, route.chain.label());
    let prompt: Option<String> = fields.take("prompt")?;
    let messages = fields.take_value("messages");
    let with_strings = fields.take::<bool>("return_token_strs")?.unwrap_or(false);
    let ids = match (prompt, messages) {
        (Some(prompt), None) => {
            let with_bos = fields.take::<bool>("add_special_tokens")?.unwrap_or(true);
            pipeline::text_tokens(&model, prompt, with_bos, record).await?
        }
        (None, Some(messages)) => {
            if fields.take::<bool>("add_generation_prompt")? == Some(false) {
                let message = "add_generation_prompt must be true: the route's template renders \
                               what the model is to go on from";
                return Err(ApiError::unsupported(
                    "add_generation_prompt",
                    message.to_owned(),
                ));
            }
            let chat = Chat {
                request_id: target.request_id,
                route: route.name.clone(),
                model: model_name.unwrap_or_else(|| route.name.clone()),
                tenant: target.caller.tenant.clone(),
                stream: false,
                messages: message::parse(messages, state.server.max_messages)?,
                sampling: Sampling::default(),
                extra: "{}".to_owned(),
                call_id: new_call_id(),
            };
            let salt = target.caller.cache_salt(None);
            pipeline::rendered_tokens(state, &model, &route, &chat, salt, record).await?
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid(
                "prompt",
                "send either prompt or messages, not both",
            ));
        }
        (None, None) => {
            return Err(ApiError::invalid(
                "prompt",
                "the field `prompt` or `messages` is required",
            )
            .with_code("missing_required_parameter"));
        }
    };
    let strings = with_strings.then(|| {
        let strings = ids.iter().map(|id| model.tokenizer.token_text(*id));
        strings.collect::<Vec<_>>()
    });
    Ok(json!({
        "count": ids.len(),
        "max_model_len": model.engine.model().context_length,
        "tokens": ids,
        "token_strs": strings,
    }))
}

async fn text(state: &AppState, target: &Target, request: Request) -> Result<Value, ApiError> {
    let body = read_body(request, &state.server).await?;
    let mut fields = Fields::parse(&body)?;
    let model_name: Option<String> = fields.take("model")?;
    let model = state.ready_model()?;
    target.route(&state.routes.load(), model_name.as_deref())?;
    let ids: Vec<TokenId> = fields.require("tokens")?;
    let vocab_size = model.engine.model().vocab_size;
    if let Some(index) = ids.iter().position(|id| id.0 as usize >= vocab_size) {
        let message = format!(
            "token id {} is outside the vocabulary of {vocab_size}",
            ids[index].0
        );
        return Err(ApiError::invalid(format!("tokens.{index}"), message));
    }
    Ok(json!({ "prompt": model.tokenizer.decode(&ids) }))
}
