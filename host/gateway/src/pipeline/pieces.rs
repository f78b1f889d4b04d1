//! All answers of a request as one stream of pieces, in the order in which they come, with
//! the accounting that whole answers and streams have in common.

use std::pin::Pin;

use futures_util::stream::{self, SelectAll, Stream, StreamExt as _};

use crate::error::ApiError;
use crate::openai::usage::{Tokens, finish_reason};
use crate::pipeline::Answer;
use crate::pipeline::choice::{Choice, Piece};
use crate::telemetry::RequestRecord;

/// What comes next, and of which answer.
type Next = (usize, Result<Piece, ApiError>);

/// The pieces of all answers of a request.
pub struct Pieces {
    choices: SelectAll<Pin<Box<dyn Stream<Item = Next> + Send>>>,
    /// Tokens of each answer so far.
    completion_tokens: Vec<u32>,
    prompt_tokens: u32,
    cached_tokens: u32,
    record: RequestRecord,
}

impl Pieces {
    /// Of `answers`, one for each prompt; the answers to a prompt follow those to the one
    /// before it.
    pub fn new(answers: Vec<Answer>, mut record: RequestRecord) -> Self {
        let prompt_tokens = answers
            .iter()
            .map(|answer| answer.prompt.len())
            .sum::<usize>();
        let prompt_tokens = u32::try_from(prompt_tokens).unwrap_or(u32::MAX);
        record.prompted(prompt_tokens);
        let choices = answers.into_iter().flat_map(|answer| answer.choices);
        let streams: Vec<_> = choices
            .enumerate()
            .map(|(index, choice)| pieces_of(index, choice))
            .collect();
        Self {
            completion_tokens: vec![0; streams.len()],
            choices: stream::select_all(streams),
            prompt_tokens,
            cached_tokens: 0,
            record,
        }
    }

    /// Answers to come.
    pub fn num_choices(&self) -> usize {
        self.completion_tokens.len()
    }

    /// The next piece of any answer; `None` once all have ended.
    ///
    /// # Errors
    /// Why one failed; the others are dropped.
    pub async fn next(&mut self) -> Option<Result<(usize, Piece), ApiError>> {
        let (index, piece) = match self.choices.next().await {
            Some(next) => next,
            None => {
                self.record.ended(Ok(()));
                return None;
            }
        };
        match &piece {
            Ok(Piece::Prompt(_)) => {}
            Ok(Piece::Text(text)) => {
                self.generated(index, text.completion_tokens);
            }
            Ok(Piece::End(end)) => {
                self.generated(index, end.usage.completion_tokens);
                self.cached_tokens += end.usage.cached_tokens;
                self.record.detokenized(end.detokenization);
                self.record.answered(end.usage, finish_reason(end.finish));
            }
            Err(error) => {
                self.choices.clear();
                self.record.ended(Err(error));
            }
        }
        Some(piece.map(|piece| (index, piece)))
    }

    fn generated(&mut self, index: usize, tokens: u32) {
        self.completion_tokens[index] = tokens;
        self.record.generated(self.completion_tokens.iter().sum());
    }

    /// Where the time went so far, where that is wanted.
    pub(crate) fn server_timing(&self) -> Option<String> {
        self.record.server_timing()
    }

    /// What the request has taken so far.
    pub fn tokens(&self) -> Tokens {
        Tokens {
            prompt: self.prompt_tokens,
            cached: self.cached_tokens.min(self.prompt_tokens),
            completion: self.completion_tokens.iter().sum(),
        }
    }
}

fn pieces_of(index: usize, choice: Choice) -> Pin<Box<dyn Stream<Item = Next> + Send>> {
    Box::pin(stream::unfold(choice, move |mut choice| async move {
        let piece = choice.next().await?;
        Some(((index, piece), choice))
    }))
}
