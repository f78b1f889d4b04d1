// Finds, among many logits, the one at which a number or a mass of the greatest is reached, by a
// block of 1024 threads and without sorting.
//
// All entries have a place in one order: 32 bits of the logit above 22 bits of the id, so that a
// greater place is a greater logit or, among equals, a lower id. The search goes through the place
// by digits of 11 bits: per digit a histogram, in shared memory, of what the entries count that
// share the digits found so far. Counts and masses are integers, so that their sums do not depend
// on the order in which threads come.
#pragma once

#include "ops.cuh"

constexpr u32 SELECT_THREADS = 1024;
constexpr u32 ID_BITS = 22;
constexpr u32 HIGHEST_ID = (1u << ID_BITS) - 1;
constexpr u32 DIGIT_BITS = 11;
constexpr u32 BINS = 1 << DIGIT_BITS;
// Entries that are searched in shared memory, if they are no more.
constexpr u32 LIST_LEN = 2048;
// Logits that a thread fetches together.
constexpr u32 AHEAD = 4;

// 0 for what is not finite, and never comes; equal logits (0 and -0 are) have equal bits.
DEVICE u64 place_of(u32 id, float logit) {
  u32 bits = __float_as_uint(logit + 0.0f);
  if ((bits & 0x7f800000u) == 0x7f800000u) return 0;
  u32 key = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return u64(key) << ID_BITS | (HIGHEST_ID - id);
}

DEVICE u32 id_at(u64 place) { return HIGHEST_ID - (u32(place) & HIGHEST_ID); }

// Where logits come from: a row, where entry i has id i, or a list in shared memory.
struct Entries {
  const u32* ids;
  const float* logits;
  u32 count;
};

// Calls `visit(id, logit)` for the entries `from..to`, every `step`-th of them from `from` on.
template <typename Visit>
DEVICE void visit(const Entries& entries, u32 from, u32 to, u32 step, Visit visit) {
  for (u32 first = from; first < to; first += AHEAD * step) {
    float logits[AHEAD];
#pragma unroll
    for (u32 i = 0; i < AHEAD; i++) {
      u32 index = first + i * step;
      logits[i] = index < to ? entries.logits[index] : 0.0f;
    }
#pragma unroll
    for (u32 i = 0; i < AHEAD; i++) {
      u32 index = first + i * step;
      if (index < to) visit(entries.ids == nullptr ? index : entries.ids[index], logits[i]);
    }
  }
}

template <typename Visit>
DEVICE void visit_all(const Entries& entries, Visit each) {
  visit(entries, threadIdx.x, entries.count, SELECT_THREADS, each);
}

// The weight of a logit, `exp((logit - greatest) / temperature)`.
struct Weigher {
  float greatest;
  float temperature;

  // The difference first: the division may overflow for temperatures near 0.
  DEVICE float weight(float logit) const { return expf((logit - greatest) / temperature); }

  // In units of 2^-40, of a finite logit. Half a unit is about exp(-28.4).
  DEVICE u64 mass(float logit) const {
    if (logit - greatest < -28.5f * temperature) return 0;
    return u64(rintf(weight(logit) * 1099511627776.0f));
  }
};

// What an entry counts: 1 or its mass; nothing if its place is before `from`, or its mass, where
// that is asked for, less than `least`.
struct Measure {
  bool by_mass;
  Weigher weigher;
  u64 from;
  u64 least;

  DEVICE u64 of(u64 place, float logit) const {
    if (place == 0 || place < from) return 0;
    if (!by_mass) return 1;
    u64 mass = weigher.mass(logit);
    return mass < least ? 0 : mass;
  }
};

DEVICE Measure count_from(u64 from) { return {false, {0.0f, 1.0f}, from, 0}; }

// Shared memory of a search.
struct Search {
  u64 bins[BINS];
  u64 warps[SELECT_THREADS / 32];
  u64 before;
  u32 bin;
  u32 ids[LIST_LEN];
  float logits[LIST_LEN];
  u32 list_len;
};

// What the threads up to this one hold together.
DEVICE u64 block_scan(u64 x, u64* warps) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (u32 step = 1; step < 32; step *= 2) {
    u64 below = __shfl_up_sync(ALL_LANES, x, step);
    if (lane >= step) x += below;
  }
  __syncthreads();  // The scan before may still be read.
  if (lane == 31) warps[warp] = x;
  __syncthreads();
  return x + warp_sum(lane < warp ? warps[lane] : u64(0));
}

// The greatest of all threads' places, for every thread.
DEVICE u64 block_greatest(u64 place, u64* warps) {
  auto of_warp = [](u64 x) {
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) x = max(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
  };
  place = of_warp(place);
  __syncthreads();  // The places before may still be read.
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = place;
  __syncthreads();
  return of_warp(warps[threadIdx.x % 32]);
}

// What all entries count together.
DEVICE u64 total_of(Search& search, const Entries& entries, const Measure& measure) {
  u64 sum = 0;
  visit_all(entries, [&](u32 id, float logit) { sum += measure.of(place_of(id, logit), logit); });
  sum = warp_sum(sum);
  __syncthreads();  // The sums before may still be read.
  if (threadIdx.x % 32 == 0) search.warps[threadIdx.x / 32] = sum;
  __syncthreads();
  return warp_sum(search.warps[threadIdx.x % 32]);
}

// The place from which on entries are the fewest greatest that count `needed` (at least 1)
// together; 0 if all together count less. It may lie between two entries, but never before
// `measure.from`.
DEVICE u64 place_reaching(Search& search, const Entries& entries, u64 needed,
                                           const Measure& measure) {
  const u32 thread = threadIdx.x;
  u64 prefix = 0;
  for (int shift = 4 * DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
    __syncthreads();  // What the digit before found may still be read.
    for (u32 bin = thread; bin < BINS; bin += SELECT_THREADS) search.bins[bin] = 0;
    __syncthreads();
    visit_all(entries, [&](u32 id, float logit) {
      u64 place = place_of(id, logit);
      if (place >> (shift + DIGIT_BITS) != prefix) return;
      u64 counted = measure.of(place, logit);
      if (counted > 0) atomicAdd(&search.bins[place >> shift & (BINS - 1)], counted);
    });
    __syncthreads();
    // Two neighbouring bins a thread, the greatest digit first.
    u32 upper = BINS - 1 - 2 * thread;
    u64 upper_bin = search.bins[upper], lower_bin = search.bins[upper - 1];
    u64 reached = block_scan(upper_bin + lower_bin, search.warps);
    u64 before = reached - upper_bin - lower_bin;
    if (thread == 0) search.bin = BINS;
    __syncthreads();
    if (before < needed && needed <= reached) {
      bool is_upper = needed <= before + upper_bin;
      search.bin = is_upper ? upper : upper - 1;
      search.before = is_upper ? before : before + upper_bin;
    }
    __syncthreads();
    // Only of the first digit: later ones divide what reached it.
    if (search.bin == BINS) return 0;
    prefix = prefix << DIGIT_BITS | search.bin;
    needed -= search.before;
    // All that counts of the bin, whatever the digits to come.
    if (!measure.by_mass && needed == search.bins[search.bin]) {
      return max(prefix << shift, measure.from);
    }
  }
  return prefix;
}

// A place that the `count` (up to 1024) greatest entries of a row do not lie before, and few
// others: that of the `count`-th of the threads' greatest entries, `mine` of this thread.
DEVICE u64 floor_of(Search& search, u64 mine, const float* logits, u32 count) {
  // Ids without a finite logit would not be read from the row.
  u32 id = mine == 0 ? 0 : id_at(mine);
  search.ids[threadIdx.x] = id;
  search.logits[threadIdx.x] = mine == 0 ? -infinity() : logits[id];
  __syncthreads();
  Entries own = {search.ids, search.logits, SELECT_THREADS};
  u64 floor = place_reaching(search, own, count, count_from(0));
  __syncthreads();  // The list is about to be written anew.
  return floor;
}

// Takes an entry into the list, if there is room; `list_len` counts it in any case.
DEVICE void list(Search& search, u32 id, float logit) {
  u32 index = atomicAdd(&search.list_len, 1u);
  if (index >= LIST_LEN) return;
  search.ids[index] = id;
  search.logits[index] = logit;
}
