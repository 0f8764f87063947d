// weighted_sum and merge_task_vectors. Once per instruction set.
//
// Every loop over elements exists twice: over rows that load() converted to float32, and over pairs
// of bfloat16 where they lie. What is computed is written in core/element.h and core/chain.h; this
// file only chooses a loop. Of a merge, from the outside in:
//
//   merge_task_vectors   for every chunk: pairs, if all is bfloat16 and experts are few, else rows
//   merge_direct         makes random masks for pairs; looks at the values afterwards, for flags
//   merge_loaded         loads rows, makes masks, looks at the values; stores the result
//   merge_dispatch       the number of experts becomes a template argument (1 to kFixed),
//   merge_fixed            then whether masks are random and whether anything is divided,
//   merge_elect            then the election
//   merge_either         pairs or rows:
//   merge_pairs            a loop over pairs of bfloat16
//   merge_chunk            a loop over rows, which asks for the next chunk meanwhile
//   merge_any            more than kFixed experts (or none): the chain step by step through rows
#pragma once

#include <cstdint>

#include "core/chain.h"
#include "core/element.h"
#include "cpu/kernels.h"
#include "cpu/load.inl"
#include "cpu/masks.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

constexpr int kFixed = 4;  // up to this many inputs or experts, loops are unrolled over them

// kSame: where all inputs are the same number, that number; the weights add up to 1.
template <int N, bool kSame>
MS_FN float sum_one(const float (&x)[N], const float (&weight)[N]) {
  float total = x[0] * weight[0];
  bool same = kSame;
  for (int i = 1; i < N; ++i) {
    total = total + x[i] * weight[i];
    same = same & same_bits(x[i], x[0]);
  }
  return same ? x[0] : total;
}

template <int N, bool kSame>
void sum_chunk(const float* x, const float* weights, int n, float* __restrict__ out) {
  float weight[N];
  for (int i = 0; i < N; ++i) weight[i] = weights[i];
  for (int j = 0; j < n; ++j) {
    float each[N];
    for (int i = 0; i < N; ++i) each[i] = x[i * kChunk + j];
    out[j] = sum_one<N, kSame>(each, weight);
  }
}

template <int N, bool kSame>
void sum_pairs(const BF16* const* rows, const float* weights, int n, BF16* to) {
  const Pair* x[N];
  float weight[N], low[N], high[N];
  for (int i = 0; i < N; ++i) {
    x[i] = reinterpret_cast<const Pair*>(rows[i]);
    weight[i] = weights[i];
  }
  Pair* __restrict__ out = reinterpret_cast<Pair*>(to);
  for (int j = 0; j < n / 2; ++j) {
    for (int i = 0; i < N; ++i) {
      low[i] = even(x[i][j]);
      high[i] = odd(x[i][j]);
    }
    out[j] = make_pair(sum_one<N, kSame>(low, weight), sum_one<N, kSame>(high, weight));
  }
  if (n % 2 == 0) return;
  for (int i = 0; i < N; ++i) low[i] = to_float(rows[i][n - 1]);
  to[n - 1].bits = static_cast<uint16_t>(to_bits<BF16>(sum_one<N, kSame>(low, weight)));
}

// Continues sums in `out` by N inputs, and by where they differ from the first.
template <int N, bool kSame>
void sum_more(const float* first, const float* x, const float* weights, int n,
              float* __restrict__ out, uint32_t* __restrict__ differ) {
  float weight[N];
  for (int i = 0; i < N; ++i) weight[i] = weights[i];
  for (int j = 0; j < n; ++j) {
    float total = out[j];
    uint32_t different = kSame ? differ[j] : 0;
    for (int i = 0; i < N; ++i) {
      total = total + x[i * kChunk + j] * weight[i];
      different = different | (bits_of(x[i * kChunk + j]) ^ bits_of(first[j]));
    }
    out[j] = total;
    if (kSame) differ[j] = different;
  }
}

template <bool kSame>
void sum_any(const float* x, const float* weights, int count, int n, float* __restrict__ out) {
  uint32_t differ[kChunk];
  for (int j = 0; j < n; ++j) out[j] = x[j] * weights[0];
  for (int j = 0; j < n; ++j) differ[j] = 0;  // scalar loop: memset
  int i = 1;
  for (; i + 4 <= count; i += 4) sum_more<4, kSame>(x, x + i * kChunk, weights + i, n, out, differ);
  for (; i < count; ++i) sum_more<1, kSame>(x, x + i * kChunk, weights + i, n, out, differ);
  if (!kSame) return;
  for (int j = 0; j < n; ++j) out[j] = differ[j] == 0 ? x[j] : out[j];
}

template <bool kSame>
void sum_rows(const SumJob& job, const float* x, int n, float* out) {
  switch (job.count) {
    case 1: return sum_chunk<1, false>(x, job.weights, n, out);
    case 2: return sum_chunk<2, kSame>(x, job.weights, n, out);
    case 3: return sum_chunk<3, kSame>(x, job.weights, n, out);
    case 4: return sum_chunk<4, kSame>(x, job.weights, n, out);
    default: return sum_any<kSame>(x, job.weights, job.count, n, out);
  }
}

// One chunk of bfloat16 rows. Its values are looked at last, from the cache, and most often all
// rows at once; looking first would wait for memory without computing.
template <int N, bool kSame>
Flags sum_direct(const SumJob& job, int64_t pos, int n) {
  const BF16* rows[N + 1];
  for (int i = 0; i < N; ++i) rows[i] = bf16_at(job.inputs[i], pos);
  BF16* out = static_cast<BF16*>(job.out.data) + pos;
  rows[N] = out;
  sum_pairs<N, kSame>(rows, job.weights, n, out);
  if (!any_nonfinite<N + 1>(rows, n)) return 0;
  Flags flags = any_nonfinite(out, n) ? kOutputFlag : 0;
  for (int i = 0; i < N; ++i) flags |= flag(i, any_nonfinite(rows[i], n));
  return flags;
}

template <bool kSame>
Flags sum_direct_any(const SumJob& job, int64_t pos, int n) {
  switch (job.count) {
    case 1: return sum_direct<1, false>(job, pos, n);
    case 2: return sum_direct<2, kSame>(job, pos, n);
    case 3: return sum_direct<3, kSame>(job, pos, n);
    default: return sum_direct<4, kSame>(job, pos, n);
  }
}

Flags weighted_sum(const SumJob& job, int64_t begin, int64_t end) {
  float* x = thread_scratch(static_cast<int64_t>(job.count + 1) * kChunk);
  float* out = x + static_cast<int64_t>(job.count) * kChunk;
  const bool same = sums_to_one(job.weights, job.count);
  bool direct = job.count <= kFixed && job.out.dtype == DType::kBF16 && !job.zero_nonfinite;
  for (int i = 0; i < job.count; ++i) direct = direct && is_bf16(job.inputs[i]);
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    if (direct) {
      flags |= same ? sum_direct_any<true>(job, pos, n) : sum_direct_any<false>(job, pos, n);
      continue;
    }
    for (int i = 0; i < job.count; ++i)
      flags |= flag(i, load(job.inputs[i], pos, n, job.zero_nonfinite, x + i * kChunk));
    same ? sum_rows<true>(job, x, n, out) : sum_rows<false>(job, x, n, out);
    if (store(out, n, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}

template <int N, Elect kElect, bool kRandom, bool kDivide>
Chain<N, kElect, kRandom, kDivide> chain_of(const MergeJob& job) {
  Chain<N, kElect, kRandom, kDivide> chain;
  chain.rule = {job.scale, job.divisor};
  for (int i = 0; i < N; ++i) {
    chain.rescale[i] = job.vectors[i].rescale;
    chain.weights[i] = job.vectors[i].weight;
    chain.kept[i] = window(job.vectors[i].lo, job.vectors[i].hi);
  }
  return chain;
}

template <int N, class Chain>
MS_FN void merge_some(const Chain& chain, const float* base, const float* x, const uint32_t* masks,
                      int n, float* __restrict__ out) {
  for (int j = 0; j < n; ++j) {
    float row[N];
    uint32_t keep[N];
    for (int i = 0; i < N; ++i) {
      row[i] = x[i * kChunk + j];
      keep[i] = masks[i * kChunk + j];
    }
    out[j] = chain(base[j], row, keep);
  }
}

// `next`: of the base and of N experts.
template <int N, class Chain>
void merge_chunk(const Chain& given, const float* base, const float* x, const uint32_t* masks,
                 int n, const NextChunk* next, float* __restrict__ out) {
  constexpr int kStep = 64;
  const Chain chain = given;
  int j = 0;
  for (; j + kStep <= n; j += kStep) {
    for (int i = 0; i <= N; ++i) next[i].fetch(j, kStep);
    merge_some<N>(chain, base + j, x + j, masks + j, kStep, out + j);
  }
  merge_some<N>(chain, base + j, x + j, masks + j, n - j, out + j);
}

template <int N, class Chain>
void merge_pairs(const Chain& given, const BF16* base, const BF16* const* rows,
                 const uint32_t* masks, int n, BF16* to) {
  const Chain chain = given;
  const Pair* b = reinterpret_cast<const Pair*>(base);
  const Pair* x[N];
  for (int i = 0; i < N; ++i) x[i] = reinterpret_cast<const Pair*>(rows[i]);
  Pair* __restrict__ out = reinterpret_cast<Pair*>(to);
  float low[N], high[N];
  uint32_t keep_low[N], keep_high[N];
  for (int j = 0; j < n / 2; ++j) {
    for (int i = 0; i < N; ++i) {
      low[i] = even(x[i][j]);
      high[i] = odd(x[i][j]);
      keep_low[i] = masks[i * kChunk + j];
      keep_high[i] = masks[i * kChunk + kChunk / 2 + j];
    }
    out[j] = make_pair(chain(even(b[j]), low, keep_low), chain(odd(b[j]), high, keep_high));
  }
  if (n % 2 == 0) return;
  for (int i = 0; i < N; ++i) {
    low[i] = to_float(rows[i][n - 1]);
    keep_low[i] = masks[i * kChunk + n / 2];
  }
  const float last = chain(to_float(base[n - 1]), low, keep_low);
  to[n - 1].bits = static_cast<uint16_t>(to_bits<BF16>(last));
}

// The same chain for any number of experts, step by step through rows; x and masks are overwritten.
template <Elect kElect, bool kDivide>
void merge_any(const MergeJob& job, const float* __restrict__ base, float* __restrict__ x,
               uint32_t* __restrict__ masks, int n, float* __restrict__ out) {
  const FixedRule<kElect, kDivide> rule{job.scale, job.divisor};
  float divisor[kChunk];
  for (int j = 0; j < n; ++j) out[j] = 0.0f;  // scalar loop: memset
  for (int i = 0; i < job.count; ++i) {
    const TaskVector& v = job.vectors[i];
    float* d = x + i * kChunk;
    const uint32_t* keep = masks + i * kChunk;
    const float rescale = v.rescale, weight = v.weight;
    for (int j = 0; j < n; ++j) {
      d[j] = weighted(keep[j] != 0, d[j] - base[j], rescale, weight);
      out[j] = vote(rule, out[j], d[j]);
    }
  }
  if (kElect == Elect::kNone) {
    for (int j = 0; j < n; ++j) out[j] = merged(rule, base[j], out[j], rule.divisor);
    return;
  }
  uint32_t* flip = masks;  // the keep masks have been used
  for (int j = 0; j < n; ++j) {
    flip[j] = elected_flip(out[j]);
    out[j] = 0.0f;
    divisor[j] = 0.0f;
  }
  for (int i = 0; i < job.count; ++i) {
    const float* d = x + i * kChunk;
    const float weight = job.vectors[i].weight;
    for (int j = 0; j < n; ++j) agree(d[j], weight, flip[j], out[j], divisor[j]);
  }
  for (int j = 0; j < n; ++j) out[j] = merged(rule, base[j], out[j], divisor[j]);
}

// What the loops over one chunk work on: x and out, or rows and to.
struct Chunk {
  const float *base, *x;
  float* out;
  NextChunk next[kFixed + 1];
  const BF16 *from, *rows[kFixed];
  BF16* to;
  uint32_t* masks;
  uint16_t* left;  // rows of bfloat16 without what is dropped
  int n;
  bool paired;
  bool clean;  // of pairs: all inputs and outputs are finite
};

template <int N, Elect kElect, bool kRandom, bool kDivide>
void merge_either(const MergeJob& job, Chunk& c) {
  const auto chain = chain_of<N, kElect, kRandom, kDivide>(job);
  if (!c.paired) return merge_chunk<N>(chain, c.base, c.x, c.masks, c.n, c.next, c.out);
  merge_pairs<N>(chain, c.from, c.rows, c.masks, c.n, c.to);
  const BF16* all[N + 2] = {c.from, c.to};
  for (int i = 0; i < N; ++i) all[i + 2] = c.rows[i];
  c.clean = !any_nonfinite<N + 2>(all, c.n);
}

template <int N, bool kRandom, bool kDivide>
void merge_elect(const MergeJob& job, Chunk& c) {
  switch (job.elect) {
    case Elect::kNone: return merge_either<N, Elect::kNone, kRandom, kDivide>(job, c);
    case Elect::kSum: return merge_either<N, Elect::kSum, kRandom, kDivide>(job, c);
    case Elect::kCount: return merge_either<N, Elect::kCount, kRandom, kDivide>(job, c);
  }
}

template <int N>
void merge_fixed(const MergeJob& job, bool random, Chunk& c) {
  const bool divide = job.elect == Elect::kNone ? job.divisor != 1.0f : job.normalize;
  if (random)
    return divide ? merge_elect<N, true, true>(job, c) : merge_elect<N, true, false>(job, c);
  return divide ? merge_elect<N, false, true>(job, c) : merge_elect<N, false, false>(job, c);
}

void merge_dispatch(const MergeJob& job, bool random, Chunk& c) {
  switch (job.count) {
    case 1: return merge_fixed<1>(job, random, c);
    case 2: return merge_fixed<2>(job, random, c);
    case 3: return merge_fixed<3>(job, random, c);
    case 4: return merge_fixed<4>(job, random, c);
  }
}

Flags merge_direct(const MergeJob& job, bool random, int64_t pos, Chunk& c) {
  c.paired = true;
  c.from = bf16_at(job.base, pos);
  c.to = static_cast<BF16*>(job.out.data) + pos;
  for (int i = 0; i < job.count; ++i) {
    const TaskVector& v = job.vectors[i];
    c.rows[i] = bf16_at(v.input, pos);
    if (v.keep != nullptr) {
      uint16_t* left = c.left + i * kChunk;
      kept_or_base(v.keep + pos, &c.from->bits, &c.rows[i]->bits, c.n, left);
      c.rows[i] = reinterpret_cast<const BF16*>(left);
    }
    if (random) keep_pairs(v, c.from, c.rows[i], job.offset + pos, c.n, c.masks + i * kChunk);
  }
  merge_dispatch(job, random, c);
  if (c.clean) return 0;
  Flags flags = flag(0, any_nonfinite(c.from, c.n));
  for (int i = 0; i < job.count; ++i) flags |= flag(i + 1, any_nonfinite(c.rows[i], c.n));
  return any_nonfinite(c.to, c.n) ? flags | kOutputFlag : flags;
}

Flags merge_loaded(const MergeJob& job, bool random, int64_t pos, float* base, float* x, Chunk& c) {
  const bool fixed = job.count > 0 && job.count <= kFixed;
  c.paired = false;
  Flags flags = flag(0, load(job.base, pos, c.n, job.zero_nonfinite, base));
  c.next[0] = NextChunk(job.base, pos);
  for (int i = 0; i < job.count; ++i) {
    const TaskVector& v = job.vectors[i];
    float* row = x + i * kChunk;
    if (fixed) c.next[i + 1] = NextChunk(v.input, pos);
    flags |= flag(i + 1, load(v.input, pos, c.n, job.zero_nonfinite, row));
    if (v.keep != nullptr) drop_in_place(v.keep + pos, base, c.n, row);
    if (random || !fixed) keep_masks(v, base, row, job.offset + pos, c.n, c.masks + i * kChunk);
  }
  if (fixed)
    merge_dispatch(job, random, c);
  else if (job.elect == Elect::kNone)
    merge_any<Elect::kNone, true>(job, base, x, c.masks, c.n, c.out);
  else if (job.elect == Elect::kSum)
    job.normalize ? merge_any<Elect::kSum, true>(job, base, x, c.masks, c.n, c.out)
                  : merge_any<Elect::kSum, false>(job, base, x, c.masks, c.n, c.out);
  else
    job.normalize ? merge_any<Elect::kCount, true>(job, base, x, c.masks, c.n, c.out)
                  : merge_any<Elect::kCount, false>(job, base, x, c.masks, c.n, c.out);
  return store(c.out, c.n, job.out, pos) ? flags | kOutputFlag : flags;
}

Flags merge_task_vectors(const MergeJob& job, int64_t begin, int64_t end) {
  const int64_t count = job.count, row = kChunk;
  float* base = thread_scratch((2 + 3 * count) * row);
  float* x = base + 2 * row;
  Chunk c{};
  c.base = base;
  c.x = x;
  c.out = base + row;
  c.masks = reinterpret_cast<uint32_t*>(x + count * row);
  c.left = reinterpret_cast<uint16_t*>(c.masks + count * row);
  bool random = false;
  bool direct = count > 0 && count <= kFixed && job.out.dtype == DType::kBF16 &&
                is_bf16(job.base) && !job.zero_nonfinite;
  for (int i = 0; i < job.count; ++i) {
    random |= job.vectors[i].random;
    direct = direct && is_bf16(job.vectors[i].input);
  }
  direct = direct && (!random || (job.offset + begin) % kPhiloxGroup == 0);
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    c.n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    flags |=
        direct ? merge_direct(job, random, pos, c) : merge_loaded(job, random, pos, base, x, c);
  }
  return flags;
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
