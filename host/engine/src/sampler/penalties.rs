//! What changes logits before temperature: bias, penalties on tokens already seen, and
//! tokens that may not come.

use super::DrawContext;
use crate::request::TokenId;

/// Applies bias, repetition, frequency and presence penalties, the grammar and the ban on
/// forbidden tokens, in this order. Ids outside of `logits` change nothing.
pub(super) fn apply(logits: &mut [f32], context: &DrawContext<'_>) {
    let params = context.params;
    for &(id, bias) in &params.logit_bias {
        change(logits, id, |logit| logit + bias);
    }
    if params.repetition_penalty != 1.0 {
        let mut seen = vec![0_u64; logits.len().div_ceil(64)];
        for &id in context.prompt.iter().chain(context.generated) {
            let index = id.0 as usize;
            let bit = 1 << (index % 64);
            let Some(word) = seen.get_mut(index / 64).filter(|word| **word & bit == 0) else {
                continue;
            };
            *word |= bit;
            change(logits, id, |logit| {
                if logit > 0.0 {
                    logit / params.repetition_penalty
                } else {
                    logit * params.repetition_penalty
                }
            });
        }
    }
    if params.frequency_penalty != 0.0 || params.presence_penalty != 0.0 {
        let mut generated = context.generated.to_vec();
        generated.sort_unstable();
        for same in generated.chunk_by(|a, b| a == b) {
            let penalty = params.presence_penalty + same.len() as f32 * params.frequency_penalty;
            change(logits, same[0], |logit| logit - penalty);
        }
    }
    let mut forbidden = context.forbidden.as_slice();
    if let Some(allowed) = &context.allowed {
        allowed.apply(logits);
        // A complete answer ends, however short it is.
        if allowed.is_within(forbidden) {
            forbidden = &[];
        }
    }
    for &id in forbidden {
        change(logits, id, |_| f32::NEG_INFINITY);
    }
}

fn change(logits: &mut [f32], id: TokenId, how: impl FnOnce(f32) -> f32) {
    if let Some(logit) = logits.get_mut(id.0 as usize) {
        *logit = how(*logit);
    }
}
