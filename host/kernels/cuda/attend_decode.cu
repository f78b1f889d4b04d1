// Attention of one query row a sequence, over pages, and the putting together of its splits.
//
//   out = sum over keys j of softmax_j(cap * tanh(scale * q.k_j / cap)) * v_j
//
// attend_decode: grid (row, key head, split), 128 threads. A block takes all query heads of its
// key head, so that each key and value is read once. It goes through its keys in tiles of 64:
//   1. KEY_LANES neighbouring lanes share a key and multiply it with every query, 8 elements at a
//      time; a butterfly adds up their parts;
//   2. a warp per head caps the tile's scores, and turns them into weights relative to the
//      greatest score so far, by which what was summed before is corrected;
//   3. threads that own 8 elements of the output each add up weighed values, of which several
//      groups of threads take every other one; the groups are added up at the end, in order.
// Values are fetched before the weights are known. Queries, scores, weights and sums are float32.
//
// The keys of a row are cut into `splits` runs of whole tiles; the cut depends on the number of
// keys and of splits alone. With one split the block writes the result, else its share of it.
//
// merge_splits: grid (row, head), a thread an element. Splits are added in order.
#include "ops.cuh"

constexpr u32 THREADS = 128;
constexpr u32 WARPS = THREADS / 32;
constexpr u32 TILE = 64;
// Pages that a tile reaches into.
constexpr u32 TILE_PAGES = TILE / KV_BLOCK + 1;
// A head in runs of 8 elements.
constexpr u32 CHUNKS = HEAD_DIM / 8;

// The lanes of a key: up to 8, but as many as divide its chunks.
constexpr u32 LOWEST_BIT = CHUNKS & (0u - CHUNKS);
constexpr u32 KEY_LANES = LOWEST_BIT < 8 ? LOWEST_BIT : 8;
constexpr u32 KEY_CHUNKS = CHUNKS / KEY_LANES;
constexpr u32 KEYS_AT_ONCE = THREADS / KEY_LANES;
constexpr u32 KEYS = TILE / KEYS_AT_ONCE;

// Groups of threads that go through the values; the last may be short.
constexpr u32 VALUE_GROUPS = THREADS / CHUNKS;
constexpr u32 VALUES = (TILE + VALUE_GROUPS - 1) / VALUE_GROUPS;

constexpr u32 HEADS_OF_WARP = (GROUP + WARPS - 1) / WARPS;

// 8 neighbours as they lie in memory.
struct Chunk {
  uint4 words[sizeof(act) / 2];
};

DEVICE Chunk load_chunk(const act* from, bool is_there) {
  Chunk chunk;
#pragma unroll
  for (u32 i = 0; i < sizeof(act) / 2; i++) {
    chunk.words[i] = make_uint4(0, 0, 0, 0);
    if (is_there) chunk.words[i] = load16_once(from + i * 16 / sizeof(act));
  }
  return chunk;
}

DEVICE void unpack(const Chunk& chunk, float out[8]) {
#if GAPURA_F32
#pragma unroll
  for (u32 i = 0; i < 2; i++) {
    out[4 * i] = __uint_as_float(chunk.words[i].x);
    out[4 * i + 1] = __uint_as_float(chunk.words[i].y);
    out[4 * i + 2] = __uint_as_float(chunk.words[i].z);
    out[4 * i + 3] = __uint_as_float(chunk.words[i].w);
  }
#else
  unpack_bf16x8(chunk.words[0], out);
#endif
}

// Where 4 elements of a query lie in shared memory: the lanes of a key read neighbouring 16 bytes.
DEVICE u32 query_place(u32 head, u32 chunk, u32 half) {
  u32 step = chunk / KEY_LANES, lane = chunk % KEY_LANES;
  return (((head * KEY_CHUNKS + step) * 2 + half) * KEY_LANES + lane) * 4;
}

KERNEL(attend_decode, AttendDecode, THREADS) {
  __shared__ __align__(16) float queries[GROUP * HEAD_DIM];
  __shared__ __align__(16) float reduced[VALUE_GROUPS * HEAD_DIM];
  // Of this tile and the next, so that no thread has to wait before it writes the next.
  __shared__ float scores[2][GROUP][TILE];
  __shared__ u32 pages[2][TILE_PAGES];
  __shared__ float corrections[GROUP];
  __shared__ float totals[GROUP][2];

  const u32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const u32 row = blockIdx.x, kv_head = blockIdx.y, split = blockIdx.z;
  const u64 first_head = u64(row) * p.kv_heads * GROUP + kv_head * GROUP;
  const u32 length = p.lengths[row];
  const u32 start = p.window != 0 && length > p.window ? length - p.window : 0;
  const u32 tiles = (length - start + TILE - 1) / TILE;
  const u32 keys_of_split = (tiles + p.splits - 1) / p.splits * TILE;
  const u32 from = min(start + split * keys_of_split, length);
  const u32 to = min(from + keys_of_split, length);
  const u32* table = p.tables + u64(row) * p.table_stride;

  // Entries of positions that the block does not see may be anything.
  auto load_pages = [&](u32 base, u32 side) {
    u32 entry = base / KV_BLOCK + thread;
    if (thread < TILE_PAGES) pages[side][thread] = entry * KV_BLOCK < to ? table[entry] : 0;
  };
  for (u32 chunk = thread; chunk < GROUP * CHUNKS; chunk += THREADS) {
    float query[8];
    load_8(p.q + (first_head * CHUNKS + chunk) * 8, query);
    for (u32 i = 0; i < 8; i++) {
      queries[query_place(chunk / CHUNKS, chunk % CHUNKS, i / 4) + i % 4] = query[i];
    }
  }
  load_pages(from, 0);

  // Of the heads `warp`, `warp + 4`, ...: the same in every lane.
  float greatest[HEADS_OF_WARP], sums[HEADS_OF_WARP];
#pragma unroll
  for (u32 i = 0; i < HEADS_OF_WARP; i++) {
    greatest[i] = -infinity();
    sums[i] = 0.0f;
  }
  const u32 value_group = thread / CHUNKS, value_chunk = thread % CHUNKS;
  const bool has_values = value_group < VALUE_GROUPS;
  float out[GROUP][8] = {};
  __syncthreads();

  u32 side = 0;
  for (u32 base = from; base < to; base += TILE, side ^= 1) {
    auto row_of = [&](const act* cache, u32 key) {
      u32 position = base + key;
      u64 page = pages[side][position / KV_BLOCK - base / KV_BLOCK];
      return cache + ((page * p.kv_heads + kv_head) * KV_BLOCK + position % KV_BLOCK) * HEAD_DIM;
    };

    // 1. Scores.
    Chunk keys[KEYS][KEY_CHUNKS];
#pragma unroll
    for (u32 k = 0; k < KEYS; k++) {
      u32 key = k * KEYS_AT_ONCE + thread / KEY_LANES;
      const act* elements = row_of(p.k_cache, key);
#pragma unroll
      for (u32 step = 0; step < KEY_CHUNKS; step++) {
        u32 chunk = step * KEY_LANES + lane % KEY_LANES;
        keys[k][step] = load_chunk(elements + 8 * chunk, base + key < to);
      }
    }
    if (base + TILE < to) load_pages(base + TILE, side ^ 1);
    float dots[KEYS][GROUP] = {};
#pragma unroll
    for (u32 step = 0; step < KEY_CHUNKS; step++) {
      float key[KEYS][8];
#pragma unroll
      for (u32 k = 0; k < KEYS; k++) unpack(keys[k][step], key[k]);
#pragma unroll
      for (u32 head = 0; head < GROUP; head++) {
        float query[8];
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
          u32 chunk = step * KEY_LANES + lane % KEY_LANES;
          uint4 words = load16(&queries[query_place(head, chunk, half)]);
          query[4 * half] = __uint_as_float(words.x);
          query[4 * half + 1] = __uint_as_float(words.y);
          query[4 * half + 2] = __uint_as_float(words.z);
          query[4 * half + 3] = __uint_as_float(words.w);
        }
#pragma unroll
        for (u32 k = 0; k < KEYS; k++) {
#pragma unroll
          for (u32 i = 0; i < 8; i++) dots[k][head] += query[i] * key[k][i];
        }
      }
    }
#pragma unroll
    for (u32 k = 0; k < KEYS; k++) {
#pragma unroll
      for (u32 head = 0; head < GROUP; head++) {
#pragma unroll
        for (u32 step = KEY_LANES / 2; step > 0; step /= 2) {
          dots[k][head] += __shfl_xor_sync(ALL_LANES, dots[k][head], step);
        }
        u32 key = k * KEYS_AT_ONCE + thread / KEY_LANES;
        if (lane % KEY_LANES == 0) scores[side][head][key] = dots[k][head];
      }
    }

    // The values of step 3 are on their way meanwhile.
    Chunk values[VALUES];
#pragma unroll
    for (u32 v = 0; v < VALUES; v++) {
      u32 key = v * VALUE_GROUPS + value_group;
      bool is_there = has_values && key < TILE && base + key < to;
      const act* elements = is_there ? row_of(p.v_cache, key) : p.v_cache;
      values[v] = load_chunk(elements + 8 * value_chunk, is_there);
    }
    __syncthreads();

    // 2. Weights.
#pragma unroll
    for (u32 i = 0; i < HEADS_OF_WARP; i++) {
      u32 head = warp + i * WARPS;
      if (head >= GROUP) break;
      float score[2];
#pragma unroll
      for (u32 half = 0; half < 2; half++) {
        u32 key = lane + 32 * half;
        score[half] = scores[side][head][key] * p.scale;
        if (p.cap > 0.0f) score[half] = soft_capped(score[half], p.cap);
        if (base + key >= to) score[half] = -infinity();
      }
      float next = fmaxf(greatest[i], warp_max(fmaxf(score[0], score[1])));
      float correction = expf(greatest[i] - next);
      float weights[2] = {expf(score[0] - next), expf(score[1] - next)};
      greatest[i] = next;
      sums[i] = sums[i] * correction + warp_sum(weights[0] + weights[1]);
      scores[side][head][lane] = weights[0];
      scores[side][head][lane + 32] = weights[1];
      if (lane == 0) corrections[head] = correction;
    }
    __syncthreads();

    // 3. Values.
#pragma unroll
    for (u32 head = 0; head < GROUP; head++) {
      float correction = corrections[head];
#pragma unroll
      for (u32 i = 0; i < 8; i++) out[head][i] *= correction;
    }
#pragma unroll
    for (u32 v = 0; v < VALUES; v++) {
      u32 key = v * VALUE_GROUPS + value_group;
      if (!has_values || key >= TILE) continue;
      float value[8];
      unpack(values[v], value);
#pragma unroll
      for (u32 head = 0; head < GROUP; head++) {
        float weight = scores[side][head][key];
#pragma unroll
        for (u32 i = 0; i < 8; i++) out[head][i] += weight * value[i];
      }
    }
  }

#pragma unroll
  for (u32 i = 0; i < HEADS_OF_WARP; i++) {
    u32 head = warp + i * WARPS;
    if (head >= GROUP || lane != 0) break;
    totals[head][0] = greatest[i];
    totals[head][1] = sums[i];
  }
#pragma unroll
  for (u32 head = 0; head < GROUP; head++) {
    __syncthreads();  // The head before may still be read.
    if (has_values) store_8(reduced + value_group * HEAD_DIM + 8 * value_chunk, out[head]);
    __syncthreads();
    float sum = totals[head][1];
    u64 index = (first_head + head) * p.splits + split;
    for (u32 i = thread; i < HEAD_DIM; i += THREADS) {
      float element = 0.0f;
      for (u32 group = 0; group < VALUE_GROUPS; group++) element += reduced[group * HEAD_DIM + i];
      if (p.splits > 1) {
        p.partial[index * HEAD_DIM + i] = element;
      } else {
        p.out[index * HEAD_DIM + i] = to_act(sum > 0.0f ? element / sum : 0.0f);
      }
    }
    if (p.splits > 1 && thread < 2) p.partial_sums[2 * index + thread] = totals[head][thread];
  }
}

KERNEL(merge_splits, MergeSplits, (HEAD_DIM + 31) / 32 * 32) {
  const u64 row = u64(blockIdx.x) * p.heads + blockIdx.y;
  const float* sums = p.partial_sums + 2 * row * p.splits;
  const float* partial = p.partial + row * p.splits * HEAD_DIM;
  if (threadIdx.x >= HEAD_DIM) return;
  float greatest = -infinity();
  for (u32 split = 0; split < p.splits; split++) greatest = fmaxf(greatest, sums[2 * split]);
  float total = 0.0f, element = 0.0f;
  for (u32 split = 0; split < p.splits; split++) {
    // Splits without keys have no greatest score to compare.
    if (sums[2 * split + 1] == 0.0f) continue;
    float share = expf(sums[2 * split] - greatest);
    total += share * sums[2 * split + 1];
    element += share * partial[u64(split) * HEAD_DIM + threadIdx.x];
  }
  p.out[row * HEAD_DIM + threadIdx.x] = to_act(total > 0.0f ? element / total : 0.0f);
}
