// The parts of attention by matrix products that a library does not do, for precisions and
// devices without attend_prefill.
//
// gather_kv: grid (position, key head), 64 threads copy a key and a value out of their page,
// 16 bytes at a time.
//
// masked_softmax: grid (query, head), 256 threads a row. Scores become
// `exp(s - greatest) / sum`, with `s = cap * tanh(scale * score / cap)`, over the keys that the
// query sees, and 0 elsewhere; a row that sees nothing is all zeros. Computed in float32, with
// the row read three times rather than kept; stored as act.
#include "ops.cuh"

KERNEL(gather_kv, GatherKv, 64) {
  constexpr u32 CHUNK = 16 / sizeof(act);
  const u32 place = blockIdx.x, kv_head = blockIdx.y;
  const u32 position = p.first + place;
  const u64 page = p.table[position / KV_BLOCK];
  const u64 from = ((page * p.kv_heads + kv_head) * KV_BLOCK + position % KV_BLOCK) * HEAD_DIM;
  const u64 to = (u64(kv_head) * p.count + place) * HEAD_DIM;
  for (u32 i = threadIdx.x * CHUNK; i < HEAD_DIM; i += 64 * CHUNK) {
    store16(p.k_out + to + i, load16(p.k_cache + from + i));
    store16(p.v_out + to + i, load16(p.v_cache + from + i));
  }
}

constexpr u32 THREADS = 256;

KERNEL(masked_softmax, MaskedSoftmax, THREADS) {
  const u32 query = blockIdx.x, head = blockIdx.y;
  const u64 row = (u64(head) * p.rows + query) * p.columns;
  const float* scores = p.scores + row;
  act* out = p.out + row;
  const u32 end = p.first_position + query + 1;
  const u32 start = p.window != 0 && end > p.window ? end - p.window : 0;
  // The columns that the query sees.
  const u32 from = start > p.first_key ? start - p.first_key : 0;
  const u32 to = end > p.first_key ? min(end - p.first_key, p.columns) : 0;

  auto score = [&](u32 column) {
    float x = scores[column] * p.scale;
    return p.cap > 0.0f ? soft_capped(x, p.cap) : x;
  };
  float greatest = -infinity();
  for (u32 column = from + threadIdx.x; column < to; column += THREADS) {
    greatest = fmaxf(greatest, score(column));
  }
  greatest = block_max<THREADS>(greatest);
  float sum = 0.0f;
  for (u32 column = from + threadIdx.x; column < to; column += THREADS) {
    sum += expf(score(column) - greatest);
  }
  sum = block_sum<THREADS>(sum);
  for (u32 column = threadIdx.x; column < p.columns; column += THREADS) {
    bool is_visible = column >= from && column < to;
    out[column] = to_act(is_visible ? expf(score(column) - greatest) / sum : 0.0f);
  }
}
