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

// The terms of a norm in a block, a chunk at a time.
struct NormTerms {
  double lanes[kReduceLanes];
  uint32_t largest;

  void add(Norm norm, const float* d, int n) {
    if (norm == Norm::kLinf) {
      const uint32_t m = max_magnitude(d, n);
      largest = m > largest ? m : largest;
    } else if (norm == Norm::kL1) {
      abs_sum_chunk(d, n, lanes);
    } else {
      add_products(d, d, n, lanes);
    }
  }
  double value(Norm norm) const {
    return norm == Norm::kLinf ? static_cast<double>(float_of(largest)) : add_lanes(lanes);
  }
};

inline bool keeps_all(const TaskVector& v) { return !v.random && v.lo == 0 && v.hi >= kAbsMask; }

Flags delta_norms(const MergeJob& job, Norm norm, int64_t begin, int64_t end, double* sums) {
  constexpr int64_t kTerms = sizeof(NormTerms) / sizeof(float);
  float* base = thread_scratch(4 * kChunk + 2 * job.count * kTerms);
  float *x = base + kChunk, *left = x + kChunk;
  uint32_t* masks = reinterpret_cast<uint32_t*>(left + kChunk);
  NormTerms* terms = reinterpret_cast<NormTerms*>(masks + kChunk);  // of all, of what is kept
  Flags flags = 0;
  for (int64_t pos = begin; pos < end;) {
    const int64_t stop = end - pos < kReduceBlock ? end : pos + kReduceBlock;
    double* block = sums + (pos - begin) / kReduceBlock * job.count * 2;
    std::memset(terms, 0, 2 * job.count * sizeof(NormTerms));
    for (; pos < stop; pos += kChunk) {
      const int n = static_cast<int>(stop - pos < kChunk ? stop - pos : kChunk);
      flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
      for (int i = 0; i < job.count; ++i) {
        const TaskVector& v = job.vectors[i];
        flags |= flag(i + 1, load(v.input, pos, n, job.zero_nonfinite, x));
        if (v.keep != nullptr) {
          const uint8_t* keep = v.keep + pos;
          for (int j = 0; j < n; ++j) left[j] = (keep[j] != 0 ? x[j] : base[j]) - base[j];
        } else if (!keeps_all(v)) {
          keep_masks(v, base, x, job.offset + pos, n, masks);
          for (int j = 0; j < n; ++j) left[j] = pick(masks[j] != 0, x[j] - base[j]);
        }
        for (int j = 0; j < n; ++j) x[j] = x[j] - base[j];
        terms[2 * i].add(norm, x, n);
        if (v.keep != nullptr || !keeps_all(v)) terms[2 * i + 1].add(norm, left, n);
      }
    }
    pos = stop;
    for (int i = 0; i < job.count; ++i) {
      const bool all = job.vectors[i].keep == nullptr && keeps_all(job.vectors[i]);
      block[2 * i] = terms[2 * i].value(norm);
      block[2 * i + 1] = all ? block[2 * i] : terms[2 * i + 1].value(norm);
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
