// Glu: out[i, j] = f(x[i, j]) * x[i, inner + j], f GELU by tanh or SiLU.
// SoftCap: x = cap * tanh(x / cap).
//
// Blocks of 256 threads, about 8 elements a thread; more come by strides of the grid. In float32.
#include "ops.cuh"

constexpr u32 ELEMENTWISE_THREADS = 256;

DEVICE float gated(float gate, float up, u32 is_silu) {
  return (is_silu != 0 ? silu(gate) : gelu_tanh(gate)) * up;
}

KERNEL(glu, Glu, ELEMENTWISE_THREADS) {
  u64 first = u64(blockIdx.x) * ELEMENTWISE_THREADS + threadIdx.x;
  u64 stride = u64(gridDim.x) * ELEMENTWISE_THREADS;
  if (p.inner % 8 != 0) {
    for (u64 i = first; i < u64(p.n) * p.inner; i += stride) {
      u64 row = i / p.inner;
      // Row i of x begins at twice where row i of out does.
      const act* gate = p.x + row * p.inner + i;
      p.out[i] = to_act(gated(to_float(gate[0]), to_float(gate[p.inner]), p.silu));
    }
    return;
  }
  u32 row_chunks = p.inner / 8;
  for (u64 chunk = first; chunk < u64(p.n) * row_chunks; chunk += stride) {
    u64 row = chunk / row_chunks;
    const act* from = p.x + row * p.inner + 8 * chunk;
    float gate[8], up[8];
    load_8(from, gate);
    load_8(from + p.inner, up);
#pragma unroll
    for (u32 i = 0; i < 8; i++) gate[i] = gated(gate[i], up[i], p.silu);
    store_8(p.out + 8 * chunk, gate);
  }
}

KERNEL(soft_cap, SoftCap, ELEMENTWISE_THREADS) {
  u64 stride = u64(gridDim.x) * ELEMENTWISE_THREADS;
#pragma unroll 4
  for (u64 i = u64(blockIdx.x) * ELEMENTWISE_THREADS + threadIdx.x; i < p.count; i += stride) {
    p.x[i] = soft_capped(p.x[i], p.cap);
  }
}
