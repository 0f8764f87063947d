// How task vectors compare: inner products and signs, in one pass. Once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/reduce.h"
#include "cpu/kernels.h"
#include "cpu/load.inl"
#include "cpu/reduce.inl"

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

// The inner products of x with M vectors, kReduceBlock apart, side by side; each in the order of
// dot_chunk. One vector alone would wait for its own additions.
template <int M>
inline void dots(const float* x, const float* ys, int n, double* sums) {
  double lanes[M][kReduceLanes] = {};
  int j = 0;
  for (; j + kReduceLanes <= n; j += kReduceLanes)
    for (int m = 0; m < M; ++m)
      for (int lane = 0; lane < kReduceLanes; ++lane)
        lanes[m][lane] = lanes[m][lane] + static_cast<double>(x[j + lane]) *
                                              static_cast<double>(ys[m * kReduceBlock + j + lane]);
  for (int lane = 0; j < n; ++j, ++lane)
    for (int m = 0; m < M; ++m)
      lanes[m][lane] = lanes[m][lane] +
                       static_cast<double>(x[j]) * static_cast<double>(ys[m * kReduceBlock + j]);
  for (int m = 0; m < M; ++m) sums[m] = add_lanes(lanes[m]);
}

inline void dots_with_all(const float* x, const float* ys, int count, int n, double* sums) {
  for (; count >= 4; count -= 4, ys += 4 * kReduceBlock, sums += 4) dots<4>(x, ys, n, sums);
  if (count == 3) dots<3>(x, ys, n, sums);
  if (count == 2) dots<2>(x, ys, n, sums);
  if (count == 1) dots<1>(x, ys, n, sums);
}

Flags compare(const DeltaJob& job, bool with_base, int64_t begin, int64_t end, double* sums,
              int64_t* counts) {
  const int count = job.count, width = count + with_base;
  const int64_t vectors = (count + 1) * kReduceBlock;
  float* base = thread_scratch(vectors + count * kReduceBlock / 4);  // a byte of sign an element
  float* deltas = base + kReduceBlock;
  uint8_t* signs = reinterpret_cast<uint8_t*>(base + vectors);
  const float* first = with_base ? base : deltas;
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kReduceBlock) {
    const int n = static_cast<int>(end - pos < kReduceBlock ? end - pos : kReduceBlock);
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    for (int i = 0; i < count; ++i) {
      float* d = deltas + i * kReduceBlock;
      flags |= flag(i + 1, load(job.experts[i], pos, n, job.zero_nonfinite, d));
      for (int j = 0; j < n; ++j) d[j] = d[j] - base[j];
      signs_of(d, n, signs + i * kReduceBlock);
    }
    double* block = sums + (pos - begin) / kReduceBlock * width * width;
    for (int i = 0; i < width; ++i)
      dots_with_all(first + i * kReduceBlock, first + i * kReduceBlock, width - i, n,
                    block + i * width + i);
    for (int i = 0; i < count; ++i)
      for (int k = i + 1; k < count; ++k)
        count_signs(signs + i * kReduceBlock, signs + k * kReduceBlock, n,
                    counts + 2 * (i * count + k));
  }
  return flags;
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
