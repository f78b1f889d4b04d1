//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use gapura_engine::{TokenLogprobs, Tokenizer};
use gapura_plugin_runtime::{Chat, FinishReason};
use serde_json::Value;

use crate::app::{new_call_id, read_body};
use crate::error::ApiError;
use crate::openai::chat::ChatRequest;
use crate::openai::chat_answer::{ChatAnswer, ChatChoice, ChatChunk};
use crate::openai::identity::Identity;
use crate::openai::sampling::StreamUsage;
use crate::openai::usage::Tokens;
use crate::pipeline::{self, Call, Deadline, Piece, Pieces, PromptSource};
use crate::routes::Target;
use crate::routes::answering::{Begun, Writer, failed};
use crate::routes::scored::scored;
use crate::routes::sse::{Chunks, Frames};
use crate::state::{AppState, LoadedModel};
use crate::telemetry::RequestRecord;

/// Answers a chat.
pub(crate) async fn chat(
    State(state): State<Arc<AppState>>,
    target: Target,
    request: Request,
) -> Response {
    let mut record = state.record("chat", &target.request_id);
    if target.is_timed {
        record.time();
    }
    match begin(&state, target, request, &mut record).await {
        Ok(begun) => begun.deliver(&state, record).await,
        Err(error) => failed(error, record),
    }
}

/// What makes JSON of pieces.
struct Shape {
    identity: Identity,
    tokenizer: Tokenizer,
    has_logprobs: bool,
}

async fn begin(
    state: &AppState,
    target: Target,
    request: Request,
    record: &mut RequestRecord,
) -> Result<Begun<Shape>, ApiError> {
    let deadline = Deadline::after(state.server.request_timeout);
    let body = read_body(request, &state.server).await?;
    let mut request = ChatRequest::parse(&body, state.server.max_messages)?;
    let salt = request.options.cache_salt.as_deref();
    request.options.cache_salt = target.caller.cache_salt(salt);
    let model: Arc<LoadedModel> = state.ready_model()?;
    let user = request.extra.get("user").and_then(Value::as_str);
    let sticky_key = target.sticky_key(user);
    let route = target.route(&state.routes.load(), request.model.as_deref())?;
    let route = Arc::clone(route.version_for(&sticky_key));
    record.asked_by(
        target.caller.tenant.as_deref(),
        request.delivery.is_stream(),
    );
    record.routed(&route.name, route.chain.label());
    let model_name = request.model.unwrap_or_else(|| route.name.clone());
    let shape = Shape {
        identity: Identity::new("chatcmpl", &model_name),
        tokenizer: model.tokenizer.clone(),
        has_logprobs: request.options.logprobs.is_some(),
    };
    let chain = route.chain_header.clone();
    let call = Call {
        chat: Chat {
            request_id: target.request_id,
            route: route.name.clone(),
            model: model_name,
            tenant: target.caller.tenant.clone(),
            stream: request.delivery.is_stream(),
            messages: request.messages,
            sampling: request.sampling,
            extra: Value::Object(request.extra).to_string(),
            call_id: new_call_id(),
        },
        route,
        sticky_key,
        prompt: PromptSource::Template,
        options: request.options,
        deadline,
        trace: None,
    };
    let answer = pipeline::run(state, &model, call, record).await;
    let answer = answer.map_err(|error| error.with_chain(chain))?;
    Ok(Begun {
        answers: vec![answer],
        writer: shape,
        delivery: request.delivery,
        deadline,
    })
}

impl Writer for Shape {
    async fn whole(self, pieces: &mut Pieces) -> Result<Response, ApiError> {
        let empty = (String::new(), Vec::new(), FinishReason::Stop);
        let mut choices: Vec<(String, Vec<TokenLogprobs>, FinishReason)> =
            vec![empty; pieces.num_choices()];
        while let Some(next) = pieces.next().await {
            let (index, piece) = next?;
            let (text, tokens, finish) = &mut choices[index];
            match piece {
                Piece::Prompt(_) => {}
                Piece::Text(piece) => {
                    text.push_str(&piece.text);
                    tokens.extend(piece.tokens);
                }
                Piece::End(end) => *finish = end.finish,
            }
        }
        let choices = choices
            .into_iter()
            .map(|(text, tokens, finish)| ChatChoice {
                text,
                tokens: self.has_logprobs.then(|| scored(&self.tokenizer, tokens)),
                finish,
            });
        let answer = ChatAnswer::new(&self.identity, choices.collect(), pieces.tokens());
        Ok(Json(answer).into_response())
    }

    fn chunks(self, pieces: &Pieces, usage: StreamUsage) -> impl Chunks {
        ChatChunks {
            started: vec![false; pieces.num_choices()],
            shape: self,
            usage,
        }
    }
}

/// The chunks of a streamed chat.
struct ChatChunks {
    shape: Shape,
    /// Whether a choice has had its role.
    started: Vec<bool>,
    usage: StreamUsage,
}

impl ChatChunks {
    fn push(&self, chunk: ChatChunk<'_>, tokens: Tokens, frames: &mut Frames) {
        if self.usage.include {
            frames.push(&chunk.with_usage(self.usage.continuous.then_some(tokens)));
        } else {
            frames.push(&chunk);
        }
    }
}

impl Chunks for ChatChunks {
    fn piece(&mut self, index: usize, piece: Piece, tokens: Tokens, frames: &mut Frames) {
        if !std::mem::replace(&mut self.started[index], true) {
            self.push(ChatChunk::role(&self.shape.identity, index), tokens, frames);
        }
        let Shape {
            identity,
            tokenizer,
            has_logprobs,
        } = &self.shape;
        match piece {
            Piece::Prompt(_) => {}
            Piece::Text(piece) => {
                let scores = has_logprobs.then(|| scored(tokenizer, piece.tokens));
                let chunk = ChatChunk::text(identity, index, &piece.text, scores);
                self.push(chunk, tokens, frames);
            }
            Piece::End(end) => {
                self.push(
                    ChatChunk::finish(identity, index, end.finish),
                    tokens,
                    frames,
                );
            }
        }
    }

    fn end(&mut self, tokens: Tokens, frames: &mut Frames) {
        if self.usage.include {
            frames.push(&ChatChunk::usage(&self.shape.identity, tokens));
        }
    }
}
