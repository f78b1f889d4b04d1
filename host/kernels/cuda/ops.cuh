// Parameter blocks of the kernels: the same fields in the same order as in
// `host/kernels/src/device/ops.rs`, which documents them. A test compares the sizes.
#pragma once

#include "device.cuh"

struct PrefillTile {
  u32 row;
  u32 count;
  u32 first_position;
  u32 table;
};

struct RowSampling {
  u32 flags;
  float temperature;
  u32 top_k;
  float top_p;
  float min_p;
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  u64 random;
  u32 history_start;
  u32 history_len;
  u32 history_prompt;
  u32 bias_start;
  u32 bias_len;
  u32 mask;
  u32 newest;
  u32 newest_is_generated;
};

struct Bias {
  u32 token;
  float bias;
};

struct RowLogprobs {
  float log_total;
  u32 count;
  u32 tokens[20];
  float logits[20];
};

struct Embed {
  const u32* tokens;
  const i32* sources;
  const u32* sampled;
  const u8* table;
  const float* norm_weight;
  float* residual;
  act* out;
  u32 n;
  u32 hidden;
  u32 vocab;
  u32 row_bytes;
  float scale;
  float eps;
};

struct AddNorm {
  const float* branch;
  const float* post_weight;
  float* residual;
  const float* next_weight;
  const u32* rows;
  act* out;
  u32 n;
  u32 hidden;
  float eps;
  u32 reserved;
};

struct Gemv {
  const act* x;
  const u8* w;
  void* out;
  u32 n;
  u32 m;
  u32 k;
  u32 row_bytes;
  float cap;
  u32 out_stride;  // elements from row to row of out
};

struct Gemm {
  const act* x;
  const act* w;
  void* out;
  u32 n;
  u32 m;
  u32 k;
  u32 x_stride;
  u32 w_stride;
  u32 out_stride;
  u32 batch;
  u32 w_shared;
  u64 x_batch_stride;
  u64 w_batch_stride;
  u64 out_batch_stride;
  u32 w_is_kn;
  u32 out_is_f32;
  u32 allow_tf32;
  u32 reserved;
};

struct Dequantize {
  const u8* w;
  act* out;
  u32 m;
  u32 k;
  u32 row_bytes;
  u32 reserved;
};

struct Glu {
  const act* x;
  act* out;
  u32 n;
  u32 inner;
  u32 silu;
  u32 reserved;
};

struct SoftCap {
  float* x;
  u64 count;
  float cap;
  u32 reserved;
};

struct RopeKv {
  const act* qkv;
  act* q_out;
  act* k_cache;
  act* v_cache;
  const u32* positions;
  const u32* slots;
  const float* inv_freq;
  const float* q_norm;
  const float* k_norm;
  u32 n;
  u32 heads;
  u32 kv_heads;
  float eps;
  u32 interleaved;
  u32 reserved;
};

struct AttendDecode {
  const act* q;
  const act* k_cache;
  const act* v_cache;
  const u32* tables;
  const u32* lengths;
  act* out;
  float* partial;
  float* partial_sums;
  u32 n;
  u32 kv_heads;
  u32 table_stride;
  u32 window;
  u32 splits;
  float scale;
  float cap;
  u32 reserved;
};

struct MergeSplits {
  const float* partial;
  const float* partial_sums;
  act* out;
  u32 n;
  u32 heads;
  u32 splits;
  u32 reserved;
};

struct AttendPrefill {
  const act* q;
  const act* k_cache;
  const act* v_cache;
  const u32* tables;
  const PrefillTile* tiles;
  act* out;
  u32 num_tiles;
  u32 kv_heads;
  u32 table_stride;
  u32 window;
  float scale;
  float cap;
};

struct GatherKv {
  const act* k_cache;
  const act* v_cache;
  const u32* table;
  act* k_out;
  act* v_out;
  u32 first;
  u32 count;
  u32 kv_heads;
  u32 reserved;
};

struct MaskedSoftmax {
  const float* scores;
  act* out;
  u32 heads;
  u32 rows;
  u32 columns;
  u32 first_position;
  u32 first_key;
  u32 window;
  float scale;
  float cap;
};

struct Logprobs {
  const float* logits;
  const RowSampling* params;
  RowLogprobs* out;
  u32 n;
  u32 vocab;
};

struct Penalize {
  float* logits;
  const RowSampling* params;
  const u32* history;
  const Bias* biases;
  const u32* masks;
  const u32* tokens;
  const i32* sources;
  const u32* sampled;
  u32* seen;
  u32 n;
  u32 vocab;
};

struct Sample {
  const float* logits;
  const RowSampling* params;
  u32* sampled;
  float* sampled_logits;
  u32 n;
  u32 vocab;
};

struct Quantize {
  const act* x;
  u8* out;
  u32 m;
  u32 k;
  u32 row_bytes;
  u32 reserved;
};

struct CountNonFinite {
  const void* x;
  u32* counter;
  u64 count;
  u32 kind;
  u32 reserved;
};

struct FillRandom {
  act* out;
  u64 count;
  u64 seed;
  float std;
  u32 reserved;
};

struct ReadProbe {
  const u32* x;
  u32* out;
  u64 bytes;
  u32 blocks;
  u32 reserved;
};

// Bits of `RowSampling::flags`.
enum : u32 { DRAW = 1, CHANGED = 2, MASKED = 4, LOGPROBS = 8 };

// Keys per block of the KV cache.
constexpr u32 KV_BLOCK = 16;
// Tiles of prefill attention.
constexpr u32 PREFILL_TILE_ROWS = 64;
constexpr u32 PREFILL_TILE_KEYS = 32;
// Columns that share a scale in W8 and W4.
constexpr u32 WEIGHT_GROUP = 128;
// Warps of a GEMV block, each with one output.
constexpr u32 GEMV_WARPS = 8;
