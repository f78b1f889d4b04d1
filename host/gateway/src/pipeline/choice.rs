//! One answer while it is generated: tokens from the engine become text, the text passes the
//! chain's processors, and what they let through comes out in pieces.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gapura_engine::{
    EngineError, SampledToken, TextDelta, TextStream, TokenEvent, TokenId, TokenLogprobs,
    TokenStream, Usage,
};
use gapura_plugin_runtime::{AnswerContext, Delta, FinishReason, Output, Responder, Run};

use crate::error::ApiError;
use crate::pipeline::call::Deadline;
use crate::pipeline::judge::Reply;
use crate::pipeline::observation::{Report, Reporter};
use crate::pipeline::plan::Plan;
use crate::pipeline::scores::Scores;
use crate::pipeline::services::Watch;
use crate::recording::Recorder;
use crate::state::LoadedModel;

/// What comes of an answer, in this order: at most one `Prompt`, any number of `Text`, one
/// `End`.
#[derive(Debug)]
pub enum Piece {
    /// The logprobs of the prompt's tokens but the first, where asked for.
    Prompt(Vec<TokenLogprobs>),
    /// The next text.
    Text(TextPiece),
    /// The answer is complete.
    End(End),
}

/// Text for the client.
#[derive(Debug)]
pub struct TextPiece {
    /// Empty only where there are tokens without text.
    pub text: String,
    /// The logprobs of the tokens that end with this text, where asked for.
    pub tokens: Vec<TokenLogprobs>,
    /// Tokens generated so far.
    pub completion_tokens: u32,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// Why.
    pub finish: FinishReason,
    /// What it took.
    pub usage: Usage,
    /// Time that turning its tokens into text took.
    pub detokenization: Duration,
}

/// One answer while it is generated.
pub struct Choice {
    source: Source,
    text: TextStream,
    responder: Responder,
    scores: Option<Scores>,
    /// Tokens that end an answer and are no text of it.
    end_tokens: Arc<[TokenId]>,
    deadline: Deadline,
    ready: VecDeque<Piece>,
    usage: Usage,
    detokenization: Duration,
    submitted: Instant,
    first_token: Option<Instant>,
    /// What observers will hear of it.
    report: Option<Report>,
    /// Takes the first answer down, where the route records.
    recorder: Option<Arc<Recorder>>,
}

/// Where the text comes from.
enum Source {
    Model(TokenStream),
    Plugin(Reply),
    /// Nothing comes any more; the engine has been told by the drop of its stream.
    Ended,
}

/// Starts every answer of `plan`. Its processors are made when it has its first token: until then
/// it waits in the engine's queue, and its instances would be missing where answers are under way.
///
/// # Errors
/// A processor that is left alone, or what the engine refuses; answers that were started before
/// are dropped.
pub(super) fn submit(
    model: &LoadedModel,
    run: &Run,
    context: &AnswerContext,
    plan: &Plan,
    deadline: Deadline,
    reporter: Option<Reporter>,
    watch: &Watch,
) -> Result<Vec<Choice>, ApiError> {
    let mut choices = Vec::new();
    for index in 0..plan.num_choices {
        let responder = run.responder_when_needed(AnswerContext {
            choice: index,
            ..context.clone()
        })?;
        let mut choice = Choice::new(model, responder, plan.stop.clone(), deadline);
        choice.scores = plan.reports_logprobs().then(Scores::default);
        choice.end_tokens = Arc::clone(&plan.end_tokens);
        choice.usage.prompt_tokens = plan.num_prompt_tokens();
        choice.recorder = watch.recorder.clone().filter(|_| index == 0);
        choices.push(choice);
    }
    for (index, choice) in (0..).zip(&mut choices) {
        let submitted = model.engine.submit(plan.request(index));
        choice.source = Source::Model(submitted.map_err(|error| {
            let error = ApiError::from(error);
            if let Some(reporter) = &reporter {
                reporter.failed(&error);
            }
            error
        })?);
        choice.report = reporter.as_ref().map(|reporter| {
            reporter.report(AnswerContext {
                choice: index,
                ..context.clone()
            })
        });
    }
    Ok(choices)
}

/// The answers of a validator, which pass the processors like any other.
///
/// # Errors
/// A processor that is left alone.
pub(super) fn replies(
    model: &LoadedModel,
    run: &Run,
    context: &AnswerContext,
    num_choices: u32,
    reply: &Reply,
    deadline: Deadline,
    watch: &Watch,
) -> Result<Vec<Choice>, ApiError> {
    let mut choices = Vec::new();
    for index in 0..num_choices {
        let responder = run.responder_when_needed(AnswerContext {
            choice: index,
            ..context.clone()
        })?;
        let mut choice = Choice::new(model, responder, Vec::new(), deadline);
        choice.source = Source::Plugin(reply.clone());
        choice.recorder = watch.recorder.clone().filter(|_| index == 0);
        choices.push(choice);
    }
    Ok(choices)
}

impl Choice {
    fn new(
        model: &LoadedModel,
        responder: Responder,
        stop: Vec<String>,
        deadline: Deadline,
    ) -> Self {
        Self {
            source: Source::Ended,
            text: TextStream::new(model.tokenizer.clone(), stop),
            responder,
            scores: None,
            end_tokens: Arc::new([]),
            deadline,
            ready: VecDeque::new(),
            usage: Usage::default(),
            detokenization: Duration::ZERO,
            submitted: Instant::now(),
            first_token: None,
            report: None,
            recorder: None,
        }
    }

    /// The next piece; `None` after the `End` or an error.
    pub async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(Ok(piece));
            }
            if matches!(self.source, Source::Ended) {
                return None;
            }
            let deadline = self.deadline;
            if let Err(error) = deadline.hold(self.advance()).await {
                self.source = Source::Ended;
                if let Some(report) = &mut self.report {
                    report.failed(&error);
                }
                return Some(Err(error));
            }
        }
    }

    /// Waits for the next event and works it into `ready`.
    async fn advance(&mut self) -> Result<(), ApiError> {
        let event = match &mut self.source {
            Source::Model(stream) => stream.next().await,
            Source::Plugin(_) => return self.reply().await,
            Source::Ended => return Ok(()),
        };
        match event {
            Some(TokenEvent::Prompt(tokens)) => self.ready.push_back(Piece::Prompt(tokens)),
            Some(TokenEvent::Token(token)) => self.token(token).await?,
            Some(TokenEvent::Finished { reason, usage }) => {
                self.usage = usage;
                self.finish(match reason {
                    gapura_engine::FinishReason::Stop => FinishReason::Stop,
                    gapura_engine::FinishReason::Length => FinishReason::Length,
                })
                .await?;
            }
            Some(TokenEvent::Failed(EngineError::DeadlineExceeded { .. })) => {
                return Err(self.deadline.exceeded());
            }
            Some(TokenEvent::Failed(error)) => return Err(error.into()),
            None => return Err(ApiError::internal()),
        }
        Ok(())
    }

    /// A validator's answer, as one delta without tokens.
    async fn reply(&mut self) -> Result<(), ApiError> {
        let Source::Plugin(reply) = std::mem::replace(&mut self.source, Source::Ended) else {
            return Ok(());
        };
        if self.process(reply.text, Vec::new()).await? {
            self.finish_processors(reply.finish).await?;
        }
        Ok(())
    }

    /// A generated token: its text, if it completes any, goes to the processors.
    async fn token(&mut self, token: SampledToken) -> Result<(), ApiError> {
        let now = Instant::now();
        let first = *self.first_token.get_or_insert(now);
        self.usage.completion_tokens += 1;
        // Until the engine's own figures come, which a stop string or a cut forestalls.
        self.usage.prefill_time = first - self.submitted;
        self.usage.decode_time = now - first;
        if self.end_tokens.contains(&token.id) {
            // No text of the answer, even where it stands for some. The engine's `Finished` follows.
            return Ok(());
        }
        if let (Some(scores), Some(logprobs)) = (&mut self.scores, token.logprobs) {
            scores.sampled(logprobs);
        }
        let delta = self.decode(|text| text.push(token.id));
        let stopped = delta.stopped;
        if self.process(delta.text, delta.tokens).await? && stopped {
            self.finish_processors(FinishReason::Stop).await?;
        }
        Ok(())
    }

    /// The engine is done: what is still held comes out.
    async fn finish(&mut self, reason: FinishReason) -> Result<(), ApiError> {
        let delta = self.decode(TextStream::finish);
        // A stop string can be complete only now that no more text follows.
        let reason = if delta.stopped {
            FinishReason::Stop
        } else {
            reason
        };
        if self.process(delta.text, delta.tokens).await? {
            self.finish_processors(reason).await?;
        }
        Ok(())
    }

    /// Turns tokens into text and counts the time.
    fn decode(&mut self, work: impl FnOnce(&mut TextStream) -> TextDelta) -> TextDelta {
        let started = Instant::now();
        let delta = work(&mut self.text);
        self.detokenization += started.elapsed();
        if let Some(recorder) = &self.recorder {
            recorder.delta(&delta);
        }
        delta
    }

    /// Passes decoded text through the processors. Whether the answer goes on.
    async fn process(&mut self, text: String, tokens: Vec<TokenId>) -> Result<bool, ApiError> {
        let logprobs = match &mut self.scores {
            Some(scores) => scores.decoded(tokens.len(), &text),
            None => Vec::new(),
        };
        if text.is_empty() {
            return Ok(true);
        }
        let token_ids = tokens.into_iter().map(|token| token.0).collect();
        let output = self
            .responder
            .push(Delta {
                text,
                token_ids,
                logprobs,
            })
            .await?;
        Ok(self.emit(output))
    }

    /// No text follows: the processors give what they still hold, and the answer ends.
    async fn finish_processors(&mut self, reason: FinishReason) -> Result<(), ApiError> {
        if let Some(recorder) = &self.recorder {
            recorder.finished(reason);
        }
        let output = self.responder.finish(reason).await?;
        if self.emit(output) {
            self.end(reason);
        }
        Ok(())
    }

    /// What the processors made of the text. Whether the answer goes on.
    fn emit(&mut self, output: Output) -> bool {
        match output {
            Output::Emit(text) => {
                self.text_piece(text);
                true
            }
            Output::Cut { reason, text } => {
                self.text_piece(text);
                self.end(reason);
                false
            }
        }
    }

    fn text_piece(&mut self, text: String) {
        if let Some(recorder) = &self.recorder {
            recorder.emitted(&text);
        }
        let tokens = self
            .scores
            .as_mut()
            .map(|scores| scores.emitted(&text))
            .unwrap_or_default();
        if !text.is_empty() || !tokens.is_empty() {
            let completion_tokens = self.usage.completion_tokens;
            self.ready.push_back(Piece::Text(TextPiece {
                text,
                tokens,
                completion_tokens,
            }));
        }
    }

    /// Dropping the engine's stream frees the sequence at the next step.
    fn end(&mut self, finish: FinishReason) {
        self.source = Source::Ended;
        if let Some(report) = &mut self.report {
            report.finished(finish);
        }
        if let Some(recorder) = &self.recorder {
            recorder.ended(finish);
        }
        self.ready.push_back(Piece::End(End {
            finish,
            usage: self.usage,
            detokenization: self.detokenization,
        }));
    }
}

/// However it ended: a client may have left.
impl Drop for Choice {
    fn drop(&mut self) {
        if let Some(report) = &mut self.report {
            report.used(self.usage);
        }
    }
}
