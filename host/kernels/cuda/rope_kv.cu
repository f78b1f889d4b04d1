// RopeKv: norms (where there are any) and turns queries and keys; stores keys and values in their
// pages, `[kv_heads, 16, head_dim]` each.
//
// Grid (n, heads + 2 kv_heads), a thread per pair of a head, rounded up to whole warps. In
// float32: the sum of squares by the block's fixed order, the angle `position * inv_freq` and its
// sine and cosine precise for any position below 2^24.
#include "ops.cuh"

constexpr u32 PAIRS = HEAD_DIM / 2;
constexpr u32 ROPE_THREADS = (PAIRS + 31) / 32 * 32;

KERNEL(rope_kv, RopeKv, ROPE_THREADS) {
  u32 row = blockIdx.x, head = blockIdx.y, pair = threadIdx.x;
  bool is_query = head < p.heads, is_key = !is_query && head < p.heads + p.kv_heads;
  bool is_mine = pair < PAIRS;
  u32 all_heads = p.heads + 2 * p.kv_heads;
  const act* from = p.qkv + (u64(row) * all_heads + head) * HEAD_DIM;
  act* to;
  if (is_query) {
    to = p.q_out + (u64(row) * p.heads + head) * HEAD_DIM;
  } else {
    u32 slot = p.slots[row], kv_head = head - p.heads - (is_key ? 0 : p.kv_heads);
    u64 place = (u64(slot / KV_BLOCK) * p.kv_heads + kv_head) * KV_BLOCK + slot % KV_BLOCK;
    to = (is_key ? p.k_cache : p.v_cache) + place * HEAD_DIM;
  }
  u32 first = p.interleaved != 0 ? 2 * pair : pair;
  u32 second = p.interleaved != 0 ? first + 1 : first + PAIRS;

  if (!is_query && !is_key) {
    if (is_mine) {
      to[first] = from[first];
      to[second] = from[second];
    }
    return;
  }

  float a = is_mine ? to_float(from[first]) : 0.0f;
  float b = is_mine ? to_float(from[second]) : 0.0f;
  const float* norm = is_query ? p.q_norm : p.k_norm;
  if (norm != nullptr) {
    float squares = block_sum<ROPE_THREADS>(a * a + b * b);
    float factor = rsqrtf(squares / float(HEAD_DIM) + p.eps);
    if (is_mine) {
      a *= factor * norm[first];
      b *= factor * norm[second];
    }
  }
  if (!is_mine) return;
  float sine, cosine;
  sincosf(float(p.positions[row]) * p.inv_freq[pair], &sine, &cosine);
  to[first] = to_act(a * cosine - b * sine);
  to[second] = to_act(b * cosine + a * sine);
}
