// Float64 reductions per block: norms. Once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/reduce.h"
#include "cpu/kernels.h"
#include "cpu/lanes.inl"
#include "cpu/load.inl"
#include "cpu/masks.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

inline void abs_sum_chunk(const float* d, int n, double* lanes) {
  int j = 0;
  for (; j + kReduceLanes <= n; j += kReduceLanes)
    for (int lane = 0; lane < kReduceLanes; ++lane)
      lanes[lane] = lanes[lane] + static_cast<double>(float_of(bits_of(d[j + lane]) & kAbsMask));
  for (int lane = 0; j < n; ++j, ++lane)
    lanes[lane] = lanes[lane] + static_cast<double>(float_of(bits_of(d[j]) & kAbsMask));
}

inline uint32_t max_magnitude(const float* d, int n) {
  uint32_t largest = 0;
  for (int j = 0; j < n; ++j) {
    const uint32_t m = magnitude_bits(d[j]);
    largest = m > largest ? m : largest;
  }
  return largest;
}

inline double norm_term(Norm norm, const float* d, int n) {
  if (norm == Norm::kLinf) return static_cast<double>(float_of(max_magnitude(d, n)));
  double lanes[kReduceLanes] = {};
  if (norm == Norm::kL1)
    abs_sum_chunk(d, n, lanes);
  else
    add_products(d, d, n, lanes);
  return add_lanes(lanes);
}

inline bool keeps_all(const TaskVector& v) { return !v.random && v.lo == 0 && v.hi >= kAbsMask; }

Flags delta_norms(const MergeJob& job, Norm norm, int64_t begin, int64_t end, double* sums) {
  float* base = thread_scratch(3 * kReduceBlock);
  float* x = base + kReduceBlock;
  uint32_t* masks = reinterpret_cast<uint32_t*>(x + kReduceBlock);
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kReduceBlock) {
    const int n = static_cast<int>(end - pos < kReduceBlock ? end - pos : kReduceBlock);
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    double* block = sums + (pos - begin) / kReduceBlock * job.count * 2;
    for (int i = 0; i < job.count; ++i) {
      const TaskVector& v = job.vectors[i];
      flags |= flag(i + 1, load(v.input, pos, n, job.zero_nonfinite, x));
      if (!keeps_all(v)) keep_masks(v, base, x, job.offset + pos, n, masks);
      for (int j = 0; j < n; ++j) x[j] = x[j] - base[j];
      block[2 * i] = norm_term(norm, x, n);
      block[2 * i + 1] = block[2 * i];
      if (keeps_all(v)) continue;
      for (int j = 0; j < n; ++j) x[j] = pick(masks[j] != 0, x[j]);
      block[2 * i + 1] = norm_term(norm, x, n);
    }
  }
  return flags;
}

// Row segments of w + scale * (b a): for each output the products are added in ascending rank.
void add_low_rank(const Input& w, const float* a, const float* b, int64_t rank, int64_t columns,
                  float scale, int64_t begin, int64_t end, float* out) {
  for (int64_t pos = begin; pos < end;) {
    const int64_t row = pos / columns, column = pos % columns;
    int64_t room = columns - column < end - pos ? columns - column : end - pos;
    const int n = static_cast<int>(room < kChunk ? room : kChunk);
    float sum[kChunk];
    for (int j = 0; j < n; ++j) sum[j] = 0.0f;  // scalar loop: memset
    for (int64_t k = 0; k < rank; ++k) {
      const float factor = b[row * rank + k];
      const float* line = a + k * columns + column;
      for (int j = 0; j < n; ++j) sum[j] = sum[j] + factor * line[j];
    }
    float* to = out + (pos - begin);
    load(w, pos - begin, n, false, to);
    for (int j = 0; j < n; ++j) to[j] = to[j] + scale * sum[j];
    pos += n;
  }
}

int64_t count_nonfinite(const Input& input, int64_t size) {
  float* x = thread_scratch(kChunk);
  int64_t count = 0;
  for (int64_t pos = 0; pos < size; pos += kChunk) {
    const int n = static_cast<int>(size - pos < kChunk ? size - pos : kChunk);
    load(input, pos, n, false, x);
    for (int j = 0; j < n; ++j) count += (bits_of(x[j]) & kAbsMask) >= kInfBits;
  }
  return count;
}

// STREAM's triad (McCalpin), the yardstick that benchmarks compare with.
void triad(float* a, const float* b, const float* c, float s, int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; ++j) a[j] = b[j] + s * c[j];
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
