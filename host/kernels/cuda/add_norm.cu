// AddNorm: residual += rms_norm(branch) * post_weight (or residual += branch), then
// out = rms_norm(residual) * next_weight.
//
// Grid n, 256 threads: a block per row of out, made of row rows[i] of branch and residual. All in
// float32; sums of squares per thread in the order of columns, then by the block's fixed order.
#include "ops.cuh"
#include "rows.cuh"

KERNEL(add_norm, AddNorm, ROW_THREADS) {
  u64 row = p.rows == nullptr ? blockIdx.x : p.rows[blockIdx.x];
  const float* branch = p.branch + row * p.hidden;
  float* residual = p.residual + row * p.hidden;
  act* out = p.out + u64(blockIdx.x) * p.hidden;
  RowValues values;

  float factor = 1.0f;
  if (p.post_weight != nullptr) {
    float squares = 0.0f;
    values.each(p.hidden, [&](u32 column, float* x, bool) {
      load_8(branch + column, x);
      squares += sum_of_squares(x);
    });
    factor = norm_factor(squares, p.hidden, p.eps);
  }

  float squares = 0.0f;
  values.each(p.hidden, [&](u32 column, float* x, bool is_kept) {
    float before[8];
    load_8(residual + column, before);
    if (p.post_weight == nullptr) {
      load_8(branch + column, x);
    } else {
      float weight[8];
      load_8(p.post_weight + column, weight);
      if (!is_kept) load_8(branch + column, x);
#pragma unroll
      for (u32 i = 0; i < 8; i++) x[i] = x[i] * factor * weight[i];
    }
#pragma unroll
    for (u32 i = 0; i < 8; i++) x[i] += before[i];
    squares += sum_of_squares(x);
    store_8(residual + column, x);
  });
  factor = norm_factor(squares, p.hidden, p.eps);

  values.each(p.hidden, [&](u32 column, float* x, bool is_kept) {
    if (!is_kept) load_8(residual + column, x);
    store_normed(out + column, x, factor, p.next_weight + column);
  });
}
