// Quantize: an act matrix as W8 or W4, groups of 128 columns with a bf16 scale each.
//
// Grid m, 128 threads: a block per row, a warp per group, a lane per 4 neighbouring columns. In
// float32, by these rules, all operations rounded on their own:
//
// round(x, scale, low, high) = clamp(rint(x / scale), low, high), rint to even; 0 where the scale
// is 0. Scales are rounded to bf16 first, to nearest even, and codes made with what that gives.
//
// W8: scale = (greatest |x| of the group) / 127, code = round(x, scale, -127, 127).
//
// W4: the peak is the greatest x if it is at least as far from 0 as the least one is, else the
// least. Of ten scales, for step 0 to 4 first peak / -(8 + step / 2), then peak / (7 + step / 2),
// it takes the first whose squared error is least; code = 8 + round(x, scale, -8, 7). Divisors
// beyond 8 cut the peak off, for less error of all others. The squared error: lane i adds up
// e^2 of columns 4 i to 4 i + 3, from 0, in this order, e = fma(-scale, code - 8, x),
// sum = fma(e, e, sum); columns beyond the row count 0; the lanes' sums are added by a butterfly,
// s[i] += s[i ^ d] for d = 16, 8, 4, 2, 1.
#include "ops.cuh"

constexpr u32 QUANTIZE_THREADS = 128;
constexpr u32 LANE_COLUMNS = 4;

DEVICE float rounded_code(float x, float scale, float low, float high) {
  return scale == 0.0f ? 0.0f : fminf(fmaxf(rintf(x / scale), low), high);
}

struct Group {
  float x[LANE_COLUMNS];
  u32 index;
  u32 column;
  bool is_mine;
};

// Calls `f` for every group that the warp takes.
template <typename F>
DEVICE void each_group(const Quantize& p, F f) {
  u32 groups = (p.k + WEIGHT_GROUP - 1) / WEIGHT_GROUP;
  const act* row = p.x + u64(blockIdx.x) * p.k;
  for (u32 index = threadIdx.x / 32; index < groups; index += QUANTIZE_THREADS / 32) {
    u32 column = index * WEIGHT_GROUP + threadIdx.x % 32 * LANE_COLUMNS;
    Group group{{0.0f, 0.0f, 0.0f, 0.0f}, index, column, column < p.k};
    if (group.is_mine) {
#pragma unroll
      for (u32 i = 0; i < LANE_COLUMNS; i++) group.x[i] = to_float(row[column + i]);
    }
    f(group);
  }
}

DEVICE void store_scale(u8* out, u32 codes_bytes, u32 index, bf16 scale) {
  if (threadIdx.x % 32 == 0) {
    reinterpret_cast<u16*>(out + (codes_bytes + 15) / 16 * 16)[index] = scale.bits;
  }
}

KERNEL(quantize_w8, Quantize, QUANTIZE_THREADS) {
  u8* out = p.out + u64(blockIdx.x) * p.row_bytes;
  each_group(p, [&](const Group& group) {
    float greatest = 0.0f;
#pragma unroll
    for (u32 i = 0; i < LANE_COLUMNS; i++) greatest = fmaxf(greatest, fabsf(group.x[i]));
    bf16 stored = from_float<bf16>(warp_max(greatest) / 127.0f);
    float scale = to_float(stored);
    u32 word = 0;
#pragma unroll
    for (u32 i = 0; i < LANE_COLUMNS; i++) {
      i32 code = i32(rounded_code(group.x[i], scale, -127.0f, 127.0f));
      word |= (u32(code) & 255u) << 8 * i;
    }
    if (group.is_mine) *reinterpret_cast<u32*>(out + group.column) = word;
    store_scale(out, p.k, group.index, stored);
  });
}

DEVICE float squared_error(const Group& group, float scale) {
  float sum = 0.0f;
#pragma unroll
  for (u32 i = 0; i < LANE_COLUMNS; i++) {
    float error = fmaf(-scale, rounded_code(group.x[i], scale, -8.0f, 7.0f), group.x[i]);
    sum = fmaf(error, error, sum);
  }
  return warp_sum(sum);
}

DEVICE bf16 best_w4_scale(const Group& group) {
  // Columns beyond the row are 0: they are never further from 0 than any other.
  float greatest = 0.0f, least = 0.0f;
#pragma unroll
  for (u32 i = 0; i < LANE_COLUMNS; i++) {
    greatest = fmaxf(greatest, group.x[i]);
    least = fminf(least, group.x[i]);
  }
  greatest = warp_max(greatest);
  least = -warp_max(-least);
  float peak = greatest >= -least ? greatest : least;
  bf16 best = {0};
  float best_error = infinity();
  for (u32 candidate = 0; candidate < 10; candidate++) {
    float step = 0.5f * float(candidate / 2);
    float divisor = candidate % 2 == 0 ? -(8.0f + step) : 7.0f + step;
    bf16 scale = from_float<bf16>(peak / divisor);
    float error = squared_error(group, to_float(scale));
    if (error < best_error) {
      best_error = error;
      best = scale;
    }
  }
  return best;
}

KERNEL(quantize_w4, Quantize, QUANTIZE_THREADS) {
  u8* out = p.out + u64(blockIdx.x) * p.row_bytes;
  each_group(p, [&](const Group& group) {
    bf16 stored = best_w4_scale(group);
    float scale = to_float(stored);
    // Two lanes make a word of 8 columns, whose nibble i is column 2 i and nibble i + 4 column
    // 2 i + 1.
    u32 is_odd = threadIdx.x % 2, word = 0;
#pragma unroll
    for (u32 i = 0; i < LANE_COLUMNS; i++) {
      u32 code = u32(8.0f + rounded_code(group.x[i], scale, -8.0f, 7.0f));
      u32 nibble = i / 2 + 2 * is_odd + 4 * (i % 2);
      word |= code << 4 * nibble;
    }
    word |= __shfl_xor_sync(ALL_LANES, word, 1);
    if (group.is_mine && is_odd == 0) *reinterpret_cast<u32*>(out + group.column / 2) = word;
    store_scale(out, p.k / 2, group.index, stored);
  });
}
