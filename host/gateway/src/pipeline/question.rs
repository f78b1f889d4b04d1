//! Questions that plugins put to the model beside a request: rendered by the route's own template,
//! computed in the low lane for the request's tenant, and given up with the request. Neither
//! validators nor processors see them.

use std::sync::Arc;
use std::time::Instant;

use gapura_engine::{
    CacheParams, EngineError, GenerateRequest, GrammarError, Lane, QueueParams, TextStream,
    TokenEvent, TokenStream,
};
use gapura_plugin_runtime::{
    Answering, Asker, Chain, Chat, FinishReason, Model, ModelAnswer, ModelError, PluginId,
    Question, Rendered, Services,
};

use crate::pipeline::call::Deadline;
use crate::pipeline::{grammar, prompt};
use crate::state::LoadedModel;
use crate::telemetry::ledger::{Asked, Tally};

/// The model, for the plugins of one request.
pub(super) struct Questions {
    pub(super) model: Arc<LoadedModel>,
    /// What the request's plugins cost, where anybody wants to know.
    pub(super) tally: Option<Arc<Tally>>,
    /// Whose template renders.
    pub(super) chain: Arc<Chain>,
    /// For the template; they ask nobody, so that rendering a question asks no other.
    pub(super) services: Services,
    /// The request, without what was said in it.
    pub(super) chat: Chat,
    /// Who shares computed prefixes.
    pub(super) salt: Option<Arc<str>>,
    /// The request's own.
    pub(super) deadline: Deadline,
}

impl Model for Questions {
    fn ask<'a>(&'a self, asker: Asker<'a>, question: Question) -> Answering<'a> {
        // From the call on, so that whoever gives up after `within` does not do so before.
        let own = Instant::now().checked_add(asker.within);
        let until = own.map_or(self.deadline.at(), |own| own.min(self.deadline.at()));
        Box::pin(async move {
            let mut count = Count::new(self.tally.as_deref(), asker.plugin, until);
            let answer = self.answer(question, until, &mut count).await;
            count.outcome = Some(match &answer {
                Ok(_) => Asked::Answered,
                Err(ModelError::Budget(_)) => Asked::Budget,
                Err(ModelError::Depth) => Asked::Depth,
                Err(ModelError::Deadline) => Asked::Deadline,
                Err(ModelError::Overloaded) => Asked::Overloaded,
                Err(ModelError::Invalid(_)) => Asked::Invalid,
                Err(ModelError::Failed(_)) => Asked::Failed,
            });
            let is_over = Instant::now() >= self.deadline.at();
            if is_over && matches!(answer, Err(ModelError::Deadline)) {
                // With the request's time the request ends, whoever notices first: its guest does
                // not get to make something of it.
                drop(count);
                std::future::pending::<()>().await;
            }
            answer
        })
    }
}

impl Questions {
    async fn answer(
        &self,
        question: Question,
        until: Instant,
        count: &mut Count<'_>,
    ) -> Result<ModelAnswer, ModelError> {
        let (mut request, stop) = self.request(question).await?;
        request.queue.deadline = Some(until);
        let prompt_tokens = u32::try_from(request.prompt.len()).unwrap_or(u32::MAX);
        let stream = self.model.engine.submit(request).map_err(refused)?;
        count.input = prompt_tokens;
        self.collect(stream, stop, count).await
    }

    /// What the engine is asked, and the template's stop strings.
    async fn request(
        &self,
        question: Question,
    ) -> Result<(GenerateRequest, Vec<String>), ModelError> {
        let chat = Chat {
            messages: question.messages,
            ..self.chat.clone()
        };
        let invalid = |why: String| ModelError::Invalid(why);
        prompt::check_length(&self.model, &chat, "messages")
            .map_err(|error| invalid(error.message().to_owned()))?;
        let mut run = self.chain.start_nested(self.services.clone());
        let rendered = run.render(&chat).await;
        let rendered = match rendered.map_err(|failure| ModelError::Failed(failure.to_string()))? {
            Rendered::Prompt(prompt) => prompt,
            Rendered::Refused { refusal, .. } => return Err(invalid(refusal.message)),
            Rendered::Answered { .. } => {
                return Err(ModelError::Failed("the route's template fails".to_owned()));
            }
        };
        let ids = prompt::ids(&self.model, rendered.segments).await;
        let ids = ids
            .map_err(|error| ModelError::Failed(error.message().to_owned()))?
            .map_err(|name| {
                let problem = "the template named a control token that the model does not have";
                ModelError::Failed(format!("{problem}: {name}"))
            })?;
        let context_length = self.model.engine.model().context_length;
        let num_tokens = ids.all.len();
        let room = context_length.saturating_sub(num_tokens);
        if num_tokens == 0 || room == 0 {
            let prompt = format!("a prompt of {num_tokens} tokens");
            return Err(invalid(format!(
                "{prompt} in a context of {context_length}"
            )));
        }
        let max_tokens = question
            .max_tokens
            .min(u32::try_from(room).unwrap_or(u32::MAX));
        let mut request = GenerateRequest::new(self.chat.request_id.clone(), ids.all, max_tokens);
        request.sampling.temperature = question.temperature;
        request.queue = QueueParams {
            tenant: self.chat.tenant.as_deref().map(Arc::from),
            lane: Lane::Low,
            deadline: None,
        };
        request.cache = CacheParams {
            salt: self.salt.clone(),
            prefix_tokens: ids.num_prefix,
        };
        // A grammar that the template imposes is for the answers of the route.
        if let Some(asked) = question.grammar {
            let compiled = grammar::compile(&self.model, grammar::source(asked)).await;
            let compiled =
                compiled.map_err(|error| ModelError::Failed(error.message().to_owned()))?;
            request.grammar = Some(compiled.map_err(|error| match error {
                GrammarError::Busy => ModelError::Overloaded,
                error => invalid(error.to_string()),
            })?);
        }
        Ok((request, rendered.stop))
    }

    /// The whole answer. Dropping this drops the stream, which frees the sequence.
    async fn collect(
        &self,
        mut stream: TokenStream,
        stop: Vec<String>,
        count: &mut Count<'_>,
    ) -> Result<ModelAnswer, ModelError> {
        let end_tokens = &self.model.engine.model().eos_token_ids;
        let mut decoder = TextStream::new(self.model.tokenizer.clone(), stop);
        let mut text = String::new();
        let finish = loop {
            let delta = match stream.next().await {
                Some(TokenEvent::Prompt(_)) => continue,
                Some(TokenEvent::Token(token)) => {
                    count.output += 1;
                    if end_tokens.contains(&token.id) {
                        continue;
                    }
                    decoder.push(token.id)
                }
                Some(TokenEvent::Finished { reason, .. }) => {
                    let rest = decoder.finish();
                    text.push_str(&rest.text);
                    break match reason {
                        gapura_engine::FinishReason::Length if !rest.stopped => {
                            FinishReason::Length
                        }
                        _ => FinishReason::Stop,
                    };
                }
                Some(TokenEvent::Failed(error)) => return Err(refused(error)),
                None => return Err(ModelError::Failed("the engine has ended".to_owned())),
            };
            text.push_str(&delta.text);
            if delta.stopped {
                break FinishReason::Stop;
            }
        };
        Ok(ModelAnswer {
            text,
            finish,
            prompt_tokens: count.input,
            completion_tokens: count.output,
        })
    }
}

fn refused(error: EngineError) -> ModelError {
    match error {
        EngineError::Overloaded { .. } => ModelError::Overloaded,
        EngineError::DeadlineExceeded { .. } => ModelError::Deadline,
        EngineError::EmptyPrompt
        | EngineError::PromptTooLong { .. }
        | EngineError::UnknownToken { .. }
        | EngineError::InvalidParameter { .. } => ModelError::Invalid(error.to_string()),
        EngineError::ShuttingDown | EngineError::Grammar { .. } => {
            ModelError::Failed(error.to_string())
        }
        // Details go to the log.
        EngineError::Step { .. } => ModelError::Failed("the model could not run a step".to_owned()),
    }
}

/// Counts a question once, also one that is given up.
struct Count<'a> {
    tally: Option<&'a Tally>,
    plugin: &'a PluginId,
    until: Instant,
    /// `None` until there is an answer or an error.
    outcome: Option<Asked>,
    input: u32,
    output: u32,
}

impl<'a> Count<'a> {
    fn new(tally: Option<&'a Tally>, plugin: &'a PluginId, until: Instant) -> Self {
        Self {
            tally,
            plugin,
            until,
            outcome: None,
            input: 0,
            output: 0,
        }
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        let Some(tally) = self.tally else { return };
        // The guest's call and the request hold the same limits and may be the first to give up.
        let outcome = self.outcome.unwrap_or(if Instant::now() < self.until {
            Asked::GivenUp
        } else {
            Asked::Deadline
        });
        tally.question(self.plugin, outcome, [self.input, self.output]);
    }
}
