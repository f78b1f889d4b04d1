// CountNonFinite: adds to a counter how many of count values are infinite or not numbers.
// FillRandom: out[i] = std * sqrt(-2 ln(1 - u(2 i))) * cos(2 pi u(2 i + 1)) in float32, u(j) the
//   upper 24 bits of SplitMix64's number j for the seed, over 2^24.
// ReadProbe: reads all of x once; each block stores the wrapping sum of the words it read.
//
// Blocks of 256 threads; they go on by strides of the grid.
#include "ops.cuh"

constexpr u32 PROBE_THREADS = 256;

DEVICE u64 first_index() { return u64(blockIdx.x) * PROBE_THREADS + threadIdx.x; }
DEVICE u64 index_stride() { return u64(gridDim.x) * PROBE_THREADS; }

template <typename Word>
DEVICE u32 count_where_all_set(const void* x, u64 count, Word exponent) {
  const Word* words = static_cast<const Word*>(x);
  u32 found = 0;
#pragma unroll 4
  for (u64 i = first_index(); i < count; i += index_stride()) {
    found += (words[i] & exponent) == exponent ? 1 : 0;
  }
  return found;
}

KERNEL(count_non_finite, CountNonFinite, PROBE_THREADS) {
  u32 found = p.kind == 0   ? count_where_all_set<u16>(p.x, p.count, 0x7f80)
              : p.kind == 1 ? count_where_all_set<u32>(p.x, p.count, 0x7f800000u)
                            : count_where_all_set<u16>(p.x, p.count, 0x7c00);
  found = block_sum<PROBE_THREADS>(found);
  if (threadIdx.x == 0 && found != 0) atomicAdd(p.counter, found);
}

DEVICE float uniform(u64 seed, u64 index) {
  u64 z = seed + (index + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return float(u32((z ^ z >> 31) >> 40)) * (1.0f / 16777216.0f);
}

KERNEL(fill_random, FillRandom, PROBE_THREADS) {
  for (u64 i = first_index(); i < p.count; i += index_stride()) {
    float radius = sqrtf(-2.0f * logf(1.0f - uniform(p.seed, 2 * i)));
    float angle = 6.283185307179586f * uniform(p.seed, 2 * i + 1);
    p.out[i] = to_act(p.std * (radius * cosf(angle)));
  }
}

KERNEL(read_probe, ReadProbe, PROBE_THREADS) {
  constexpr u32 BATCH = 8;
  const uint4* x = reinterpret_cast<const uint4*>(p.x);
  u64 count = p.bytes / 16;
  u32 sum = 0;
  for (u64 first = first_index(); first < count; first += BATCH * index_stride()) {
    uint4 words[BATCH];
#pragma unroll
    for (u32 i = 0; i < BATCH; i++) {
      u64 at = first + i * index_stride();
      words[i] = at < count ? load16_once(x + at) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (u32 i = 0; i < BATCH; i++) sum += words[i].x + words[i].y + words[i].z + words[i].w;
  }
  sum = block_sum<PROBE_THREADS>(sum);
  if (threadIdx.x == 0) p.out[blockIdx.x] = sum;
}
