// Scores of elements by the variance of the task vectors, and what is made of the selected ones:
// see core/score.h. Once per instruction set.
#pragma once

#include <cstdint>

#include "core/reduce.h"
#include "core/score.h"
#include "core/select.h"
#include "cpu/kernels.h"
#include "cpu/lanes.inl"
#include "cpu/load.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

// Task vectors lie kReduceBlock apart.
template <int N>
void score_rows(const float* deltas, int count, int n, float* __restrict__ out) {
  for (int j = 0; j < n; ++j)
    out[j] = score_of(N > 0 ? N : count, [&](int i) { return deltas[i * kReduceBlock + j]; });
}

inline void scores(const float* deltas, int count, int n, float* out) {
  switch (count) {
    case 1: return score_rows<1>(deltas, count, n, out);
    case 2: return score_rows<2>(deltas, count, n, out);
    case 3: return score_rows<3>(deltas, count, n, out);
    case 4: return score_rows<4>(deltas, count, n, out);
    default: return score_rows<0>(deltas, count, n, out);
  }
}

// Loads the task vectors of n elements, then their scores.
inline Flags load_scored(const ScoreJob& job, int64_t pos, int n, float* base, float* deltas,
                         float* score) {
  Flags flags = flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
  for (int i = 0; i < job.count; ++i) {
    float* d = deltas + i * kReduceBlock;
    flags |= flag(i + 1, load(job.experts[i], pos, n, job.zero_nonfinite, d));
    for (int j = 0; j < n; ++j) d[j] = d[j] - base[j];
  }
  scores(deltas, job.count, n, score);
  return flags;
}

Flags score_histogram(const ScoreJob& job, int64_t prefix, int64_t begin, int64_t end,
                      int64_t* counts, int64_t* nonzero) {
  float* base = thread_scratch((job.count + int64_t{2}) * kReduceBlock);
  float* score = base + kReduceBlock;
  float* deltas = score + kReduceBlock;
  Flags flags = 0;
  int64_t zeros = 0;
  for (int64_t pos = begin; pos < end; pos += kReduceBlock) {
    const int n = static_cast<int>(end - pos < kReduceBlock ? end - pos : kReduceBlock);
    flags |= load_scored(job, pos, n, base, deltas, score);
    for (int j = 0; j < n; ++j) {  // scalar loop: scatter
      const uint32_t bits = magnitude_bits(score[j]);
      zeros += bits == 0;
      if (prefix < 0)
        ++counts[bits >> kLowBits];
      else if (bits >> kLowBits == static_cast<uint64_t>(prefix))
        ++counts[bits & ((1u << kLowBits) - 1)];
    }
  }
  *nonzero += end - begin - zeros;
  return flags;
}

Flags score_norms(const ScoreJob& job, int64_t begin, int64_t end, double* sums) {
  float* base = thread_scratch((job.count + int64_t{2}) * kReduceBlock);
  float* score = base + kReduceBlock;
  float* deltas = score + kReduceBlock;
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kReduceBlock) {
    const int n = static_cast<int>(end - pos < kReduceBlock ? end - pos : kReduceBlock);
    flags |= load_scored(job, pos, n, base, deltas, score);
    double* block = sums + (pos - begin) / kReduceBlock * job.count;
    for (int i = 0; i < job.count; ++i) {
      float* d = deltas + i * kReduceBlock;
      for (int j = 0; j < n; ++j) d[j] = pick(selected(score[j], job.lo), d[j]);
      double lanes[kReduceLanes] = {};
      add_products(d, d, n, lanes);
      block[i] = add_lanes(lanes);
    }
  }
  return flags;
}

template <int N>
void merge_rows(const ScoreJob& job, const float* base, const float* score, const float* deltas,
                int n, float* __restrict__ out) {
  float weights[N > 0 ? N : 1];
  for (int i = 0; i < N; ++i) weights[i] = job.weights[i];
  for (int j = 0; j < n; ++j)
    out[j] = merge_selected(base[j], selected(score[j], job.lo), N > 0 ? N : job.count,
                            N > 0 ? weights : job.weights,
                            [&](int i) { return deltas[i * kReduceBlock + j]; });
}

Flags merge_scored(const ScoreJob& job, int64_t begin, int64_t end) {
  float* base = thread_scratch((job.count + int64_t{3}) * kReduceBlock);
  float* score = base + kReduceBlock;
  float* out = score + kReduceBlock;
  float* deltas = out + kReduceBlock;
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kReduceBlock) {
    const int n = static_cast<int>(end - pos < kReduceBlock ? end - pos : kReduceBlock);
    flags |= load_scored(job, pos, n, base, deltas, score);
    switch (job.count) {
      case 1: merge_rows<1>(job, base, score, deltas, n, out); break;
      case 2: merge_rows<2>(job, base, score, deltas, n, out); break;
      case 3: merge_rows<3>(job, base, score, deltas, n, out); break;
      case 4: merge_rows<4>(job, base, score, deltas, n, out); break;
      default: merge_rows<0>(job, base, score, deltas, n, out);
    }
    if (store(out, n, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
