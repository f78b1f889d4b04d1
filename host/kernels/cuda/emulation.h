// Stands in for the CUDA compiler's own names, so that the kernels compile unchanged as C++17 for
// this machine, where emulation.cpp runs them: each thread of a block is a fiber, and whatever
// makes threads wait for each other (barriers, shuffles, votes) is a real rendezvous of fibers.
//
// Each source is compiled on its own, within a namespace of its own. For Linux: kernels and their
// shared memory are found by the linker's sections.
#pragma once

#include <cmath>
#include <cstring>

struct uint2 {
  alignas(8) unsigned x;
  unsigned y;
};
struct uint3 {
  unsigned x, y, z;
};
struct uint4 {
  alignas(16) unsigned x;
  unsigned y, z, w;
};
struct float2 {
  alignas(8) float x;
  float y;
};
struct float4 {
  alignas(16) float x;
  float y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

extern uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

// What a kernel leaves in the section that `gapura_launch` searches.
struct alignas(32) Kernel {
  const char* name;
  unsigned long long param_bytes;
  unsigned long long max_threads;
  void (*run)(const void* params);
};
static_assert(sizeof(Kernel) == 32, "entries of a section lie side by side");

constexpr unsigned first(unsigned threads, unsigned = 0) { return threads; }

// Ends the launch with a message.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Waits until every lane that `mask` names has come to a meeting of the same kind and mask; the
// last one then does `resolve` for all of them, with what each lane brought.
using Resolve = void (*)(void* const* lanes, unsigned mask);
void meet_warp(unsigned mask, const char* what, void* mine, Resolve resolve);

// Waits until every thread of the block has come, and counts those whose predicate held.
int meet_block(const char* what, bool predicate);

unsigned lane();
unsigned char* dynamic_shared();

// Copies that take effect only when they are waited for.
void copy_later(void* to, const void* from, unsigned bytes);
void commit_copies();
void wait_copies(unsigned groups_under_way);

inline void check_aligned(const void* address, unsigned bytes) {
  if (reinterpret_cast<unsigned long long>(address) % bytes != 0) {
    fail("an access of %u bytes at %p is not aligned", bytes, address);
  }
}

template <typename T>
struct Shuffle {
  T value;
  unsigned source;
  T result;
};

template <typename T>
T shuffle(const char* what, unsigned mask, T value, unsigned source) {
  Shuffle<T> mine{value, source, value};
  meet_warp(mask, what, &mine, [](void* const* lanes, unsigned mask) {
    for (unsigned i = 0; i < 32; i++) {
      if ((mask >> i & 1) == 0) continue;
      auto* lane = static_cast<Shuffle<T>*>(lanes[i]);
      if ((mask >> lane->source & 1) == 0) {
        fail("lane %u reads from lane %u, which the mask %#x leaves out", i, lane->source, mask);
      }
      lane->result = static_cast<Shuffle<T>*>(lanes[lane->source])->value;
    }
  });
  return mine.result;
}

struct Vote {
  bool holds;
  unsigned result;
};

unsigned vote(const char* what, unsigned mask, bool holds);

template <typename T>
struct Match {
  T value;
  unsigned result;
};

}  // namespace emulation

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ __attribute__((section("gapura_shared"))) static

#define EMULATED_KERNEL(name_, Params, ...)                                                     \
  static void name_(const Params& p);                                                           \
  static void run_##name_(const void* p) { name_(*static_cast<const Params*>(p)); }             \
  __attribute__((section("gapura_kernels"), used)) static emulation::Kernel entry_##name_ = {   \
      #name_, sizeof(Params), emulation::first(__VA_ARGS__), run_##name_};                      \
  static void name_(const Params& p)

inline void __syncthreads() { emulation::meet_block("__syncthreads", false); }
inline int __syncthreads_count(int predicate) {
  return emulation::meet_block("__syncthreads_count", predicate != 0);
}
inline int __syncthreads_or(int predicate) {
  return emulation::meet_block("__syncthreads_or", predicate != 0) != 0;
}
inline int __syncthreads_and(int predicate) {
  return emulation::meet_block("__syncthreads_and", predicate == 0) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulation::meet_warp(mask, "__syncwarp", nullptr, [](void* const*, unsigned) {});
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  unsigned start = emulation::lane() & ~(width - 1u);
  return emulation::shuffle("__shfl_sync", mask, value, start | (source & (width - 1u)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  unsigned lane = emulation::lane(), source = lane ^ bits;
  bool inside = source < (lane | (width - 1u)) + 1;
  return emulation::shuffle("__shfl_xor_sync", mask, value, inside ? source : lane);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  unsigned lane = emulation::lane(), within = lane & (width - 1u);
  return emulation::shuffle("__shfl_up_sync", mask, value, within >= delta ? lane - delta : lane);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  unsigned lane = emulation::lane(), within = lane & (width - 1u);
  bool inside = within + delta < unsigned(width);
  return emulation::shuffle("__shfl_down_sync", mask, value, inside ? lane + delta : lane);
}
inline unsigned __ballot_sync(unsigned mask, int holds) {
  return emulation::vote("__ballot_sync", mask, holds != 0);
}
inline int __any_sync(unsigned mask, int holds) {
  return emulation::vote("__any_sync", mask, holds != 0) != 0;
}
inline int __all_sync(unsigned mask, int holds) {
  return emulation::vote("__all_sync", mask, holds != 0) == mask;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  emulation::Match<T> mine{value, 0};
  emulation::meet_warp(mask, "__match_any_sync", &mine, [](void* const* lanes, unsigned mask) {
    for (unsigned i = 0; i < 32; i++) {
      for (unsigned j = 0; (mask >> i & 1) != 0 && j < 32; j++) {
        if ((mask >> j & 1) == 0) continue;
        auto* lane = static_cast<emulation::Match<T>*>(lanes[i]);
        bool equal = lane->value == static_cast<emulation::Match<T>*>(lanes[j])->value;
        lane->result |= unsigned(equal) << j;
      }
    }
  });
  return mine.result;
}

// Fibers take turns on one thread of this machine: nothing comes between.
template <typename T>
T emulated_atomic(T* address, T value) {
  T old = *address;
  *address = value;
  return old;
}
#define EMULATED_ATOMIC(name, T, value_) \
  inline T name(T* address, T value) { return emulated_atomic(address, static_cast<T>(value_)); }
#define EMULATED_ATOMICS(T)                                                \
  EMULATED_ATOMIC(atomicAdd, T, *address + value)                          \
  EMULATED_ATOMIC(atomicExch, T, value)                                    \
  EMULATED_ATOMIC(atomicMin, T, value < *address ? value : *address)       \
  EMULATED_ATOMIC(atomicMax, T, value > *address ? value : *address)
#define EMULATED_BIT_ATOMICS(T)                   \
  EMULATED_ATOMIC(atomicOr, T, *address | value)  \
  EMULATED_ATOMIC(atomicAnd, T, *address & value) \
  EMULATED_ATOMIC(atomicXor, T, *address ^ value) \
  inline T atomicCAS(T* address, T expected, T value) {                                   \
    return emulated_atomic(address, *address == expected ? value : *address);             \
  }
EMULATED_ATOMICS(int)
EMULATED_ATOMICS(unsigned)
EMULATED_ATOMICS(unsigned long long)
EMULATED_ATOMIC(atomicAdd, float, *address + value)
EMULATED_ATOMIC(atomicExch, float, value)
EMULATED_BIT_ATOMICS(int)
EMULATED_BIT_ATOMICS(unsigned)
EMULATED_BIT_ATOMICS(unsigned long long)

template <typename T>
T __ldg(const T* address) {
  emulation::check_aligned(address, alignof(T));
  return *address;
}

template <typename To, typename From>
To emulated_bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}
inline float __uint_as_float(unsigned x) { return emulated_bit_cast<float>(x); }
inline float __int_as_float(int x) { return emulated_bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return emulated_bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return emulated_bit_cast<int>(x); }

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(x); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; i++) reversed |= (x >> i & 1u) << (31 - i);
  return reversed;
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  unsigned long long bytes = static_cast<unsigned long long>(high) << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) {
    unsigned from = selector >> 4 * i & 7;
    result |= static_cast<unsigned>(bytes >> 8 * from & 0xff) << 8 * i;
  }
  return result;
}

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline int __float2int_rn(float x) { return static_cast<int>(rintf(x)); }

#define EMULATED_MIN_MAX(T)                        \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
EMULATED_MIN_MAX(int)
EMULATED_MIN_MAX(unsigned)
EMULATED_MIN_MAX(long long)
EMULATED_MIN_MAX(unsigned long long)
