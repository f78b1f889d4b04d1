// Sampling: one block of 1024 threads a row of logits, a few coalesced passes over it, which finds
// most of it in the second cache. Nothing sorts the vocabulary, and nothing depends on the order
// of threads: what is summed across threads are integers, but for logprobs' sum, whose order is
// fixed.
//
// logprobs: `log_total = greatest + ln(sum(exp(logit - greatest)))` in float32, and the 20
// greatest finite logits.
//
// penalize: in float32, in the order of the CPU's sampler: biases are added, in their order; logits
// of tokens seen are divided by the repetition penalty if positive, else multiplied; from those of
// tokens generated `presence + count * frequency` is subtracted; tokens that the mask leaves out
// get minus infinity. A bitmask tells which thread is the first to come to a token, and it alone
// changes the logit. Occurrences are counted in shared memory: the counter of a token is the
// number of generated tokens with lower ids, told by the bits before its own.
//
// sample: weights `exp((logit - greatest) / temperature)` in float32, masses in units of 2^-40 as
// u64. Top-k, top-p and min-p become a place in the order of select.cuh from which on entries are
// kept, and a least weight. The entry drawn is the first in the order of ids at which the sum of
// kept masses exceeds `random * total / 2^64`.
//
// Most rows have few candidates: the pass that finds the greatest logit also finds, by the
// greatest of each thread, a floor above which there are few entries but enough of them. These
// are listed in shared memory and searched there; the row itself only if they do not do.
#include "select.cuh"

// Entries that a nucleus is looked for in at first.
constexpr u32 NUCLEUS_LEN = 512;

// This thread's greatest entry of a row.
DEVICE u64 greatest_of_thread(const Entries& row) {
  u64 greatest = 0;
  visit_all(row, [&](u32 id, float logit) { greatest = max(greatest, place_of(id, logit)); });
  return greatest;
}

KERNEL(logprobs, Logprobs, SELECT_THREADS) {
  constexpr u32 MOST = sizeof(RowLogprobs::tokens) / sizeof(u32);
  __shared__ Search search;
  __shared__ u64 top[MOST];
  __shared__ u32 top_len;

  const u32 thread = threadIdx.x;
  if ((p.params[blockIdx.x].flags & LOGPROBS) == 0) return;
  RowLogprobs& report = p.out[blockIdx.x];
  const Entries row = {nullptr, p.logits + u64(blockIdx.x) * p.vocab, p.vocab};
  const u64 mine = greatest_of_thread(row);
  const u64 best = block_greatest(mine, search.warps);
  const float greatest = best == 0 ? -infinity() : row.logits[id_at(best)];

  const u64 floor = floor_of(search, mine, row.logits, MOST);
  if (thread == 0) search.list_len = top_len = 0;
  __syncthreads();
  float sum = 0.0f;
  visit_all(row, [&](u32 id, float logit) {
    u64 place = place_of(id, logit);
    if (place == 0) return;
    sum += expf(logit - greatest);
    if (place >= floor) list(search, id, logit);
  });
  sum = block_sum<SELECT_THREADS>(sum);
  __syncthreads();
  Entries entries = row;
  if (search.list_len <= LIST_LEN) entries = {search.ids, search.logits, search.list_len};
  const u64 cut = place_reaching(search, entries, MOST, count_from(floor));
  visit_all(entries, [&](u32 id, float logit) {
    u64 place = place_of(id, logit);
    if (place != 0 && place >= cut) top[atomicAdd(&top_len, 1u)] = place;
  });
  __syncthreads();

  if (thread == 0) {
    report.log_total = greatest + logf(sum);
    report.count = top_len;
  }
  if (thread >= MOST) return;
  // A thread an entry, whose rank is how many places are greater.
  if (thread >= top_len) {
    report.tokens[thread] = 0;
    report.logits[thread] = 0.0f;
    return;
  }
  u32 rank = 0, id = id_at(top[thread]);
  for (u32 i = 0; i < top_len; i++) rank += top[i] > top[thread];
  report.tokens[rank] = id;
  report.logits[rank] = row.logits[id];
}

// Where the bit of a token is.
struct Bits {
  u32* words;

  // Sets it; whether it was not set before.
  DEVICE bool claim(u32 token) const {
    u32 bit = 1u << token % 32;
    return (atomicOr(&words[token / 32], bit) & bit) == 0;
  }

  // Of all threads' calls, with a barrier before and behind.
  DEVICE void clear(u32 count) const {
    __syncthreads();
    for (u32 i = threadIdx.x; i < count; i += SELECT_THREADS) words[i] = 0;
    __syncthreads();
  }
};

KERNEL(penalize, Penalize, SELECT_THREADS) {
  constexpr u32 COUNTERS = 8192;
  __shared__ u32 counters[COUNTERS];
  __shared__ u64 warps[SELECT_THREADS / 32];
  __shared__ u32 num_tokens;

  const u32 thread = threadIdx.x;
  const RowSampling params = p.params[blockIdx.x];
  if ((params.flags & CHANGED) == 0) return;
  float* logits = p.logits + u64(blockIdx.x) * p.vocab;
  const u32 words = (p.vocab + 31) / 32;
  u32* ranks = p.seen + u64(blockIdx.x) * 2 * words;
  const Bits seen = {ranks + words};

  if (params.bias_len > 0) {
    const Bias* biases = p.biases + params.bias_start;
    seen.clear(words);
    for (u32 i = thread; i < params.bias_len; i += SELECT_THREADS) {
      u32 token = biases[i].token;
      if (token >= p.vocab || !seen.claim(token)) continue;
      float logit = logits[token];
      for (u32 j = 0; j < params.bias_len; j++) {
        if (biases[j].token == token) logit += biases[j].bias;
      }
      logits[token] = logit;
    }
  }

  // Calls `each` for the tokens from place `from` of the history on, and for the newest one if it
  // is among them, but for ids that the vocabulary does not have.
  const u32* history = p.history + params.history_start;
  auto for_tokens = [&](u32 from, bool with_newest, auto each) {
    for (u32 i = from + thread; i < params.history_len; i += SELECT_THREADS) {
      if (history[i] < p.vocab) each(history[i]);
    }
    if (thread != 0 || !with_newest) return;
    i32 source = p.sources[params.newest];
    u32 token = source >= 0 ? p.sampled[source] : p.tokens[params.newest];
    if (token < p.vocab) each(token);
  };
  if (params.repetition_penalty != 1.0f) {
    seen.clear(words);
    for_tokens(0, true, [&](u32 token) {
      if (!seen.claim(token)) return;
      float logit = logits[token];
      logits[token] = logit > 0.0f ? logit / params.repetition_penalty
                                   : logit * params.repetition_penalty;
    });
  }

  if (params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f) {
    const bool with_newest = params.newest_is_generated != 0;
    seen.clear(words);
    for_tokens(params.history_prompt, with_newest, [&](u32 token) { seen.claim(token); });
    for (u32 i = thread; i < COUNTERS; i += SELECT_THREADS) counters[i] = 0;
    __syncthreads();
    // Of each word: the bits before it.
    const u32 words_of_thread = (words + SELECT_THREADS - 1) / SELECT_THREADS;
    const u32 first_word = min(thread * words_of_thread, words);
    const u32 last_word = min(first_word + words_of_thread, words);
    u32 bits = 0;
    for (u32 i = first_word; i < last_word; i++) bits += __popc(seen.words[i]);
    u32 rank = u32(block_scan(bits, warps)) - bits;
    for (u32 i = first_word; i < last_word; i++) {
      ranks[i] = rank;
      rank += __popc(seen.words[i]);
    }
    // All tokens at once unless there are very many.
    if (thread == SELECT_THREADS - 1) num_tokens = rank;
    __syncthreads();
    for (u32 first = 0; first < num_tokens; first += COUNTERS) {
      auto counter_of = [&](u32 token) {
        u32 before = seen.words[token / 32] & ((1u << token % 32) - 1);
        return ranks[token / 32] + __popc(before) - first;
      };
      for_tokens(params.history_prompt, with_newest, [&](u32 token) {
        u32 counter = counter_of(token);
        if (counter < COUNTERS) atomicAdd(&counters[counter], 1u);
      });
      __syncthreads();
      for_tokens(params.history_prompt, with_newest, [&](u32 token) {
        u32 counter = counter_of(token);
        // The first to come takes the count and leaves 0.
        u32 count = counter < COUNTERS ? atomicExch(&counters[counter], 0u) : 0;
        if (count == 0) return;
        // Rounded after each step, as the reference is: never fused.
        float by_count = __fmul_rn(float(count), params.frequency_penalty);
        logits[token] -= __fadd_rn(params.presence_penalty, by_count);
      });
      __syncthreads();
    }
  }

  if ((params.flags & MASKED) == 0) return;
  __syncthreads();
  const u32* mask = p.masks + u64(params.mask) * words;
  for (u32 token = thread; token < p.vocab; token += SELECT_THREADS) {
    if ((mask[token / 32] >> token % 32 & 1u) == 0) logits[token] = -infinity();
  }
}

// What top-k and top-p keep: all entries from this place on.
DEVICE u64 cut_of(Search& search, const Entries& row, const RowSampling& params, u64 mine,
                  const Weigher& weigher) {
  const bool has_top_k = params.top_k > 0 && params.top_k < row.count;
  const bool has_top_p = params.top_p < 1.0f;
  if (!has_top_k && !has_top_p) return 0;

  const u32 wanted = has_top_k ? params.top_k : NUCLEUS_LEN;
  const u64 floor =
      wanted <= SELECT_THREADS ? floor_of(search, mine, row.logits, wanted) : 0;
  if (threadIdx.x == 0) search.list_len = 0;
  __syncthreads();
  visit_all(row, [&](u32 id, float logit) {
    u64 place = place_of(id, logit);
    if (place != 0 && place >= floor) list(search, id, logit);
  });
  __syncthreads();
  const bool is_listed = search.list_len <= LIST_LEN;
  const Entries listed = {search.ids, search.logits, is_listed ? search.list_len : 0};
  Entries entries = is_listed ? listed : row;

  u64 cut = 0;
  if (has_top_k) cut = place_reaching(search, entries, params.top_k, count_from(floor));
  if (!has_top_p) return cut;

  Measure measure = {true, weigher, cut, 0};
  // Without top-k the mass is the whole row's.
  const u64 total = total_of(search, has_top_k ? entries : row, measure);
  const u64 mass = max(u64(double(params.top_p) * double(total)), u64(1));
  if (!has_top_k && is_listed && total_of(search, listed, measure) < mass) entries = row;
  // Entries lighter than this weigh, all together, less than the nucleus leaves out.
  if (entries.ids == nullptr) measure.least = (total - mass) / row.count;
  return max(cut, place_reaching(search, entries, mass, measure));
}

KERNEL(sample, Sample, SELECT_THREADS) {
  __shared__ Search search;

  const u32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  constexpr u32 WARPS = SELECT_THREADS / 32;
  const RowSampling params = p.params[blockIdx.x];
  if ((params.flags & DRAW) == 0) return;
  const Entries row = {nullptr, p.logits + u64(blockIdx.x) * p.vocab, p.vocab};
  const u64 mine = greatest_of_thread(row);
  const u64 best = block_greatest(mine, search.warps);
  u32 chosen = best == 0 ? 0xffffffffu : id_at(best);

  if (best != 0 && params.temperature > 0.0f) {
    const Weigher weigher = {row.logits[chosen], params.temperature};
    const Measure kept = {true, weigher, cut_of(search, row, params, mine, weigher), 0};
    // The part of the row in which the sum exceeds the target, cut in 32 until it is one entry.
    u32 from = 0, to = row.count;
    u64 target = 0;
    bool is_whole = true;
    do {
      u32 part = (to - from + WARPS - 1) / WARPS;
      u32 part_from = min(from + warp * part, to), part_to = min(part_from + part, to);
      u64 sum = 0;
      visit(row, part_from + lane, part_to, 32, [&](u32 id, float logit) {
        u64 mass = kept.of(place_of(id, logit), logit);
        // Few entries have any: the weight is computed anew rather than kept.
        if (mass > 0 && weigher.weight(logit) >= params.min_p) sum += mass;
      });
      sum = warp_sum(sum);
      __syncthreads();  // The sums before may still be read.
      if (lane == 0) search.warps[warp] = sum;
      __syncthreads();
      u64 own = search.warps[lane], reached = own;
#pragma unroll
      for (u32 step = 1; step < 32; step *= 2) {
        u64 below = __shfl_up_sync(ALL_LANES, reached, step);
        if (lane >= step) reached += below;
      }
      if (is_whole) {
        u64 total = __shfl_sync(ALL_LANES, reached, 31);
        if (total == 0) break;
        target = __umul64hi(params.random, total);
        is_whole = false;
      }
      u32 at = __ffs(__ballot_sync(ALL_LANES, reached > target)) - 1;
      target -= __shfl_sync(ALL_LANES, reached - own, at);
      from = min(from + at * part, to);
      to = min(from + part, to);
      chosen = from;
    } while (to - from > 1);
  }
  if (thread == 0) {
    p.sampled[blockIdx.x] = chosen;
    p.sampled_logits[blockIdx.x] =
        best == 0 ? __uint_as_float(0x7fc00000u) : row.logits[chosen];
  }
}
