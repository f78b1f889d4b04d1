// What every kernel builds on: types, warps, conversions. Needs no header of the CUDA toolkit, so
// that NVRTC alone compiles it.
//
// Macros from the build:
//   GAPURA_F32  1: activations, keys and values are float32; 0: bfloat16
//   HEAD_DIM    width of an attention head, a multiple of 16
//   GROUP       query heads per key head
// and GAPURA_EMULATED where the source is compiled for the host: emulation.h then stands in for
// the compiler's own names.
//
// A kernel is `KERNEL(name, Params, threads) { ... }`, its parameter block `p`; a minimum of
// blocks per multiprocessor may follow the threads, as in `__launch_bounds__`.
#pragma once

#ifdef GAPURA_EMULATED
#include "emulation.h"
#define KERNEL(name, Params, ...) EMULATED_KERNEL(name, Params, __VA_ARGS__)
#else
#define KERNEL(name, Params, ...) \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const __grid_constant__ Params p)
#endif

#define DEVICE __device__ __forceinline__

// Whether there is `mma_bf16`: from Ampere on.
#if defined(GAPURA_EMULATED) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800)
#define HAS_MMA_BF16 1
#else
#define HAS_MMA_BF16 0
#endif

using u8 = unsigned char;
using i8 = signed char;
using u16 = unsigned short;
using u32 = unsigned int;
using i32 = int;
using u64 = unsigned long long;

// bfloat16: the upper half of a float32.
struct bf16 {
  u16 bits;
};

#if GAPURA_F32
using act = float;
#else
using act = bf16;
#endif

constexpr u32 ALL_LANES = 0xffffffffu;

// ---- Conversions -------------------------------------------------------------------------------

DEVICE float infinity() { return __uint_as_float(0x7f800000u); }

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }
// The lower and the upper bf16 of a word.
DEVICE float low_to_float(u32 word) { return __uint_as_float(word << 16); }
DEVICE float high_to_float(u32 word) { return __uint_as_float(word & 0xffff0000u); }

// Two values as bf16, rounded to nearest even; `low` in the lower half.
DEVICE u32 pack_bf16(float low, float high) {
#if !defined(GAPURA_EMULATED) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  u32 word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#else
  u32 words[2] = {__float_as_uint(low), __float_as_uint(high)};
#pragma unroll
  for (int i = 0; i < 2; i++) {
    bool is_nan = (words[i] & 0x7fffffffu) > 0x7f800000u;
    words[i] = is_nan ? 0x7fffu : (words[i] + 0x7fffu + (words[i] >> 16 & 1u)) >> 16;
  }
  return words[1] << 16 | words[0];
#endif
}

template <typename T>
DEVICE T from_float(float x);
template <>
DEVICE float from_float<float>(float x) {
  return x;
}
template <>
DEVICE bf16 from_float<bf16>(float x) {
  return {u16(pack_bf16(x, 0.0f))};
}
DEVICE act to_act(float x) { return from_float<act>(x); }

// The value of a float16's bits.
DEVICE float half_to_float(u16 bits) {
#ifdef GAPURA_EMULATED
  u32 sign = u32(bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, fraction = bits & 1023u;
  if (exponent == 0) {
    float magnitude = float(fraction) * (1.0f / 16777216.0f);
    return __uint_as_float(sign | __float_as_uint(magnitude));
  }
  u32 wide = exponent == 31 ? 255u : exponent + 112u;
  return __uint_as_float(sign | wide << 23 | fraction << 13);
#else
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
#endif
}

// ---- Functions ---------------------------------------------------------------------------------

DEVICE float soft_capped(float x, float cap) { return cap * tanhf(x / cap); }

DEVICE float gelu_tanh(float x) {
  return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

// ---- Memory ------------------------------------------------------------------------------------

// The block's dynamic shared memory, aligned to 16 bytes.
DEVICE u8* dynamic_shared() {
#ifdef GAPURA_EMULATED
  return emulation::dynamic_shared();
#else
  extern __shared__ uint4 gapura_dynamic_shared[];
  return reinterpret_cast<u8*>(gapura_dynamic_shared);
#endif
}

// 16 bytes of any memory, in one access; `address` is aligned to them.
DEVICE uint4 load16(const void* address) {
#ifdef GAPURA_EMULATED
  emulation::check_aligned(address, 16);
#endif
  return *static_cast<const uint4*>(address);
}

DEVICE void store16(void* address, uint4 x) {
#ifdef GAPURA_EMULATED
  emulation::check_aligned(address, 16);
#endif
  *static_cast<uint4*>(address) = x;
}

// 16, 8 and 4 bytes that no kernel under way writes and that are read once: they do not displace
// what the first cache holds.
DEVICE uint4 load16_once(const void* address) {
#ifdef GAPURA_EMULATED
  return load16(address);
#else
  uint4 x;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
      : "l"(address));
  return x;
#endif
}

DEVICE uint2 load8_once(const void* address) {
#ifdef GAPURA_EMULATED
  emulation::check_aligned(address, 8);
  return *static_cast<const uint2*>(address);
#else
  uint2 x;
  asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
      : "=r"(x.x), "=r"(x.y)
      : "l"(address));
  return x;
#endif
}

DEVICE u32 load4_once(const void* address) {
#ifdef GAPURA_EMULATED
  emulation::check_aligned(address, 4);
  return *static_cast<const u32*>(address);
#else
  u32 x;
  asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(x) : "l"(address));
  return x;
#endif
}

DEVICE void unpack_bf16x8(uint4 words, float out[8]) {
  u32 word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    out[2 * i] = low_to_float(word[i]);
    out[2 * i + 1] = high_to_float(word[i]);
  }
}

// Eight neighbours at once. Addresses are aligned to 16 bytes.
DEVICE void load_8(const float* from, float out[8]) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    uint4 words = load16(from + 4 * i);
    out[4 * i] = __uint_as_float(words.x);
    out[4 * i + 1] = __uint_as_float(words.y);
    out[4 * i + 2] = __uint_as_float(words.z);
    out[4 * i + 3] = __uint_as_float(words.w);
  }
}
DEVICE void load_8(const bf16* from, float out[8]) { unpack_bf16x8(load16(from), out); }

DEVICE void store_8(float* to, const float x[8]) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    store16(to + 4 * i,
            make_uint4(__float_as_uint(x[4 * i]), __float_as_uint(x[4 * i + 1]),
                       __float_as_uint(x[4 * i + 2]), __float_as_uint(x[4 * i + 3])));
  }
}
DEVICE void store_8(bf16* to, const float x[8]) {
  store16(to, make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                         pack_bf16(x[6], x[7])));
}

// Copies 16 bytes from global to shared memory without holding up the thread; the first `bytes`
// (0 or 16) are read, the others become zero. What was started is there after a wait (and, for
// other threads, a barrier). Before Ampere the thread copies at once.
DEVICE void copy_async_16(void* shared, const void* global, u32 bytes = 16) {
#ifdef GAPURA_EMULATED
  emulation::check_aligned(shared, 16);
  emulation::check_aligned(global, 16);
  emulation::copy_later(shared, global, bytes);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  u32 to = u32(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(to), "l"(global), "r"(bytes)
               : "memory");
#else
  store16(shared, bytes == 0 ? make_uint4(0, 0, 0, 0) : load16(global));
#endif
}

// Ends a group of such copies.
DEVICE void copy_async_commit() {
#ifdef GAPURA_EMULATED
  emulation::commit_copies();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for all groups but the newest `GROUPS`.
template <u32 GROUPS>
DEVICE void copy_async_wait() {
#ifdef GAPURA_EMULATED
  emulation::wait_copies(GROUPS);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
#endif
}

// ---- Warps and blocks --------------------------------------------------------------------------

// Sums and greatest values by butterflies: the same order always, the same bits in every lane.
template <typename T>
DEVICE T warp_sum(T x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
  return x;
}

DEVICE float warp_max(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
  return x;
}

// The same over a block of `THREADS`, a multiple of 32, for every thread of it.
template <u32 THREADS, typename T>
DEVICE T block_sum(T x) {
  __shared__ T partial[THREADS / 32];
  x = warp_sum(x);
  __syncthreads();  // The sum before may still be read.
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_sum(threadIdx.x % 32 < THREADS / 32 ? partial[threadIdx.x % 32] : T(0));
}

template <u32 THREADS>
DEVICE float block_max(float x) {
  __shared__ float partial[THREADS / 32];
  x = warp_max(x);
  __syncthreads();  // The value before may still be read.
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_max(threadIdx.x % 32 < THREADS / 32 ? partial[threadIdx.x % 32] : -infinity());
}

// ---- Tensor cores ------------------------------------------------------------------------------

#if HAS_MMA_BF16

#ifdef GAPURA_EMULATED
struct MmaLane {
  float* d;
  const u32* a;
  const u32* b;
};
struct MatrixLane {
  u32* out;
  const void* row;
};

DEVICE float emulated_bf16(const u32* words, u32 index) {
  return index % 2 == 0 ? low_to_float(words[index / 2]) : high_to_float(words[index / 2]);
}
#endif

// `d += a b` for a 16 x 16 of bf16 (rows), b 16 x 8 (columns), sums in float32, by a warp
// (mma.sync.m16n8k16). With g = lane / 4 and t = lane % 4 a lane holds
//   a[0], a[1]: rows g and g + 8, columns 2 t, 2 t + 1;  a[2], a[3]: the same rows, columns + 8
//   b[0], b[1]: column g, rows 2 t, 2 t + 1, and rows + 8
//   d[0], d[1]: row g, columns 2 t, 2 t + 1;             d[2], d[3]: row g + 8
DEVICE void mma_bf16(float d[4], const u32 a[4], const u32 b[2]) {
#ifdef GAPURA_EMULATED
  MmaLane mine{d, a, b};
  emulation::meet_warp(ALL_LANES, "mma_bf16", &mine, [](void* const* lanes, u32) {
    float left[16][16], right[16][8];
    for (u32 lane = 0; lane < 32; lane++) {
      const auto* from = static_cast<const MmaLane*>(lanes[lane]);
      u32 g = lane / 4, t = lane % 4;
      for (u32 i = 0; i < 8; i++) {
        left[g + i / 2 % 2 * 8][2 * t + i % 2 + i / 4 * 8] = emulated_bf16(from->a, i);
      }
      for (u32 i = 0; i < 4; i++) {
        right[2 * t + i % 2 + i / 2 * 8][g] = emulated_bf16(from->b, i);
      }
    }
    for (u32 lane = 0; lane < 32; lane++) {
      float* to = static_cast<const MmaLane*>(lanes[lane])->d;
      for (u32 i = 0; i < 4; i++) {
        u32 row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
        double sum = to[i];
        for (u32 k = 0; k < 16; k++) sum += double(left[row][k]) * double(right[k][column]);
        to[i] = float(sum);
      }
    }
  });
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

#ifdef GAPURA_EMULATED
template <bool TRANSPOSED>
DEVICE void emulated_ldmatrix_x4(u32 out[4], const void* row) {
  emulation::check_aligned(row, 16);
  MatrixLane mine{out, row};
  const char* what = TRANSPOSED ? "ldmatrix_x4_trans" : "ldmatrix_x4";
  emulation::meet_warp(ALL_LANES, what, &mine, [](void* const* lanes, u32) {
    for (u32 lane = 0; lane < 32; lane++) {
      u32* to = static_cast<const MatrixLane*>(lanes[lane])->out;
      u32 result[4];
      for (u32 i = 0; i < 8; i++) {
        u32 r = lane / 4, c = 2 * (lane % 4) + i % 2;
        u32 from = TRANSPOSED ? c : r, column = TRANSPOSED ? r : c;
        const void* start = static_cast<const MatrixLane*>(lanes[i / 2 * 8 + from])->row;
        u32 half = static_cast<const u16*>(start)[column];
        result[i / 2] = i % 2 == 0 ? half : result[i / 2] | half << 16;
      }
      for (u32 i = 0; i < 4; i++) to[i] = result[i];
    }
  });
}
#endif

// Four 8 x 8 matrices of 16 bits out of shared memory: lane `8 i + r` names row r of matrix i (16
// bytes, aligned). Of each a lane gets row lane / 4, columns 2 (lane % 4) and the next.
DEVICE void ldmatrix_x4(u32 out[4], const void* row) {
#ifdef GAPURA_EMULATED
  emulated_ldmatrix_x4<false>(out, row);
#else
  u32 from = u32(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(from)
               : "memory");
#endif
}

// The same of the transposed matrices: column lane / 4, rows 2 (lane % 4) and the next.
DEVICE void ldmatrix_x4_trans(u32 out[4], const void* row) {
#ifdef GAPURA_EMULATED
  emulated_ldmatrix_x4<true>(out, row);
#else
  u32 from = u32(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(from)
               : "memory");
#endif
}

#endif  // HAS_MMA_BF16
