// Dequantize: out[j, l] = w[j, l], rounded to act.
//
// Grid m, 128 threads: a block per row, each thread 8 columns at a time.
#include "weights.cuh"

constexpr u32 DEQUANTIZE_THREADS = 128;

template <typename Format>
DEVICE void dequantize(const Dequantize& p) {
  const u8* row = p.w + u64(blockIdx.x) * p.row_bytes;
  act* out = p.out + u64(blockIdx.x) * p.k;
  u32 chunks = p.k / CHUNK;
#pragma unroll 4
  for (u32 chunk = threadIdx.x; chunk < chunks; chunk += DEQUANTIZE_THREADS) {
    float w[8];
    float factor = Format::unpack(Format::load(row, p.k, chunk), chunk, w);
#pragma unroll
    for (u32 i = 0; i < 8; i++) w[i] *= factor;
    store_8(out + CHUNK * chunk, w);
  }
}

#define DEQUANTIZE(format, Format) \
  KERNEL(dequantize_##format, Dequantize, DEQUANTIZE_THREADS) { dequantize<Format>(p); }
EACH_FORMAT(DEQUANTIZE)
