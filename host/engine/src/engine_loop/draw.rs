//! From a step's rows to what they mean for each sequence: scores of its prompt, and its next
//! token.

use rayon::prelude::*;

use crate::{
    error::EngineError,
    grammar::Allowed,
    runner::{BatchSequence, RowOutput, StepOutput},
    sampler::{self, DrawContext},
    scheduler::{Scheduler, Step},
    sequence::{Sequence, SequenceId, SequenceResult},
};

/// Logits of a step below which waking other threads takes longer than reading them alone.
const LOGITS_WORTH_THREADS: usize = 1 << 16;

/// One result for each sequence of the step, in order, and which of them failed. Rows do not
/// depend on each other, so many of them are read in parallel.
pub(super) fn results(
    scheduler: &Scheduler,
    step: &Step,
    output: StepOutput,
) -> (Vec<SequenceResult>, Vec<(SequenceId, EngineError)>) {
    let read = |((id, part), rows): ((&SequenceId, &BatchSequence), _)| {
        let Some(sequence) = scheduler.running_sequence(*id) else {
            return Ok(SequenceResult::default());
        };
        read_rows(sequence, part, rows, step.late.contains(id))
    };
    let num_logits: usize = output
        .rows
        .iter()
        .flatten()
        .map(RowOutput::num_logits)
        .sum();
    let drawn: Vec<_> = if step.ids.len() > 1 && num_logits >= LOGITS_WORTH_THREADS {
        let parts = step.ids.par_iter().zip(&step.batch.sequences);
        parts.zip(output.rows).map(read).collect()
    } else {
        let parts = step.ids.iter().zip(&step.batch.sequences);
        parts.zip(output.rows).map(read).collect()
    };
    let mut failed = Vec::new();
    let mut results = Vec::with_capacity(drawn.len());
    for (&id, result) in step.ids.iter().zip(drawn) {
        results.push(result.unwrap_or_else(|error| {
            failed.push((id, error));
            SequenceResult::default()
        }));
    }
    (results, failed)
}

/// Turns the rows that a step returned for `part` into scores and the next token, which is not
/// drawn where it is not known what may follow.
fn read_rows(
    sequence: &Sequence,
    part: &BatchSequence,
    rows: Vec<RowOutput>,
    is_late: bool,
) -> Result<SequenceResult, EngineError> {
    let mut result = SequenceResult::default();
    let end = part.first_position + part.tokens.len();
    let first_row_position = end - rows.len();
    for (index, row) in rows.into_iter().enumerate() {
        let position = first_row_position + index + 1;
        match (row, sequence.token_at(position)) {
            (RowOutput::Logits(logits), Some(token)) => {
                let num_alternatives = sequence.num_score_alternatives().unwrap_or(0);
                result
                    .scores
                    .push(sampler::score(&logits, token, num_alternatives));
            }
            (_, None) if is_late => result.is_late = true,
            (RowOutput::Logits(logits), None) => {
                let allowed = match sequence.allowed()? {
                    Some(Allowed::End) => {
                        result.is_complete = true;
                        continue;
                    }
                    Some(Allowed::Tokens(mask)) => Some(mask),
                    None => None,
                };
                let context = DrawContext {
                    params: sequence.sampling(),
                    seed: sequence.seed(),
                    position,
                    prompt: sequence.prompt(),
                    generated: sequence.generated(),
                    forbidden: sequence.forbidden_tokens().collect(),
                    allowed,
                    logprobs: sequence.logprobs(),
                };
                result.next = Some(sampler::sample(logits, &context)?);
            }
            (RowOutput::Sampled(token), None) => match sequence.allowed()? {
                Some(Allowed::End) => result.is_complete = true,
                Some(Allowed::Tokens(mask)) if !mask.contains(token.id) => {
                    return Err(EngineError::Step {
                        message: format!("the runner drew a token at {position}, past the grammar"),
                    });
                }
                Some(Allowed::Tokens(_)) | None => result.next = Some(token),
            },
            (RowOutput::Undrawable, _) => {
                return Err(EngineError::Step {
                    message: format!("no logit at position {position} is finite"),
                });
            }
            (RowOutput::Sampled(_), Some(_)) => {
                return Err(EngineError::Step {
                    message: format!("the runner drew a token at {position}, within the prompt"),
                });
            }
        }
    }
    Ok(result)
}
