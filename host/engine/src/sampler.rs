//! From one row of logits to one token: penalties, temperature, filters, a draw.
//!
//! The order is that of [`SamplingParams`]. The vocabulary is scanned, never sorted: a full
//! sort of 256,000 entries takes longer than computing the logits of a small model does. What
//! a row yields depends on the row and on [`DrawContext`] alone, never on the batch.

mod filter;
mod logprobs;
mod penalties;
#[cfg(test)]
mod tests;
mod weights;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

pub(crate) use logprobs::score;
use weights::Weigher;

use crate::{
    error::EngineError,
    grammar::TokenMask,
    request::{SampledToken, SamplingParams, TokenId},
};

/// What a draw depends on beside the logits.
#[derive(Debug, Clone)]
pub(crate) struct DrawContext<'a> {
    pub(crate) params: &'a SamplingParams,
    pub(crate) seed: u64,
    /// Of the token to be drawn.
    pub(crate) position: usize,
    pub(crate) prompt: &'a [TokenId],
    pub(crate) generated: &'a [TokenId],
    /// Not to be drawn.
    pub(crate) forbidden: Vec<TokenId>,
    /// What the request's grammar allows.
    pub(crate) allowed: Option<TokenMask>,
    /// Alternatives to report, if any report is wanted.
    pub(crate) logprobs: Option<u32>,
}

/// A token that may be drawn, with its weight: `exp(logit - greatest logit)` after
/// temperature, in (0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    weight: f32,
}

/// Draws a token from `logits`, `[vocab_size]`, which serve as scratch space.
///
/// # Errors
/// [`EngineError::Step`] if no logit is a number: there is nothing to draw from.
pub(crate) fn sample(
    mut logits: Vec<f32>,
    context: &DrawContext<'_>,
) -> Result<SampledToken, EngineError> {
    let raw = context
        .logprobs
        .map(|num_alternatives| logprobs::RawDistribution::of(&logits, num_alternatives));
    penalties::apply(&mut logits, context);
    let id = choose(&mut logits, context).ok_or_else(|| EngineError::Step {
        message: format!("no logit at position {} is finite", context.position),
    })?;
    Ok(SampledToken {
        id: TokenId(id),
        logprobs: raw.map(|raw| raw.report(TokenId(id))),
    })
}

/// Makes weights of the logits where it needs all of them.
fn choose(logits: &mut [f32], context: &DrawContext<'_>) -> Option<u32> {
    let best = weights::argmax(logits)?;
    let params = context.params;
    if params.temperature == 0.0 {
        return Some(best.0);
    }
    let weigher = Weigher::new(best.1, params.temperature);
    let uniform = uniform(context.seed, context.position);
    if (1..logits.len()).contains(&(params.top_k as usize)) {
        return Some(draw(&filter::listed(logits, weigher, params), uniform));
    }
    weigher.weigh(logits);
    weights::draw(logits, filter::cut(logits, params), uniform)
}

/// A number in [0, 1) that depends on `seed` and `position` alone.
fn uniform(seed: u64, position: usize) -> f64 {
    // The 53 bits that a float64 holds exactly.
    (random_bits(seed, position) >> 11) as f64 / (1_u64 << 53) as f64
}

/// 64 random bits that depend on `seed` and `position` alone.
pub(crate) fn random_bits(seed: u64, position: usize) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(position as u64);
    rng.next_u64()
}

/// The candidate in whose share of the total weight `uniform` falls.
fn draw(kept: &[Candidate], uniform: f64) -> u32 {
    let total: f64 = kept.iter().map(|kept| f64::from(kept.weight)).sum();
    let mut left = uniform * total;
    for candidate in kept {
        left -= f64::from(candidate.weight);
        if left < 0.0 {
            return candidate.id;
        }
    }
    // Rounding only: the sum is the same in the same order.
    kept.last().map_or(0, |candidate| candidate.id)
}

impl SamplingParams {
    /// Refuses what the sampler gives no meaning to.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 2.0, "0 to 2"),
            (
                "top_p",
                self.top_p,
                f32::MIN_POSITIVE,
                1.0,
                "above 0, up to 1",
            ),
            ("min_p", self.min_p, 0.0, 1.0, "0 to 1"),
            (
                "presence_penalty",
                self.presence_penalty,
                -2.0,
                2.0,
                "-2 to 2",
            ),
            (
                "frequency_penalty",
                self.frequency_penalty,
                -2.0,
                2.0,
                "-2 to 2",
            ),
            (
                "repetition_penalty",
                self.repetition_penalty,
                f32::MIN_POSITIVE,
                f32::MAX,
                "a number above 0",
            ),
        ];
        let biases = self
            .logit_bias
            .iter()
            .map(|&(_, bias)| ("logit_bias", bias, -100.0, 100.0, "-100 to 100"));
        for (name, value, least, most, allowed) in ranges.into_iter().chain(biases) {
            // Written so that NaN is outside too.
            if !(least..=most).contains(&value) {
                return Err(EngineError::InvalidParameter {
                    name,
                    value: value.to_string(),
                    allowed,
                });
            }
        }
        Ok(())
    }
}
