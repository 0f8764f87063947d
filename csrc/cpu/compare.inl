// Inner products of task vectors, and how their signs compare. Once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/reduce.h"
#include "cpu/kernels.h"
#include "cpu/load.inl"
#include "cpu/products.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

constexpr uint8_t kPositive = 1, kNegative = 2;  // zero and NaN have no sign

inline void signs_of(const float* d, int n, uint8_t* signs) {
  for (int j = 0; j < n; ++j)
    signs[j] = static_cast<uint8_t>((d[j] > 0.0f ? kPositive : 0) | (d[j] < 0.0f ? kNegative : 0));
}

// counts[0] += elements in which both have a sign, counts[1] += those with opposite signs.
inline void count_signs(const uint8_t* a, const uint8_t* b, int n, int64_t* counts) {
  constexpr int kRun = 128;  // short enough for sums of bytes
  for (int begin = 0; begin < n; begin += kRun) {
    const int end = begin + kRun < n ? begin + kRun : n;
    uint8_t both = 0, opposite = 0;
    for (int j = begin; j < end; ++j) {
      const uint8_t signed_ = static_cast<uint8_t>((a[j] != 0) & (b[j] != 0));
      both = static_cast<uint8_t>(both + signed_);
      opposite = static_cast<uint8_t>(opposite + (signed_ & (a[j] != b[j])));
    }
    counts[0] += both;
    counts[1] += opposite;
  }
}

// Task vectors of N experts, kChunk apart, of bfloat16 where it lies.
template <int N>
void delta_rows(const BF16* base, const BF16* const* experts, int n, float* __restrict__ out) {
  const BF16* x[N];
  for (int i = 0; i < N; ++i) x[i] = experts[i];
  for (int j = 0; j < n; ++j) {
    const float b = to_float(base[j]);
    for (int i = 0; i < N; ++i) out[i * kChunk + j] = to_float(x[i][j]) - b;
  }
}

template <int N>
Flags direct_deltas(const DeltaJob& job, int64_t pos, int n, float* out) {
  const BF16* all[N + 1] = {bf16_at(job.base, pos)};
  for (int i = 0; i < N; ++i) all[i + 1] = bf16_at(job.experts[i], pos);
  delta_rows<N>(all[0], all + 1, n, out);
  Flags flags = 0;
  if (any_nonfinite<N + 1>(all, n))
    for (int i = 0; i <= N; ++i) flags |= flag(i, any_nonfinite(all[i], n));
  return flags;
}

// The base and the task vectors of a chunk as rows.
inline Flags load_deltas(const DeltaJob& job, int64_t pos, int n, float* base, float* deltas) {
  Flags flags = flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
  for (int i = 0; i < job.count; ++i) {
    float* d = deltas + i * kChunk;
    flags |= flag(i + 1, load(job.experts[i], pos, n, job.zero_nonfinite, d));
    for (int j = 0; j < n; ++j) d[j] = d[j] - base[j];
  }
  return flags;
}

// The number of experts where all is bfloat16, else 0.
inline int directly(const DeltaJob& job) {
  bool all = is_bf16(job.base) && !job.zero_nonfinite;
  for (int i = 0; i < job.count; ++i) all = all && is_bf16(job.experts[i]);
  return all ? job.count : 0;
}

// The task vectors of a chunk as rows; `direct` as directly() says. `base` is scratch.
inline Flags take_deltas(const DeltaJob& job, int direct, int64_t pos, int n, float* base,
                         float* deltas) {
  switch (direct) {
    case 1: return direct_deltas<1>(job, pos, n, deltas);
    case 2: return direct_deltas<2>(job, pos, n, deltas);
    case 3: return direct_deltas<3>(job, pos, n, deltas);
    case 4: return direct_deltas<4>(job, pos, n, deltas);
    default: return load_deltas(job, pos, n, base, deltas);
  }
}

Flags delta_gram(const DeltaJob& job, int64_t begin, int64_t end, double* sums) {
  const PairScratch scratch(job.count, job.count + int64_t{1});
  float *base = scratch.rows, *deltas = base + kChunk;
  const int direct = directly(job);
  Flags flags = 0;
  over_blocks(job.count, begin, end, scratch.lanes, sums, [&](int64_t pos, int n) {
    flags |= take_deltas(job, direct, pos, n, base, deltas);
    add_all_pairs(deltas, job.count, n, scratch.lanes);
  });
  return flags;
}

Flags compare(const DeltaJob& job, bool with_base, int64_t begin, int64_t end, double* sums,
              int64_t* counts) {
  const int count = job.count, width = count + with_base;
  // A byte of sign an element.
  const PairScratch scratch(width, count + 1 + (count + 3) / 4);
  float *base = scratch.rows, *deltas = base + kChunk;
  uint8_t* signs = reinterpret_cast<uint8_t*>(deltas + static_cast<int64_t>(count) * kChunk);
  Flags flags = 0;
  over_blocks(width, begin, end, scratch.lanes, sums, [&](int64_t pos, int n) {
    flags |= load_deltas(job, pos, n, base, deltas);
    for (int i = 0; i < count; ++i) signs_of(deltas + i * kChunk, n, signs + i * kChunk);
    add_all_pairs(with_base ? base : deltas, width, n, scratch.lanes);
    for (int i = 0; i < count; ++i)
      for (int k = i + 1; k < count; ++k)
        count_signs(signs + i * kChunk, signs + k * kChunk, n, counts + 2 * (i * count + k));
  });
  return flags;
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
