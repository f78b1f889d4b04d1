// Gemv: out[i, j] = epilogue(sum over l of x[i, l] * w[j, l]), 1 to 8 rows of x.
//
// Grid ceil(m / 8), 256 threads: a warp per output j, for all rows; of the gated epilogues both
// row j (gate) and row m + j (up) of w. Weights go past the first cache, each is read once; x
// comes from the caches.
//
// Sums in float32. Lane t takes chunks t, t + 32, ... of 8 columns: a chunk's products are added
// in order, times the format's factor they are added to the lane's sum, and the lanes' sums are
// added by a butterfly. Nothing of that depends on n, so a row's result does not either.
#include "weights.cuh"

struct StoreAct {
  static constexpr bool GATED = false;
  static DEVICE void store(const Gemv& p, u64 index, float sum, float) {
    static_cast<act*>(p.out)[index] = to_act(sum);
  }
};

struct StoreF32 {
  static constexpr bool GATED = false;
  static DEVICE void store(const Gemv& p, u64 index, float sum, float) {
    static_cast<float*>(p.out)[index] = p.cap > 0.0f ? soft_capped(sum, p.cap) : sum;
  }
};

struct StoreGelu {
  static constexpr bool GATED = true;
  static DEVICE void store(const Gemv& p, u64 index, float gate, float up) {
    static_cast<act*>(p.out)[index] = to_act(gelu_tanh(gate) * up);
  }
};

struct StoreSilu {
  static constexpr bool GATED = true;
  static DEVICE void store(const Gemv& p, u64 index, float gate, float up) {
    static_cast<act*>(p.out)[index] = to_act(silu(gate) * up);
  }
};

template <typename Format, typename Epilogue, u32 ROWS>
DEVICE void gemv(const Gemv& p) {
  constexpr u32 MATRICES = Epilogue::GATED ? 2 : 1;
  // Many rows take the registers that more weights under way would need.
  constexpr u32 SHARE = MATRICES * (ROWS == 8 ? 2 : 1);
  constexpr u32 BATCH = Format::BATCH > SHARE ? Format::BATCH / SHARE : 1;
  u32 lane = threadIdx.x % 32, output = blockIdx.x * GEMV_WARPS + threadIdx.x / 32;
  if (output >= p.m) return;

  const u8* rows[MATRICES];
  float sums[MATRICES][ROWS];
#pragma unroll
  for (u32 matrix = 0; matrix < MATRICES; matrix++) {
    rows[matrix] = p.w + u64(matrix * p.m + output) * p.row_bytes;
#pragma unroll
    for (u32 row = 0; row < ROWS; row++) sums[matrix][row] = 0.0f;
  }

  u32 chunks = p.k / CHUNK;
  for (u32 first = lane; first < chunks; first += 32 * BATCH) {
    typename Format::Raw raw[BATCH][MATRICES];
#pragma unroll
    for (u32 i = 0; i < BATCH; i++) {
      if (first + 32 * i >= chunks) continue;
#pragma unroll
      for (u32 matrix = 0; matrix < MATRICES; matrix++) {
        raw[i][matrix] = Format::load(rows[matrix], p.k, first + 32 * i);
      }
    }
#pragma unroll
    for (u32 i = 0; i < BATCH; i++) {
      u32 chunk = first + 32 * i;
      if (chunk >= chunks) continue;
      float w[MATRICES][8], factor[MATRICES];
#pragma unroll
      for (u32 matrix = 0; matrix < MATRICES; matrix++) {
        factor[matrix] = Format::unpack(raw[i][matrix], chunk, w[matrix]);
      }
#pragma unroll
      for (u32 row = 0; row < ROWS; row++) {
        // Kernels for 1 and 2 rows are launched for just these.
        if (ROWS > 2 && row >= p.n) continue;
        float x[8];
        load_8(p.x + u64(row) * p.k + CHUNK * chunk, x);
#pragma unroll
        for (u32 matrix = 0; matrix < MATRICES; matrix++) {
          float products = w[matrix][0] * x[0];
#pragma unroll
          for (u32 l = 1; l < 8; l++) products = fmaf(w[matrix][l], x[l], products);
          sums[matrix][row] = fmaf(factor[matrix], products, sums[matrix][row]);
        }
      }
    }
  }

  // Lane i stores row i.
  float result[2] = {0.0f, 0.0f};
#pragma unroll
  for (u32 row = 0; row < ROWS; row++) {
#pragma unroll
    for (u32 matrix = 0; matrix < MATRICES; matrix++) {
      float sum = warp_sum(sums[matrix][row]);
      if (lane == row) result[matrix] = sum;
    }
  }
  if (lane < p.n) {
    Epilogue::store(p, u64(lane) * p.out_stride + output, result[0], result[1]);
  }
}

// Two blocks a multiprocessor at least: left to itself, ptxas spills registers for more.
#define GEMV(format, Format, epilogue, Epilogue, rows)                    \
  KERNEL(gemv_##format##_##epilogue##_##rows, Gemv, 32 * GEMV_WARPS, 2) { \
    gemv<Format, Epilogue, rows>(p);                                      \
  }
#define EACH_ROWS(format, Format, epilogue, Epilogue) \
  GEMV(format, Format, epilogue, Epilogue, 1)         \
  GEMV(format, Format, epilogue, Epilogue, 2)         \
  GEMV(format, Format, epilogue, Epilogue, 4)         \
  GEMV(format, Format, epilogue, Epilogue, 8)
#define EACH_EPILOGUE(format, Format)        \
  EACH_ROWS(format, Format, act, StoreAct)   \
  EACH_ROWS(format, Format, f32, StoreF32)   \
  EACH_ROWS(format, Format, gelu, StoreGelu) \
  EACH_ROWS(format, Format, silu, StoreSilu)
EACH_FORMAT(EACH_EPILOGUE)
