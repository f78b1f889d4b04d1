// Attention of many query rows a sequence over its pages, by tensor cores (FlashAttention's
// scheme). bf16 only; float32 goes by attend_plain.cu.
//
//   out_i = sum over j of softmax_j(cap * tanh(scale * q_i.k_j / cap)) * v_j
//   over keys j <= position_i, with position_i - j < window
//
// Grid (tile of up to 64 rows, query head), 4 warps of 16 rows each. Keys and values come through
// shared memory, 32 at a time: values are fetched while scores are computed, and the next keys
// while values are added up. Rows of shared memory are 16 bytes longer than a head, so that the
// eight rows of a matrix lie in different banks.
//
// Products of bf16 are summed in float32; scores, weights and their sums are float32; weights are
// rounded to bf16 for the product with values. The softmax is relative to the greatest score so
// far, by which what was summed before is corrected. Dynamic shared memory: queries `[64]`, keys
// `[32]`, values `[32]`, each `[HEAD_DIM + 8]` of bf16.
#include "ops.cuh"

#if !GAPURA_F32

constexpr u32 THREADS = 128;

KERNEL(attend_prefill, AttendPrefill, THREADS) {
#if HAS_MMA_BF16
  constexpr u32 WARP_ROWS = 16;
  constexpr u32 KEYS = PREFILL_TILE_KEYS;
  constexpr u32 STRIDE = HEAD_DIM + 8;
  // Runs of 16 bytes of a head.
  constexpr u32 CHUNKS = HEAD_DIM / 8;
  const u32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const PrefillTile tile = p.tiles[blockIdx.x];
  const u32 head = blockIdx.y, kv_head = head / GROUP, heads = p.kv_heads * GROUP;
  const u32* table = p.tables + u64(tile.table) * p.table_stride;
  // The keys that any row of the tile sees.
  const u32 last = tile.first_position + tile.count - 1;
  const u32 first =
      p.window != 0 && tile.first_position >= p.window ? tile.first_position - p.window + 1 : 0;

  bf16* queries = reinterpret_cast<bf16*>(dynamic_shared());
  bf16* keys = queries + PREFILL_TILE_ROWS * STRIDE;
  bf16* values = keys + KEYS * STRIDE;

  // The two pages of the keys from `start` on; entries that no row sees may be anything.
  auto page_at = [&](u32 start) {
    bool is_visible = start + KV_BLOCK > first && start <= last;
    return is_visible ? table[start / KV_BLOCK] : 0;
  };
  auto copy_keys = [&](bf16* to, const bf16* cache, u32 start, const u32 pages[2]) {
#pragma unroll 4
    for (u32 chunk = thread; chunk < KEYS * CHUNKS; chunk += THREADS) {
      u32 key = chunk / CHUNKS, element = chunk % CHUNKS * 8;
      u64 page = key < KV_BLOCK ? pages[0] : pages[1];
      const bf16* from = cache + ((page * p.kv_heads + kv_head) * KV_BLOCK + key % KV_BLOCK) * HEAD_DIM;
      bool is_visible = start + key >= first && start + key <= last;
      copy_async_16(to + key * STRIDE + element, from + element, is_visible ? 16 : 0);
    }
  };
  for (u32 chunk = thread; chunk < PREFILL_TILE_ROWS * CHUNKS; chunk += THREADS) {
    u32 row = chunk / CHUNKS, element = chunk % CHUNKS * 8;
    bool is_there = row < tile.count;
    const bf16* from = p.q + (u64(tile.row + (is_there ? row : 0)) * heads + head) * HEAD_DIM;
    copy_async_16(queries + row * STRIDE + element, from + element, is_there ? 16 : 0);
  }
  const u32 begin = first / KEYS * KEYS;
  u32 pages[2] = {page_at(begin), page_at(begin + KV_BLOCK)};
  copy_keys(keys, p.k_cache, begin, pages);
  copy_async_commit();

  // What a lane holds of rows `lane / 4` and 8 further on (`mma_bf16`).
  const u32 warp_row = warp * WARP_ROWS;
  const u32 position = tile.first_position + warp_row + lane / 4;
  // The last position of the warp's rows, if it has any.
  const bool has_rows = warp_row < tile.count;
  const u32 warp_last = tile.first_position + min(warp_row + WARP_ROWS, tile.count) - 1;
  float greatest[2] = {-infinity(), -infinity()};
  float sums[2] = {0.0f, 0.0f};
  float out[CHUNKS][4] = {};

  for (u32 start = begin; start <= last; start += KEYS) {
    u32 next_pages[2] = {page_at(start + KEYS), page_at(start + KEYS + KV_BLOCK)};
    copy_async_wait<0>();
    __syncthreads();  // Keys are there, and nobody reads the values before.
    copy_keys(values, p.v_cache, start, pages);
    copy_async_commit();

    // Later keys than any of the warp's rows see change nothing: each row has seen one by then.
    const bool is_needed = has_rows && start <= warp_last;
    u32 weights[KEYS / 16][4];
    if (is_needed) {
      float scores[KEYS / 8][4] = {};
#pragma unroll
      for (u32 step = 0; step < HEAD_DIM / 16; step++) {
        u32 a[4];
        ldmatrix_x4(a, queries + (warp_row + lane % 16) * STRIDE + step * 16 + lane / 16 * 8);
#pragma unroll
        for (u32 pair = 0; pair < KEYS / 16; pair++) {
          u32 b[4];
          u32 key = pair * 16 + lane / 16 * 8 + lane % 8;
          ldmatrix_x4(b, keys + key * STRIDE + step * 16 + lane / 8 % 2 * 8);
          mma_bf16(scores[2 * pair], a, b);
          mma_bf16(scores[2 * pair + 1], a, b + 2);
        }
      }
#pragma unroll
      for (u32 half = 0; half < 2; half++) {
        float next = greatest[half];
#pragma unroll
        for (u32 i = 0; i < KEYS / 4; i++) {
          float& score = scores[i / 2][2 * half + i % 2];
          score *= p.scale;
          if (p.cap > 0.0f) score = soft_capped(score, p.cap);
          u32 key = start + i / 2 * 8 + lane % 4 * 2 + i % 2;
          u32 seen_from = position + 8 * half;
          bool is_visible = key <= seen_from && (p.window == 0 || seen_from - key < p.window);
          if (!is_visible) score = -infinity();
          next = fmaxf(next, score);
        }
        // The lanes of a row agree.
        next = fmaxf(next, __shfl_xor_sync(ALL_LANES, next, 1));
        next = fmaxf(next, __shfl_xor_sync(ALL_LANES, next, 2));
        // A row that has seen no key yet has weights of 0.
        float reference = next == -infinity() ? 0.0f : next;
        float correction = expf(greatest[half] - reference);
        greatest[half] = next;
        sums[half] *= correction;
#pragma unroll
        for (u32 i = 0; i < KEYS / 4; i++) {
          float& score = scores[i / 2][2 * half + i % 2];
          score = expf(score - reference);
          sums[half] += score;
        }
#pragma unroll
        for (u32 chunk = 0; chunk < CHUNKS; chunk++) {
          out[chunk][2 * half] *= correction;
          out[chunk][2 * half + 1] *= correction;
        }
      }
#pragma unroll
      for (u32 i = 0; i < KEYS / 4; i++) {
        const float* pair = scores[i / 2] + i % 2 * 2;
        weights[i / 4][i % 4] = pack_bf16(pair[0], pair[1]);
      }
    }

    copy_async_wait<0>();
    __syncthreads();  // Values are there, and nobody reads the keys any more.
    pages[0] = next_pages[0];
    pages[1] = next_pages[1];
    if (start + KEYS <= last) copy_keys(keys, p.k_cache, start + KEYS, pages);
    copy_async_commit();
    if (is_needed) {
#pragma unroll
      for (u32 step = 0; step < KEYS / 16; step++) {
#pragma unroll
        for (u32 pair = 0; pair < HEAD_DIM / 16; pair++) {
          u32 b[4];
          ldmatrix_x4_trans(b, values + (step * 16 + lane % 16) * STRIDE + pair * 16 + lane / 16 * 8);
          mma_bf16(out[2 * pair], weights[step], b);
          mma_bf16(out[2 * pair + 1], weights[step], b + 2);
        }
      }
    }
  }
  copy_async_wait<0>();

  // A warp alone reads its rows of the queries: the results take their place on the way out.
#pragma unroll
  for (u32 half = 0; half < 2; half++) {
    float sum = sums[half];
    sum += __shfl_xor_sync(ALL_LANES, sum, 1);
    sum += __shfl_xor_sync(ALL_LANES, sum, 2);
    float share = sum > 0.0f ? 1.0f / sum : 0.0f;
    bf16* row = queries + (warp_row + lane / 4 + 8 * half) * STRIDE + lane % 4 * 2;
#pragma unroll
    for (u32 chunk = 0; chunk < CHUNKS; chunk++) {
      *reinterpret_cast<u32*>(row + 8 * chunk) =
          pack_bf16(out[chunk][2 * half] * share, out[chunk][2 * half + 1] * share);
    }
  }
  __syncwarp();
  for (u32 chunk = lane; chunk < WARP_ROWS * CHUNKS; chunk += 32) {
    u32 row = warp_row + chunk / CHUNKS, element = chunk % CHUNKS * 8;
    if (row >= tile.count) continue;
    bf16* to = p.out + (u64(tile.row + row) * heads + head) * HEAD_DIM + element;
    store16(to, load16(queries + row * STRIDE + element));
  }
#endif
}

#endif
