// What embed and add_norm share: a row of float32 by a block of 256 threads, 8 neighbours at a
// time. A thread keeps what it can in registers; of rows that are longer it reads the rest again.
#pragma once

#include "device.cuh"

constexpr u32 ROW_THREADS = 256;
// Chunks of 8 that a thread keeps: rows of up to 8192 values.
constexpr u32 ROW_KEPT = 4;

struct RowValues {
  float kept[ROW_KEPT][8];

  // `f(first column, its 8 values, whether they are still there from the last time)` for each of
  // the thread's chunks.
  template <typename F>
  DEVICE void each(u32 width, F f) {
#pragma unroll
    for (u32 i = 0; i < ROW_KEPT; i++) {
      u32 column = 8 * (threadIdx.x + i * ROW_THREADS);
      if (column < width) f(column, kept[i], true);
    }
    for (u32 column = 8 * (threadIdx.x + ROW_KEPT * ROW_THREADS); column < width; column += 8 * ROW_THREADS) {
      float again[8];
      f(column, again, false);
    }
  }
};

DEVICE float sum_of_squares(const float x[8]) {
  float sum = 0.0f;
#pragma unroll
  for (u32 i = 0; i < 8; i++) sum = fmaf(x[i], x[i], sum);
  return sum;
}

// `1 / sqrt(mean of squares + eps)`, of what each thread found.
DEVICE float norm_factor(float squares, u32 width, float eps) {
  return rsqrtf(block_sum<ROW_THREADS>(squares) / float(width) + eps);
}

// `out = x * factor * weight`, for 8 columns.
DEVICE void store_normed(act* out, const float x[8], float factor, const float* weight) {
  float w[8], normed[8];
  load_8(weight, w);
#pragma unroll
  for (u32 i = 0; i < 8; i++) normed[i] = x[i] * factor * w[i];
  store_8(out, normed);
}
