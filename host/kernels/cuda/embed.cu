// Embed: residual = table[token] * scale, out = rms_norm(residual) * norm_weight.
//
// Grid n, 256 threads: a block per row. The token is tokens[i], or sampled[sources[i]] where
// sources[i] is not negative; beyond the table it is 0. All in float32; sums of squares per
// thread in the order of columns, then by the block's fixed order.
#include "rows.cuh"
#include "weights.cuh"

template <typename Format>
DEVICE void embed(const Embed& p) {
  u64 row = blockIdx.x;
  i32 source = p.sources[row];
  u32 token = source >= 0 ? p.sampled[source] : p.tokens[row];
  if (token >= p.vocab) token = 0;
  const u8* from = p.table + u64(token) * p.row_bytes;
  float* residual = p.residual + row * p.hidden;
  act* out = p.out + row * p.hidden;
  RowValues values;

  float squares = 0.0f;
  values.each(p.hidden, [&](u32 column, float* x, bool) {
    u32 chunk = column / CHUNK;
    float factor = Format::unpack(Format::load(from, p.hidden, chunk), chunk, x);
#pragma unroll
    for (u32 i = 0; i < 8; i++) x[i] = factor * x[i] * p.scale;
    squares += sum_of_squares(x);
    store_8(residual + column, x);
  });
  float factor = norm_factor(squares, p.hidden, p.eps);

  values.each(p.hidden, [&](u32 column, float* x, bool is_kept) {
    if (!is_kept) load_8(residual + column, x);
    store_normed(out + column, x, factor, p.norm_weight + column);
  });
}

#define EMBED(format, Format) \
  KERNEL(embed_##format, Embed, ROW_THREADS) { embed<Format>(p); }
EACH_FORMAT(EMBED)
