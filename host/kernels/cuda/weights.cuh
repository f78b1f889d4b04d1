// How the formats of weight matrices are read: 8 neighbouring columns, a chunk, at a time. A warp
// takes 32 neighbouring chunks, so that both the weights and the activations that go with them
// come in whole lines. `host/kernels/src/device/format.rs` documents the rows.
//
// Each format has
//   Raw                       a chunk as it lies in memory, with its scale
//   load(row, k, chunk)       of a row of k columns
//   unpack(raw, chunk, w)     8 floats and a factor: column i's value is `factor * w[i]`
//   BATCH                     chunks that a thread has under way at a time
//
// Small integers become floats without a conversion: as the low bits of 2^23's mantissa, less
// 2^23 (and less what the format's zero is).
#pragma once

#include "device.cuh"
#include "ops.cuh"

constexpr u32 CHUNK = 8;

DEVICE u32 round_up_16(u32 bytes) { return (bytes + 15) / 16 * 16; }

DEVICE u16 load_scale(const u8* row, u32 offset, u32 index) {
  return __ldg(reinterpret_cast<const u16*>(row + offset) + index);
}

// The byte `i` of a word, plus 2^23.
DEVICE float byte_above_2_23(u32 word, u32 i) {
  return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u + i));
}

// The 8 bytes of two words, less `zero`.
DEVICE void unpack_bytes(u32 low, u32 high, float zero, float w[8]) {
#pragma unroll
  for (u32 i = 0; i < 4; i++) {
    w[i] = byte_above_2_23(low, i) - (8388608.0f + zero);
    w[4 + i] = byte_above_2_23(high, i) - (8388608.0f + zero);
  }
}

// The 8 signed bytes of two words: with their sign bit flipped, 128 too many.
DEVICE void unpack_signed_bytes(uint2 words, float w[8]) {
  unpack_bytes(words.x ^ 0x80808080u, words.y ^ 0x80808080u, 128.0f, w);
}

struct F32Weights {
  struct Raw {
    uint4 low, high;
  };
  static constexpr u32 BATCH = 2;

  static DEVICE Raw load(const u8* row, u32, u32 chunk) {
    return {load16_once(row + 32 * chunk), load16_once(row + 32 * chunk + 16)};
  }
  static DEVICE float unpack(const Raw& raw, u32, float w[8]) {
    u32 words[8] = {raw.low.x,  raw.low.y,  raw.low.z,  raw.low.w,
                    raw.high.x, raw.high.y, raw.high.z, raw.high.w};
#pragma unroll
    for (u32 i = 0; i < 8; i++) w[i] = __uint_as_float(words[i]);
    return 1.0f;
  }
};

struct Bf16Weights {
  using Raw = uint4;
  static constexpr u32 BATCH = 4;

  static DEVICE Raw load(const u8* row, u32, u32 chunk) { return load16_once(row + 16 * chunk); }
  static DEVICE float unpack(const Raw& raw, u32, float w[8]) {
    unpack_bf16x8(raw, w);
    return 1.0f;
  }
};

struct W8Weights {
  struct Raw {
    uint2 codes;
    u16 scale;
  };
  static constexpr u32 BATCH = 4;

  static DEVICE Raw load(const u8* row, u32 k, u32 chunk) {
    u32 group = chunk / (WEIGHT_GROUP / CHUNK);
    return {load8_once(row + 8 * chunk), load_scale(row, round_up_16(k), group)};
  }
  static DEVICE float unpack(const Raw& raw, u32, float w[8]) {
    unpack_signed_bytes(raw.codes, w);
    return to_float(bf16{raw.scale});
  }
};

struct W4Weights {
  struct Raw {
    u32 codes;
    u16 scale;
  };
  static constexpr u32 BATCH = 8;

  static DEVICE Raw load(const u8* row, u32 k, u32 chunk) {
    u32 group = chunk / (WEIGHT_GROUP / CHUNK);
    return {load4_once(row + 4 * chunk), load_scale(row, round_up_16(k / 2), group)};
  }
  // A nibble at bit s of the mantissa of 2^23 adds 2^s times itself; one multiplication and
  // addition makes it `code - 8`, exactly. Nibbles 5 to 7 would lie in the exponent.
  static DEVICE float unpack(const Raw& raw, u32, float w[8]) {
#pragma unroll
    for (u32 nibble = 0; nibble < 8; nibble++) {
      u32 shift = nibble < 5 ? 4 * nibble : 4 * (nibble - 5);
      u32 word = nibble < 5 ? raw.codes : raw.codes >> 20;
      float shrink = 1.0f / float(1u << shift);
      float code = __uint_as_float((word & 15u << shift) | 0x4b000000u);
      w[nibble < 4 ? 2 * nibble : 2 * (nibble - 4) + 1] =
          fmaf(code, shrink, -8388608.0f * shrink - 8.0f);
    }
    return to_float(bf16{raw.scale});
  }
};

struct Q8_0Weights {
  struct Raw {
    uint2 codes;
    u16 scale;
  };
  static constexpr u32 BATCH = 4;

  static DEVICE Raw load(const u8* row, u32 k, u32 chunk) {
    return {load8_once(row + 8 * chunk), load_scale(row, k, chunk / 4)};
  }
  static DEVICE float unpack(const Raw& raw, u32, float w[8]) {
    unpack_signed_bytes(raw.codes, w);
    return half_to_float(raw.scale);
  }
};

// A block of 256 columns is 32 chunks. Of each half of a block, 128 columns in four quarters, the
// low 4 bits are 64 bytes (quarters 0 and 1 in the low nibbles, 2 and 3 in the high ones), the
// high 2 bits 32 bytes (quarter q in bits 2 q).
struct Q6KWeights {
  struct Raw {
    uint2 low, high;
    i8 scale;
    u16 d;
  };
  static constexpr u32 BATCH = 4;

  static DEVICE Raw load(const u8* row, u32 k, u32 chunk) {
    u32 block = chunk / 32, half = chunk / 16 % 2, quarter = chunk / 4 % 4, place = chunk % 4;
    const u8* high = row + k / 2;
    const i8* scales = reinterpret_cast<const i8*>(high + k / 4);
    return {load8_once(row + 128 * block + 64 * half + 32 * (quarter % 2) + 8 * place),
            load8_once(high + 64 * block + 32 * half + 8 * place), i8(__ldg(scales + chunk / 2)),
            load_scale(row, k / 2 + k / 4 + k / 16, block)};
  }
  static DEVICE float unpack(const Raw& raw, u32 chunk, float w[8]) {
    u32 quarter = chunk / 4 % 4, low_shift = 4 * (quarter / 2), high_shift = 2 * quarter;
    u32 first = (raw.low.x >> low_shift & 0x0f0f0f0fu) | (raw.high.x >> high_shift & 0x03030303u) << 4;
    u32 second = (raw.low.y >> low_shift & 0x0f0f0f0fu) | (raw.high.y >> high_shift & 0x03030303u) << 4;
    unpack_bytes(first, second, 32.0f, w);
    return half_to_float(raw.d) * float(raw.scale);
  }
};

// A block of 256 columns is 16 bytes of scales, then 128 bytes of codes; each 32 of them hold two
// sub-blocks of 32 columns, the first in the low nibbles.
struct Q4KWeights {
  struct Raw {
    uint4 header;
    uint2 codes;
  };
  static constexpr u32 BATCH = 4;

  static DEVICE Raw load(const u8* row, u32, u32 chunk) {
    const u8* block = row + 144 * (chunk / 32);
    u32 sub_block = chunk / 4 % 8, place = chunk % 4;
    return {load16_once(block), load8_once(block + 16 + 32 * (sub_block / 2) + 8 * place)};
  }
  // Scales and minimums have 6 bits each. Bytes 0 to 3 of twelve hold scales 0 to 3 and, above
  // them, the upper 2 bits of scales 4 to 7; bytes 4 to 7 the same of minimums; bytes 8 to 11 the
  // lower 4 bits of scales 4 to 7 and, above them, those of minimums.
  static DEVICE float unpack(const Raw& raw, u32 chunk, float w[8]) {
    u32 sub_block = chunk / 4 % 8, shift = 8 * (sub_block % 4);
    u32 scale = raw.header.y >> shift & 63u, min = raw.header.z >> shift & 63u;
    if (sub_block >= 4) {
      u32 low = raw.header.w >> shift & 255u;
      scale = (low & 15u) | (raw.header.y >> shift >> 6 & 3u) << 4;
      min = low >> 4 | (raw.header.z >> shift >> 6 & 3u) << 4;
    }
    float step = half_to_float(u16(raw.header.x)) * float(scale);
    float offset = half_to_float(u16(raw.header.x >> 16)) * float(min);
    // Products of 11 and 6 bits, and then 4 more: float32 has them exactly, so that a value is the
    // same whether its product and difference are contracted or not.
    u32 nibble = 4 * (sub_block % 2);
    unpack_bytes(raw.codes.x >> nibble & 0x0f0f0f0fu, raw.codes.y >> nibble & 0x0f0f0f0fu, 0.0f, w);
#pragma unroll
    for (u32 i = 0; i < 8; i++) w[i] = step * w[i] - offset;
    return 1.0f;
  }
};

// `ONE(name in kernels, type)` for every format.
#define EACH_FORMAT(ONE) \
  ONE(f32, F32Weights)   \
  ONE(bf16, Bf16Weights) \
  ONE(w8, W8Weights)     \
  ONE(w4, W4Weights)     \
  ONE(q8_0, Q8_0Weights) \
  ONE(q6_k, Q6KWeights)  \
  ONE(q4_k, Q4KWeights)
