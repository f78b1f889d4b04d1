//! The operations of a launch plan. Each is laid out as its kernel's parameter block
//! (`host/kernels/cuda/ops.cuh` declares the same): fields in the same order, `act` meaning the
//! device's [`Precision`](super::Precision), `[a, b]` row-major without gaps unless a stride says
//! otherwise. `Address::NONE` marks what an optional parameter leaves out.
//!
//! Rows of a batch are tokens, in any order and of any sequences. A row whose `length` or `flags`
//! is 0 pads a batch to the size that a recording was made for: it computes nothing that is read.

use super::memory::Address;
use crate::device::format::MatrixFormat;

/// Keys per block of the KV cache.
pub const KV_BLOCK: u32 = 16;

/// Query rows of one tile of [`AttendPrefill`].
pub const PREFILL_TILE_ROWS: u32 = 64;

/// Alternatives that [`Logprobs`] can report.
pub const MAX_LOGPROBS: usize = 20;

/// One operation.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "each is documented with its parameters")]
pub enum Op {
    Embed(Embed, MatrixFormat),
    AddNorm(AddNorm),
    Gemv(Gemv, MatrixFormat, Epilogue),
    Gemm(Gemm),
    Dequantize(Dequantize, MatrixFormat),
    Glu(Glu),
    SoftCap(SoftCap),
    RopeKv(RopeKv),
    AttendDecode(AttendDecode),
    MergeSplits(MergeSplits),
    AttendPrefill(AttendPrefill),
    GatherKv(GatherKv),
    MaskedSoftmax(MaskedSoftmax),
    Logprobs(Logprobs),
    Penalize(Penalize),
    Sample(Sample),
    Quantize(Quantize, MatrixFormat),
    CountNonFinite(CountNonFinite),
    FillRandom(FillRandom),
    ReadProbe(ReadProbe),
}

/// The first step of a forward pass: `residual = table[token] * scale`, `out = rms_norm(residual)
/// * norm_weight`. One block a row.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Embed {
    /// u32 `[n]`, below `vocab`.
    pub tokens: Address,
    /// i32 `[n]`: where not negative, the row's token is `sampled[source]` instead.
    pub sources: Address,
    /// u32: what [`Sample`] drew in the step before. An id beyond `vocab` counts as 0.
    pub sampled: Address,
    /// `[vocab, hidden]` in the op's format.
    pub table: Address,
    /// f32 `[hidden]`, the first layer's input norm with Gemma's `1 +` folded in.
    pub norm_weight: Address,
    /// f32 `[n, hidden]`.
    pub residual: Address,
    /// act `[n, hidden]`.
    pub out: Address,
    /// Rows.
    pub n: u32,
    /// Width.
    pub hidden: u32,
    /// Rows of the table.
    pub vocab: u32,
    /// Bytes from row to row of the table.
    pub row_bytes: u32,
    /// Gemma's `sqrt(hidden)`, rounded as the checkpoint's dtype rounds it.
    pub scale: f32,
    /// Of the norm.
    pub eps: f32,
}

/// What follows a branch: `residual += rms_norm(branch) * post_weight` (without `post_weight`:
/// `residual += branch`), then `out = rms_norm(residual) * next_weight`. Sums of squares in f32.
/// One block a row of `out`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct AddNorm {
    /// f32 `[*, hidden]`.
    pub branch: Address,
    /// f32 `[hidden]`, or none.
    pub post_weight: Address,
    /// f32 `[*, hidden]`, read and written.
    pub residual: Address,
    /// f32 `[hidden]`.
    pub next_weight: Address,
    /// u32 `[n]`: row `i` of `out` is made of row `rows[i]` of branch and residual; each at most
    /// once. None: row `i`.
    pub rows: Address,
    /// act `[n, hidden]`.
    pub out: Address,
    /// Rows of `out`.
    pub n: u32,
    /// Width.
    pub hidden: u32,
    /// Of both norms.
    pub eps: f32,
    /// Keeps the block a multiple of 8 bytes.
    pub reserved: u32,
}

/// What [`Gemv`] does with a sum before it stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// As act.
    Act,
    /// As f32; with `cap` above 0, `cap * tanh(sum / cap)`.
    F32,
    /// The matrix is gate and up, one after the other, `[2 m, k]`: stores
    /// `gelu_tanh(gate) * up` as act.
    GeluGlu,
    /// The same with `silu(gate) * up`.
    SiluGlu,
}

/// `out[i, j] = epilogue(sum over l of x[i, l] * w[j, l])` for few rows: every weight is read
/// once, whatever `n`. Sums in f32, each in an order that depends on `k` and the format alone.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Gemv {
    /// act `[n, k]`.
    pub x: Address,
    /// `[m, k]` in the op's format; `[2 m, k]` of the gated epilogues.
    pub w: Address,
    /// `[n, m]`, rows `out_stride` apart: act or f32, as the epilogue says.
    pub out: Address,
    /// Rows of x, 1 to 8.
    pub n: u32,
    /// Output features.
    pub m: u32,
    /// Input features, a multiple of 8 (and of the format's block).
    pub k: u32,
    /// Bytes from row to row of `w`.
    pub row_bytes: u32,
    /// 0: none.
    pub cap: f32,
    /// Elements from row to row of `out`, at least `m`.
    pub out_stride: u32,
}

/// The largest `n` of [`Gemv`].
pub const MAX_GEMV_ROWS: u32 = 8;

/// `out[b] = x[b] w[b]^T` (or `x[b] w[b]` with `w_is_kn`), by the device's library. Strides count
/// elements. Products of act, sums in f32; of f32 by TF32 tensor cores where `allow_tf32`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Gemm {
    /// act `[batch, n, k]`, rows `x_stride` apart.
    pub x: Address,
    /// act `[batch, m, k]`, rows `w_stride` apart; with `w_is_kn` `[batch, k, m]`.
    pub w: Address,
    /// `[batch, n, m]`, rows `out_stride` apart; f32 with `out_is_f32`, else act.
    pub out: Address,
    /// Rows of x.
    pub n: u32,
    /// Output features.
    pub m: u32,
    /// Input features.
    pub k: u32,
    /// From row to row of x.
    pub x_stride: u32,
    /// From row to row of w.
    pub w_stride: u32,
    /// From row to row of out.
    pub out_stride: u32,
    /// Products.
    pub batch: u32,
    /// Consecutive products that share one w (grouped-query attention): product `b` uses `w[b / w_shared]`.
    pub w_shared: u32,
    /// From product to product.
    pub x_batch_stride: u64,
    /// From product to product.
    pub w_batch_stride: u64,
    /// From product to product.
    pub out_batch_stride: u64,
    /// 0 or 1.
    pub w_is_kn: u32,
    /// 0 or 1.
    pub out_is_f32: u32,
    /// 0 or 1.
    pub allow_tf32: u32,
    /// Keeps the block a multiple of 8 bytes.
    pub reserved: u32,
}

/// `out[j, l] = w[j, l]`: a matrix of any format as act, for [`Gemm`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Dequantize {
    /// `[m, k]` in the op's format.
    pub w: Address,
    /// act `[m, k]`.
    pub out: Address,
    /// Rows.
    pub m: u32,
    /// Columns.
    pub k: u32,
    /// Bytes from row to row of `w`.
    pub row_bytes: u32,
    /// Keeps the block a multiple of 8 bytes.
    pub reserved: u32,
}

/// `out[i, j] = f(x[i, j]) * x[i, inner + j]`, where a [`Gemm`] made gate and up.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Glu {
    /// act `[n, 2 inner]`.
    pub x: Address,
    /// act `[n, inner]`.
    pub out: Address,
    /// Rows.
    pub n: u32,
    /// Width of out.
    pub inner: u32,
    /// 0: f is GELU by tanh; 1: SiLU.
    pub silu: u32,
    /// Keeps the block a multiple of 8 bytes.
    pub reserved: u32,
}

/// `x = cap * tanh(x / cap)`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct SoftCap {
    /// f32 `[count]`.
    pub x: Address,
    /// Elements.
    pub count: u64,
    /// Above 0.
    pub cap: f32,
    /// Keeps the block a multiple of 8 bytes.
    pub reserved: u32,
}

/// Norms (where there are any) and turns queries and keys, and stores keys and values in their
/// pages. One block per row and head of `qkv`.
///
/// A page is `[kv_heads, 16, head_dim]`, in each of `k_cache` and `v_cache`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RopeKv {
    /// act `[n, heads + 2 kv_heads, head_dim]`: queries, keys, values.
    pub qkv: Address,
    /// act `[n, heads, head_dim]`.
    pub q_out: Address,
    /// act `[blocks, kv_heads, 16, head_dim]`.
    pub k_cache: Address,
    /// As `k_cache`.
    pub v_cache: Address,
    /// u32 `[n]`.
    pub positions: Address,
    /// u32 `[n]`: block * 16 + place of the row's token.
    pub slots: Address,
    /// f32 `[head_dim / 2]`, radians per position.
    pub inv_freq: Address,
    /// f32 `[head_dim]`, or none: norm over each query head before it is turned.
    pub q_norm: Address,
    /// The same for keys.
    pub k_norm: Address,
    /// Rows.
    pub n: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Of the norms.
    pub eps: f32,
    /// 0: pairs are `(i, i + head_dim / 2)`; 1: `(2 i, 2 i + 1)`.
    pub interleaved: u32,
    /// Keeps the block a multiple of 8 bytes.
    pub reserved: u32,
}

/// Attention of one query row a sequence over its pages: keys `max(0, length - window) .. length`,
/// scores `cap * tanh(scale * q.k / cap)` before the softmax. The visible keys are cut into
/// `splits` runs of whole tiles, each a block per key head, which takes all query heads of its
/// group.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct AttendDecode {
    /// act `[n, heads, head_dim]`.
    pub q: Address,
    /// See [`RopeKv`].
    pub k_cache: Address,
    /// As `k_cache`.
    pub v_cache: Address,
    /// u32 `[n, table_stride]`: block of positions `16 i ..`; entries left of the window are not
    /// read.
    pub tables: Address,
    /// u32 `[n]`: keys of the row's sequence, its own included; 0 pads.
    pub lengths: Address,
    /// act `[n, heads, head_dim]`: written where `splits` is 1.
    pub out: Address,
    /// f32 `[n, heads, splits, head_dim]`, not normalized: written where `splits` is more.
    pub partial: Address,
    /// f32 `[n, heads, splits, 2]`: greatest score and sum of weights; a split without keys says
    /// `-inf, 0`.
    pub partial_sums: Address,
    /// Rows.
    pub n: u32,
    /// Key and value heads; query heads are this times the specialization's group.
    pub kv_heads: u32,
    /// Entries of a block table.
    pub table_stride: u32,
    /// Keys seen, the row's own included; 0: all.
    pub window: u32,
    /// Of the keys.
    pub splits: u32,
    /// Of scores.
    pub scale: f32,
    /// 0: none.
    pub cap: f32,
    /// Keeps the block a multiple of 8 bytes.
    pub reserved: u32,
}

/// Puts the splits of [`AttendDecode`] together. One block per row and query head.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct MergeSplits {
    /// As [`AttendDecode`] wrote it.
    pub partial: Address,
    /// As [`AttendDecode`] wrote it.
    pub partial_sums: Address,
    /// act `[n, heads, head_dim]`; zeros where no split had keys.
    pub out: Address,
    /// Rows.
    pub n: u32,
    /// Query heads.
    pub heads: u32,
    /// Of the keys.
    pub splits: u32,
    /// Keeps the block a multiple of 8 bytes.
    pub reserved: u32,
}

/// Up to [`PREFILL_TILE_ROWS`] consecutive query rows of one sequence.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrefillTile {
    /// The first row, in `q` and `out`.
    pub row: u32,
    /// Rows, at least 1.
    pub count: u32,
    /// Position of the first row. Row `i` sees keys up to `first_position + i`.
    pub first_position: u32,
    /// The sequence's row of `tables`.
    pub table: u32,
}

/// Attention of many query rows a sequence over its pages, by tensor cores. One block per tile
/// and query head. Needs act to be bf16 and `head_dim` a multiple of 16, up to 256.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct AttendPrefill {
    /// act `[*, heads, head_dim]`.
    pub q: Address,
    /// See [`RopeKv`].
    pub k_cache: Address,
    /// As `k_cache`.
    pub v_cache: Address,
    /// u32 `[*, table_stride]`.
    pub tables: Address,
    /// [`PrefillTile`] `[num_tiles]`.
    pub tiles: Address,
    /// act `[*, heads, head_dim]`.
    pub out: Address,
    /// Tiles.
    pub num_tiles: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Entries of a block table.
    pub table_stride: u32,
    /// Keys seen, the row's own included; 0: all.
    pub window: u32,
    /// Of scores.
    pub scale: f32,
    /// 0: none.
    pub cap: f32,
}

/// Copies keys and values of one sequence out of its pages, for attention by [`Gemm`]. One block
/// per position and key head.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct GatherKv {
    /// See [`RopeKv`].
    pub k_cache: Address,
    /// As `k_cache`.
    pub v_cache: Address,
    /// u32: the sequence's block table.
    pub table: Address,
    /// act `[kv_heads, count, head_dim]`.
    pub k_out: Address,
    /// As `k_out`.
    pub v_out: Address,
    /// The first position.
    pub first: u32,
    /// Positions.
    pub count: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Keeps the block a multiple of 8 bytes.
    pub reserved: u32,
}

/// The softmax of attention by [`Gemm`]: row `(h, i)` is query `i` of head `h`, at position
/// `first_position + i`; column `j` is the key at `first_key + j`. Scores are scaled, capped,
/// masked (later keys, keys left of the window) and turned into weights that add up to 1.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct MaskedSoftmax {
    /// f32 `[heads, rows, columns]`.
    pub scores: Address,
    /// act `[heads, rows, columns]`.
    pub out: Address,
    /// Query heads.
    pub heads: u32,
    /// Queries.
    pub rows: u32,
    /// Keys.
    pub columns: u32,
    /// Of query 0.
    pub first_position: u32,
    /// Of column 0.
    pub first_key: u32,
    /// Keys seen, the row's own included; 0: all.
    pub window: u32,
    /// Of scores.
    pub scale: f32,
    /// 0: none.
    pub cap: f32,
}

/// How one row's token is chosen; `[n]` of them are the parameters of [`Logprobs`], [`Penalize`]
/// and [`Sample`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowSampling {
    /// Bits of [`RowSampling`]'s constants; 0 pads, and nothing is done for the row.
    pub flags: u32,
    /// 0 is greedy.
    pub temperature: f32,
    /// Most likely tokens kept; 0 keeps all.
    pub top_k: u32,
    /// Nucleus mass, of what top-k left; 1 keeps all.
    pub top_p: f32,
    /// Least weight relative to the greatest; 0 keeps all.
    pub min_p: f32,
    /// Of tokens seen in prompt or answer; 1 is off.
    pub repetition_penalty: f32,
    /// Once for each generated token; 0 is off.
    pub presence_penalty: f32,
    /// For each time a token was generated; 0 is off.
    pub frequency_penalty: f32,
    /// 64 bits, uniform, that depend on seed and position.
    pub random: u64,
    /// The first of the row's entries in the history: every token before the newest.
    pub history_start: u32,
    /// So many, of which the first `history_prompt` are the prompt's.
    pub history_len: u32,
    /// So many.
    pub history_prompt: u32,
    /// The first of the row's entries in the biases.
    pub bias_start: u32,
    /// So many.
    pub bias_len: u32,
    /// Row of the masks, if the flags say that there is one.
    pub mask: u32,
    /// Row of the batch whose input token is the newest of the history.
    pub newest: u32,
    /// 1 if that token belongs to the answer, 0 if to the prompt.
    pub newest_is_generated: u32,
}

impl RowSampling {
    /// A token is to be chosen.
    pub const DRAW: u32 = 1;
    /// Some penalty, bias or mask changes the logits.
    pub const CHANGED: u32 = 2;
    /// Only tokens whose bit is set in the row's mask may come.
    pub const MASKED: u32 = 4;
    /// Logprobs are wanted.
    pub const LOGPROBS: u32 = 8;
}

/// A token and what is added to its logit; minus infinity forbids it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bias {
    /// Below `vocab`.
    pub token: u32,
    /// Added.
    pub bias: f32,
}

/// What [`Logprobs`] says of a row.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowLogprobs {
    /// `ln(sum(exp(logits)))`.
    pub log_total: f32,
    /// Entries of the following; fewer than asked where fewer logits are finite.
    pub count: u32,
    /// The greatest logits' tokens, the greatest first, the lower id first among equals.
    pub tokens: [u32; MAX_LOGPROBS],
    /// Their logits.
    pub logits: [f32; MAX_LOGPROBS],
}

/// Reads the rows that want logprobs, before anything changes their logits. One block a row.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Logprobs {
    /// f32 `[n, vocab]`.
    pub logits: Address,
    /// [`RowSampling`] `[n]`.
    pub params: Address,
    /// [`RowLogprobs`] `[n]`.
    pub out: Address,
    /// Rows.
    pub n: u32,
    /// Width.
    pub vocab: u32,
}

/// Changes the logits of rows that say so: biases, then the repetition penalty over the distinct
/// tokens of history and newest token, then presence and frequency penalties over those
/// generated, then the mask. One block a row.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Penalize {
    /// f32 `[n, vocab]`.
    pub logits: Address,
    /// [`RowSampling`] `[n]`.
    pub params: Address,
    /// u32: the histories.
    pub history: Address,
    /// [`Bias`]: the biases.
    pub biases: Address,
    /// u32 `[masks, ceil(vocab / 32)]`: bit `t % 32` of word `t / 32` allows token `t`.
    pub masks: Address,
    /// u32 `[*]`: the step's input tokens, as [`Embed`] takes them.
    pub tokens: Address,
    /// i32 `[*]`: as [`Embed`] takes them.
    pub sources: Address,
    /// u32: as [`Embed`] takes them.
    pub sampled: Address,
    /// u32 `[n, 2, ceil(vocab / 32)]`, scratch.
    pub seen: Address,
    /// Rows.
    pub n: u32,
    /// Width.
    pub vocab: u32,
}

/// Chooses a token of each row that wants one: the greatest logit (the lowest id among equals) of
/// a greedy row; else one of what top-k, then top-p, then min-p keep, the lower id first among
/// equals, with probability proportional to its weight `exp((logit - greatest) / temperature)`.
/// `u32::MAX` where no logit is finite. One block a row.
///
/// Weights count in units of 2^-40, so that sums do not depend on their order.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// f32 `[n, vocab]`.
    pub logits: Address,
    /// [`RowSampling`] `[n]`.
    pub params: Address,
    /// u32 `[n]`.
    pub sampled: Address,
    /// f32 `[n]`: the chosen token's logit, as it is in `logits`.
    pub sampled_logits: Address,
    /// Rows.
    pub n: u32,
    /// Width.
    pub vocab: u32,
}

/// Rounds an act matrix to W8 or W4. One block a row.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantize {
    /// act `[m, k]`.
    pub x: Address,
    /// `[m, k]` in the op's format.
    pub out: Address,
    /// Rows.
    pub m: u32,
    /// Columns.
    pub k: u32,
    /// Bytes from row to row of `out`.
    pub row_bytes: u32,
    /// Keeps the block a multiple of 8 bytes.
    pub reserved: u32,
}

/// Adds to a counter how many values are not finite.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct CountNonFinite {
    /// f32 or bf16 `[count]`.
    pub x: Address,
    /// u32, one.
    pub counter: Address,
    /// Elements.
    pub count: u64,
    /// 0: bf16; 1: f32; 2: f16.
    pub kind: u32,
    /// Keeps the block a multiple of 8 bytes.
    pub reserved: u32,
}

/// Fills a matrix with values of a normal distribution that depend on seed and index alone, for
/// measurements without a checkpoint.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct FillRandom {
    /// act `[count]`.
    pub out: Address,
    /// Elements.
    pub count: u64,
    /// Any.
    pub seed: u64,
    /// Standard deviation.
    pub std: f32,
    /// Keeps the block a multiple of 8 bytes.
    pub reserved: u32,
}

/// Reads memory as fast as it can and adds up what it read, for the denominator of rooflines.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadProbe {
    /// u32 `[bytes / 4]`.
    pub x: Address,
    /// u32 `[blocks]`: each block's wrapping sum.
    pub out: Address,
    /// A multiple of 16.
    pub bytes: u64,
    /// Of the grid.
    pub blocks: u32,
    /// Keeps the block a multiple of 8 bytes.
    pub reserved: u32,
}
