//! Causal attention of one sequence over its paged keys and values.

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::activation_fn::cap_lanes;
use crate::error::{KernelError, check_length, checked_product};
use crate::kv::{BLOCK_TOKENS, KvLayer};
use crate::parallel::for_parts;
use crate::simd::{Isa, LANES, Op, Simd, exp};

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
    /// The positions that the query at `position` sees.
    fn visible(&self, position: usize) -> Range<usize> {
        let end = position + 1;
        self.window.map_or(0, |window| end.saturating_sub(window))..end
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
    attention_on(Isa::best(), q, first_position, kv, block_table, params, out)
}

fn attention_on(
    isa: Isa,
    q: &[f32],
    first_position: usize,
    kv: &KvLayer,
    block_table: &[u32],
    params: AttentionParams,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let heads = params.heads;
    if heads == 0 || !heads.is_multiple_of(kv.kv_heads()) {
        let requirement = "a positive multiple of the key heads";
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
    let row = checked_product("heads", heads, kv.head_dim())?;
    let n = q.len() / row;
    check_length("q", q.len(), n * row)?;
    check_length("out", out.len(), q.len())?;
    if n == 0 {
        return Ok(());
    }
    let limit = block_table.len() * BLOCK_TOKENS;
    if n > limit.saturating_sub(first_position) {
        let value = first_position.saturating_add(n - 1);
        return Err(KernelError::OutOfRange {
            what: "position",
            value,
            limit,
        });
    }
    let visible = params.visible(first_position).start..first_position + n;
    for index in visible.start / BLOCK_TOKENS..=(visible.end - 1) / BLOCK_TOKENS {
        kv.checked_block(block_table, index)?;
    }
    // One query is split by key heads, several by queries.
    let kv_heads = if n == 1 { 1 } else { kv.kv_heads() };
    let item = row / kv.kv_heads() * kv_heads;
    let item_work = 2 * params.visible(visible.end - 1).len() * item;
    for_parts(out, item, item_work / MACS_PER_NS, |first, out| {
        let count = out.len() / item;
        let (kv_heads, first_query) = if n == 1 {
            (first..first + count, 0)
        } else {
            (0..kv_heads, first)
        };
        let q = &q[first * item..][..out.len()];
        let first_position = first_position + first_query;
        isa.run(Attend {
            q,
            first_position,
            kv,
            kv_heads,
            block_table,
            params,
            out,
        });
    });
    Ok(())
}

/// Multiply-adds per nanosecond and thread, for splitting the work. Of the right order.
const MACS_PER_NS: usize = 10;

/// Some queries and all heads, or one query and some heads.
///
/// For each query and head, over the blocks of 16 positions in order (blocks without a visible
/// key are left out): scores are sums over even and over odd dimensions, by `fma` in order,
/// then added; a running maximum rescales what is there when it grows; weighted values are
/// added by `fma` in the order of positions. Weights are summed by position modulo 16.
struct Attend<'a> {
    /// `[n, kv_heads.len() * group, head_dim]`.
    q: &'a [f32],
    first_position: usize,
    kv: &'a KvLayer,
    kv_heads: Range<usize>,
    block_table: &'a [u32],
    params: AttentionParams,
    /// As `q`.
    out: &'a mut [f32],
}

impl Op for Attend<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let group = self.params.heads / self.kv.kv_heads();
        let num_rows = self.q.len() / self.kv.head_dim() / self.kv_heads.len();
        debug_assert!(num_rows.is_multiple_of(group));
        let vectors = self.kv.padded_dim() / LANES;
        let mut rows = Rows::<S> {
            running: vec![Running::new(s); num_rows],
            sums: vec![[0.0; LANES]; num_rows * vectors],
        };
        let last_position = self.first_position + num_rows / group - 1;
        let first_block = self.params.visible(self.first_position).start / BLOCK_TOKENS;
        let end_block = last_position / BLOCK_TOKENS + 1;
        let span_blocks = (SPAN_BYTES / (2 * BLOCK_TOKENS * self.kv.padded_dim() * 4)).max(1);
        for kv_head in self.kv_heads.clone() {
            let mut start = first_block;
            while start < end_block {
                let span = start..end_block.min(start + span_blocks);
                self.span(s, kv_head, &span, &mut rows);
                start = span.end;
            }
            self.finish(s, kv_head, &mut rows);
        }
    }
}

/// Keys and values that all rows of a key head go over before the next: as much as stays in a
/// second-level cache beside the rows, so that memory is read once for all of them.
const SPAN_BYTES: usize = 256 << 10;

/// Where the rows of a key head, pairs of query and head, stand.
struct Rows<S: Simd> {
    /// `[rows]`.
    running: Vec<Running<S>>,
    /// Weighted values, `[rows, vectors]`.
    sums: Vec<[f32; LANES]>,
}

/// What is known of a row's softmax so far.
#[derive(Clone, Copy)]
struct Running<S: Simd> {
    /// The largest score.
    largest: f32,
    /// Sums of weights, by position modulo 16.
    total: S::Lanes,
}

impl<S: Simd> Running<S> {
    #[inline(always)]
    fn new(s: S) -> Self {
        Self {
            largest: f32::NEG_INFINITY,
            total: s.splat(0.0),
        }
    }
}

impl Attend<'_> {
    /// Where row `row` of a key head lies in `q` and `out`, and its position.
    #[inline(always)]
    fn row(&self, kv_head: usize, row: usize) -> (usize, usize) {
        let group = self.params.heads / self.kv.kv_heads();
        let query = row / group;
        let head = (kv_head - self.kv_heads.start) * group + row % group;
        let index = query * self.kv_heads.len() * group + head;
        (index * self.kv.head_dim(), self.first_position + query)
    }

    /// Keys, `[dim, 16]`, and values, `[16, padded dim]`, of the block at `index`.
    #[inline(always)]
    fn block(&self, index: usize, kv_head: usize) -> [&[[f32; LANES]]; 2] {
        let block = self.block_table[index] as usize;
        let (keys, values) = (self.kv.keys(block, kv_head), self.kv.values(block, kv_head));
        [keys.as_chunks().0, values.as_chunks().0]
    }

    /// Goes over the blocks `span` of a key head with all rows.
    #[inline(always)]
    fn span<S: Simd>(&self, s: S, kv_head: usize, span: &Range<usize>, rows: &mut Rows<S>) {
        let num_rows = rows.running.len();
        let mut row = 0;
        // Those of 32 registers.
        if S::ROWS == 16 {
            while num_rows - row >= 4 {
                self.tile::<S, 4, 4>(s, kv_head, row, span, rows);
                row += 4;
            }
            if num_rows - row == 3 {
                self.tile::<S, 3, 4>(s, kv_head, row, span, rows);
                row += 3;
            }
        }
        while num_rows - row >= 2 {
            self.tile::<S, 2, 4>(s, kv_head, row, span, rows);
            row += 2;
        }
        if row < num_rows {
            self.tile::<S, 1, 4>(s, kv_head, row, span, rows);
        }
    }

    /// The rows `first .. first + T` of a key head over the blocks `span`; values in parts of
    /// `C` vectors.
    #[inline(always)]
    fn tile<S: Simd, const T: usize, const C: usize>(
        &self,
        s: S,
        kv_head: usize,
        first: usize,
        span: &Range<usize>,
        rows: &mut Rows<S>,
    ) {
        let dim = self.kv.head_dim();
        let vectors = self.kv.padded_dim() / LANES;
        let mut q: [&[f32]; T] = [&[]; T];
        let mut visible: [Range<usize>; T] = std::array::from_fn(|_| 0..0);
        for t in 0..T {
            let (start, position) = self.row(kv_head, first + t);
            q[t] = &self.q[start..start + dim];
            visible[t] = self.params.visible(position);
        }
        let running = &mut rows.running[first..][..T];
        let sums = &mut rows.sums[first * vectors..][..T * vectors];
        // Rows are in the order of positions, so are both ends of what they see.
        let end_block = (visible[T - 1].end - 1) / BLOCK_TOKENS + 1;
        let blocks = span.start.max(visible[0].start / BLOCK_TOKENS)..span.end.min(end_block);
        for index in blocks {
            let [keys, values] = self.block(index, kv_head);
            // The first rows bring in what the others then find in the cache.
            let mut next: [&[[f32; LANES]]; 2] = [&[]; 2];
            if first == 0 && index + 1 < end_block {
                next = self.block(index + 1, kv_head);
            }
            let scores = scores::<S, T>(s, q, keys, next);
            let start = index * BLOCK_TOKENS;
            let mut weights = [[0.0; LANES]; T];
            let mut slots: [Range<usize>; T] = std::array::from_fn(|_| 0..0);
            for t in 0..T {
                slots[t] = visible[t].start.max(start) - start
                    ..visible[t].end.clamp(start, start + BLOCK_TOKENS) - start;
                if slots[t].is_empty() {
                    continue;
                }
                let sums = &mut sums[t * vectors..][..vectors];
                weights[t] = self.weigh(s, scores[t], slots[t].clone(), &mut running[t], sums);
            }
            if slots.iter().all(|slots| slots.len() == BLOCK_TOKENS) {
                add_values::<S, T, C>(s, &weights, values, 0..BLOCK_TOKENS, sums);
            } else {
                // Slots that a row does not see may hold anything, NaN too.
                for t in 0..T {
                    let sums = &mut sums[t * vectors..][..vectors];
                    let weights = [weights[t]];
                    add_values::<S, 1, C>(s, &weights, values, slots[t].clone(), sums);
                }
            }
        }
    }

    /// Writes the rows of a key head out and begins anew.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, s: S, kv_head: usize, rows: &mut Rows<S>) {
        let dim = self.kv.head_dim();
        let sums = rows.sums.chunks_exact_mut(self.kv.padded_dim() / LANES);
        for (row, (running, sums)) in rows.running.iter_mut().zip(sums).enumerate() {
            let (start, _) = self.row(kv_head, row);
            let out = &mut self.out[start..start + dim];
            let inverse = s.splat(1.0 / s.sum(running.total));
            for (out, sum) in out.chunks_mut(LANES).zip(sums) {
                s.store_partial(s.mul(s.load(sum), inverse), out);
                *sum = [0.0; LANES];
            }
            *running = Running::new(s);
        }
    }

    /// The weights of a block's `slots`, 0 elsewhere, relative to the largest score so far.
    #[inline(always)]
    fn weigh<S: Simd>(
        &self,
        s: S,
        scores: S::Lanes,
        slots: Range<usize>,
        running: &mut Running<S>,
        sums: &mut [[f32; LANES]],
    ) -> [f32; LANES] {
        let mut scores = s.mul(scores, s.splat(self.params.scale));
        if let Some(cap) = self.params.soft_cap {
            scores = cap_lanes(s, scores, cap);
        }
        if slots.len() < BLOCK_TOKENS {
            let mut masked = [0.0; LANES];
            s.store(scores, &mut masked);
            masked[..slots.start].fill(f32::NEG_INFINITY);
            masked[slots.end..].fill(f32::NEG_INFINITY);
            scores = s.load(&masked);
        }
        let largest = s.largest(scores);
        if largest > running.largest {
            if running.largest > f32::NEG_INFINITY {
                let factor = exp(s, s.splat(running.largest - largest));
                running.total = s.mul(running.total, factor);
                for sum in sums {
                    s.store(s.mul(s.load(sum), factor), sum);
                }
            }
            running.largest = largest;
        }
        let weights = exp(s, s.sub(scores, s.splat(running.largest)));
        running.total = s.add(running.total, weights);
        let mut array = [0.0; LANES];
        s.store(weights, &mut array);
        array
    }
}

/// The scores of a block's 16 keys, `[dim, 16]`, before scaling. Meanwhile asks for the lines of
/// `next`, two for each dimension: blocks lie apart, so no machine foresees where the next is.
#[inline(always)]
fn scores<S: Simd, const T: usize>(
    s: S,
    q: [&[f32]; T],
    keys: &[[f32; LANES]],
    next: [&[[f32; LANES]]; 2],
) -> [S::Lanes; T] {
    let (pairs, last) = keys.as_chunks::<2>();
    let mut even = [s.splat(0.0); T];
    let mut odd = even;
    for (i, [key_even, key_odd]) in pairs.iter().enumerate() {
        let (key_even, key_odd) = (s.load(key_even), s.load(key_odd));
        for lines in next.iter().filter_map(|next| next.get(2 * i..2 * i + 2)) {
            s.prefetch(lines[0].as_ptr().cast());
            s.prefetch(lines[1].as_ptr().cast());
        }
        for t in 0..T {
            even[t] = s.fma(s.splat(q[t][2 * i]), key_even, even[t]);
            odd[t] = s.fma(s.splat(q[t][2 * i + 1]), key_odd, odd[t]);
        }
    }
    if let [key] = last {
        for t in 0..T {
            even[t] = s.fma(s.splat(q[t][keys.len() - 1]), s.load(key), even[t]);
        }
    }
    for t in 0..T {
        even[t] = s.add(even[t], odd[t]);
    }
    even
}

/// Adds `slots` of a block's `values`, `[16, vectors]`, to `sums`, `[T, vectors]`.
#[inline(always)]
fn add_values<S: Simd, const T: usize, const C: usize>(
    s: S,
    weights: &[[f32; LANES]; T],
    values: &[[f32; LANES]],
    slots: Range<usize>,
    sums: &mut [[f32; LANES]],
) {
    let vectors = values.len() / BLOCK_TOKENS;
    let mut first = 0;
    while vectors - first >= C {
        add_vectors::<S, T, C>(s, weights, values, slots.clone(), sums, first);
        first += C;
    }
    while first < vectors {
        add_vectors::<S, T, 1>(s, weights, values, slots.clone(), sums, first);
        first += 1;
    }
}

/// As [`add_values`], for `C` vectors of a row from `first` on.
#[inline(always)]
fn add_vectors<S: Simd, const T: usize, const C: usize>(
    s: S,
    weights: &[[f32; LANES]; T],
    values: &[[f32; LANES]],
    slots: Range<usize>,
    sums: &mut [[f32; LANES]],
    first: usize,
) {
    let vectors = values.len() / BLOCK_TOKENS;
    let mut tile = [[s.splat(0.0); C]; T];
    for t in 0..T {
        for c in 0..C {
            tile[t][c] = s.load(&sums[t * vectors + first + c]);
        }
    }
    for slot in slots {
        let row = &values[slot * vectors + first..][..C];
        for t in 0..T {
            let weight = s.splat(weights[t][slot]);
            for c in 0..C {
                tile[t][c] = s.fma(weight, s.load(&row[c]), tile[t][c]);
            }
        }
    }
    for t in 0..T {
        for c in 0..C {
            s.store(tile[t][c], &mut sums[t * vectors + first + c]);
        }
    }
}
