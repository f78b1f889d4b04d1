//! `POST /v1/completions`: raw prompts, and the scoring of prompts.
//!
//! Each prompt takes the way of a chat with one user message through validators and
//! processors; it is not rendered, for it has no turns.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use gapura_engine::{TokenId, TokenLogprobs, Tokenizer};
use gapura_plugin_runtime::{Chat, Message, Role};
use serde_json::Value;

use crate::app::{new_call_id, read_body};
use crate::error::ApiError;
use crate::openai::completion::{CompletionRequest, DEFAULT_MAX_TOKENS, RawPrompt};
use crate::openai::completion_answer::{CompletionAnswer, CompletionChoice};
use crate::openai::identity::Identity;
use crate::openai::logprobs::{CompletionLogprobs, ScoredToken};
use crate::openai::sampling::StreamUsage;
use crate::openai::usage::Tokens;
use crate::pipeline::{self, Answer, Call, Deadline, Piece, Pieces, PromptSource};
use crate::routes::Target;
use crate::routes::answering::{Begun, Writer, failed};
use crate::routes::scored::{scored, token_text};
use crate::routes::sse::{Chunks, Frames};
use crate::state::AppState;
use crate::telemetry::RequestRecord;

/// Answers one or several prompts.
pub(crate) async fn completions(
    State(state): State<Arc<AppState>>,
    target: Target,
    request: Request,
) -> Response {
    let mut record = state.record("text_completion", &target.request_id);
    if target.is_timed {
        record.time();
    }
    match begin(&state, target, request, &mut record).await {
        Ok(begun) => begun.deliver(&state, record).await,
        Err(error) => failed(error, record),
    }
}

async fn begin(
    state: &AppState,
    target: Target,
    request: Request,
    record: &mut RequestRecord,
) -> Result<Begun<Choices>, ApiError> {
    let deadline = Deadline::after(state.server.request_timeout);
    let body = read_body(request, &state.server).await?;
    let mut request = CompletionRequest::parse(&body)?;
    let salt = request.options.cache_salt.as_deref();
    request.options.cache_salt = target.caller.cache_salt(salt);
    let model = state.ready_model()?;
    let user = request.extra.get("user").and_then(Value::as_str);
    let sticky_key = target.sticky_key(user);
    let route = target.route(&state.routes.load(), request.model.as_deref())?;
    let route = Arc::clone(route.version_for(&sticky_key));
    let default = route.sampling.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
    let default = default.min(route.limits.max_tokens.unwrap_or(u32::MAX));
    request.sampling.max_tokens.get_or_insert(default);
    let is_stream = request.delivery.is_stream();
    record.asked_by(target.caller.tenant.as_deref(), is_stream);
    record.routed(&route.name, route.chain.label());
    let model_name = request.model.unwrap_or_else(|| route.name.clone());
    let extra = Value::Object(request.extra).to_string();
    let mut answers = Vec::with_capacity(request.prompts.len());
    for prompt in request.prompts {
        let (text, prompt) = source(prompt, &model.tokenizer);
        let chat = Chat {
            request_id: target.request_id.clone(),
            route: route.name.clone(),
            model: model_name.clone(),
            tenant: target.caller.tenant.clone(),
            stream: is_stream,
            messages: vec![user_message(text)],
            sampling: request.sampling.clone(),
            extra: extra.clone(),
            call_id: new_call_id(),
        };
        let options = request.options.clone();
        let call = Call {
            route: Arc::clone(&route),
            sticky_key: sticky_key.clone(),
            chat,
            prompt,
            options,
            deadline,
            trace: None,
        };
        let answer = pipeline::run(state, &model, call, record).await;
        answers.push(answer.map_err(|error| error.with_chain(route.chain_header.clone()))?);
    }
    let echo = |answer: &Answer| {
        let prompt = request.echo.then(|| Arc::clone(&answer.prompt));
        vec![Progress { prompt, offset: 0 }; answer.choices.len()]
    };
    let writer = Choices {
        identity: Identity::new("cmpl", &model_name),
        tokenizer: model.tokenizer.clone(),
        has_logprobs: request.options.logprobs.is_some(),
        choices: answers.iter().flat_map(echo).collect(),
    };
    Ok(Begun {
        answers,
        writer,
        delivery: request.delivery,
        deadline,
    })
}

fn source(prompt: RawPrompt, tokenizer: &Tokenizer) -> (String, PromptSource) {
    match prompt {
        RawPrompt::Text(text) => (text, PromptSource::Text),
        RawPrompt::Tokens(ids) => {
            let text = tokenizer.decode(&ids);
            (text.clone(), PromptSource::Tokens { ids, text })
        }
    }
}

fn user_message(text: String) -> Message {
    Message {
        role: Role::User,
        content: vec![text],
        name: None,
        tool_calls: Vec::new(),
        tool_call_id: None,
    }
}

/// Turns pieces into the choices of answers or chunks.
struct Choices {
    identity: Identity,
    tokenizer: Tokenizer,
    has_logprobs: bool,
    choices: Vec<Progress>,
}

/// How far a choice has come.
#[derive(Clone)]
struct Progress {
    /// The prompt that is still to be echoed.
    prompt: Option<Arc<[TokenId]>>,
    /// Characters written.
    offset: usize,
}

impl Choices {
    /// What a piece adds to its choice.
    fn choices(&mut self, index: usize, piece: Piece) -> Vec<CompletionChoice> {
        let (prompt_scores, piece) = match piece {
            Piece::Prompt(scores) => (scores, None),
            other => (Vec::new(), Some(other)),
        };
        let mut choices = Vec::new();
        if let Some(prompt) = self.choices[index].prompt.take() {
            let text = self.tokenizer.decode(&prompt);
            let scores = self.prompt_scores(&prompt, prompt_scores);
            choices.push(self.choice(index, text, scores));
        }
        match piece {
            None | Some(Piece::Prompt(_)) => {}
            Some(Piece::Text(piece)) => {
                let scores = scored(&self.tokenizer, piece.tokens);
                choices.push(self.choice(index, piece.text, scores));
            }
            Some(Piece::End(end)) => choices.push(CompletionChoice {
                index,
                text: String::new(),
                logprobs: None,
                finish_reason: Some(end.finish),
            }),
        }
        choices
    }

    fn choice(&mut self, index: usize, text: String, scores: Vec<ScoredToken>) -> CompletionChoice {
        let offset = &mut self.choices[index].offset;
        let logprobs = self
            .has_logprobs
            .then(|| CompletionLogprobs::new(scores, offset));
        CompletionChoice {
            index,
            text,
            logprobs,
            finish_reason: None,
        }
    }

    /// The prompt's tokens, `<bos>` included, so that there are as many as the usage says. The
    /// first has no logprob.
    fn prompt_scores(&self, prompt: &[TokenId], scores: Vec<TokenLogprobs>) -> Vec<ScoredToken> {
        let first = prompt.first().map(|id| ScoredToken {
            token: token_text(&self.tokenizer, *id),
            logprob: None,
            top: Vec::new(),
        });
        first
            .into_iter()
            .chain(scored(&self.tokenizer, scores))
            .collect()
    }
}

impl Writer for Choices {
    async fn whole(mut self, pieces: &mut Pieces) -> Result<Response, ApiError> {
        let has_logprobs = self.has_logprobs;
        let empty = |index| CompletionChoice {
            index,
            text: String::new(),
            logprobs: has_logprobs.then(CompletionLogprobs::default),
            finish_reason: None,
        };
        let mut choices: Vec<_> = (0..pieces.num_choices()).map(empty).collect();
        while let Some(next) = pieces.next().await {
            let (index, piece) = next?;
            for part in self.choices(index, piece) {
                let choice = &mut choices[index];
                choice.text.push_str(&part.text);
                if let (Some(logprobs), Some(next)) = (&mut choice.logprobs, part.logprobs) {
                    logprobs.extend(next);
                }
                choice.finish_reason = part.finish_reason.or(choice.finish_reason);
            }
        }
        let answer = CompletionAnswer::new(&self.identity, choices);
        Ok(Json(answer.with_usage(Some(pieces.tokens()))).into_response())
    }

    fn chunks(self, _pieces: &Pieces, usage: StreamUsage) -> impl Chunks {
        CompletionChunks {
            choices: self,
            usage,
        }
    }
}

/// The chunks of a streamed completion.
struct CompletionChunks {
    choices: Choices,
    usage: StreamUsage,
}

impl Chunks for CompletionChunks {
    fn piece(&mut self, index: usize, piece: Piece, tokens: Tokens, frames: &mut Frames) {
        for choice in self.choices.choices(index, piece) {
            let chunk = CompletionAnswer::new(&self.choices.identity, vec![choice]);
            if self.usage.include {
                frames.push(&chunk.with_usage(self.usage.continuous.then_some(tokens)));
            } else {
                frames.push(&chunk);
            }
        }
    }

    fn end(&mut self, tokens: Tokens, frames: &mut Frames) {
        if self.usage.include {
            let chunk = CompletionAnswer::new(&self.choices.identity, Vec::new());
            frames.push(&chunk.with_usage(Some(tokens)));
        }
    }
}
