//! Causal attention of one sequence over its paged keys and values.

use crate::error::{KernelError, check_length, checked_product};
use crate::kv::{BLOCK_TOKENS, KvLayer};

/// What attention needs beside its operands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionParams {
    /// Query heads, a multiple of the key heads; head `h` reads key head
    /// `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)` before the mask.
    pub soft_cap: Option<f32>,
    /// Keys that a query sees, its own included: key visible iff `key > query - window`.
    pub window: Option<usize>,
}

impl AttentionParams {
    /// The first position that the query at `position` sees.
    fn first_visible(&self, position: usize) -> usize {
        self.window
            .map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// `out = softmax(cap(q k^T * scale) + mask) v`, for consecutive positions of one sequence
/// whose own keys and values are already stored.
///
/// `q`, `out`: `[n, heads, head_dim]`, the first row at `first_position`. `block_table[i]`:
/// block of positions `16 i .. 16 i + 16`; an entry whose positions lie before every window
/// is never read and may be anything. The result of a query is the same, bit for bit, alone
/// and in a chunk.
///
/// # Errors
/// [`KernelError::Length`] if `q` or `out` has another length, [`KernelError::Unsupported`]
/// if `heads` is no multiple of the key heads or the window is 0,
/// [`KernelError::OutOfRange`] if a visible position has no block in the cache.
pub fn attention(
    q: &[f32],
    first_position: usize,
    kv: &KvLayer,
    block_table: &[u32],
    params: AttentionParams,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let heads = params.heads;
    if heads == 0 || !heads.is_multiple_of(kv.kv_heads()) {
        let requirement = "a multiple of the key heads";
        return Err(KernelError::Unsupported {
            what: "heads",
            value: heads,
            requirement,
        });
    }
    if params.window == Some(0) {
        return Err(KernelError::Unsupported {
            what: "window",
            value: 0,
            requirement: "positive",
        });
    }
    let dim = kv.head_dim();
    let row = checked_product("heads", heads, dim)?;
    let n = q.len() / row;
    check_length("q", q.len(), n * row)?;
    check_length("out", out.len(), q.len())?;
    if n == 0 {
        return Ok(());
    }
    let last = first_position + n - 1;
    for index in params.first_visible(first_position) / BLOCK_TOKENS..=last / BLOCK_TOKENS {
        kv.checked_block(block_table, index)?;
    }
    for i in 0..n * heads {
        let position = first_position + i / heads;
        let kv_head = i % heads / (heads / kv.kv_heads());
        let q = &q[i * dim..][..dim];
        let visible = params.first_visible(position)..=position;
        let mut scores = Vec::new();
        for position in visible.clone() {
            let keys = kv.keys(block_table[position / BLOCK_TOKENS] as usize, kv_head);
            let slot = position % BLOCK_TOKENS;
            let dot: f32 = (0..dim).map(|d| q[d] * keys[d * BLOCK_TOKENS + slot]).sum();
            let score = dot * params.scale;
            scores.push(
                params
                    .soft_cap
                    .map_or(score, |cap| cap * (score / cap).tanh()),
            );
        }
        let largest = scores.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        let mut total = 0.0;
        let out = &mut out[i * dim..][..dim];
        out.fill(0.0);
        for (score, position) in scores.iter().zip(visible) {
            let weight = (score - largest).exp();
            total += weight;
            let values = kv.values(block_table[position / BLOCK_TOKENS] as usize, kv_head);
            let slot = position % BLOCK_TOKENS;
            for (out, value) in out.iter_mut().zip(&values[slot * kv.padded_dim()..]) {
                *out += weight * value;
            }
        }
        for out in out {
            *out /= total;
        }
    }
    Ok(())
}
