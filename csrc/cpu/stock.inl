// Model Stock by rows. Once per instruction set.
#pragma once

#include <cstdint>

#include "core/stock.h"
#include "cpu/kernels.h"
#include "cpu/load.inl"
#include "cpu/products.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

inline void add_halves(double* values, int n) {
  double* __restrict__ low = values;
  const double* __restrict__ high = values + n;
  for (int j = 0; j < n; ++j) low[j] = low[j] + high[j];
}

// The sum of float32 products in float64: halves are added until one value is left, as in
// row_sum() of ops/tiles.py. `sums` has room for half of them, rounded up.
inline double row_product(const float* x, const float* y, int columns, double* __restrict__ sums) {
  int n = columns / 2;
  for (int j = 0; j < n; ++j)
    sums[j] = static_cast<double>(x[j] * y[j]) + static_cast<double>(x[n + j] * y[n + j]);
  if (columns % 2 == 1) sums[n] = static_cast<double>(x[2 * n] * y[2 * n]);
  for (int left = n + columns % 2; left > 1; left = n + left % 2) {
    n = left / 2;
    add_halves(sums, n);
    if (left % 2 == 1) sums[n] = sums[2 * n];
  }
  return sums[0];
}

inline void subtract(const float* x, const float* y, int n, float* __restrict__ out) {
  for (int j = 0; j < n; ++j) out[j] = x[j] - y[j];
}

inline void add_to(float* __restrict__ sum, const float* x, int n) {
  for (int j = 0; j < n; ++j) sum[j] = sum[j] + x[j];
}

// Between the base and the mean of its experts, whose sum is given.
inline void between(const float* base, const float* sum, double ratio, int count, int n,
                    float* __restrict__ out) {
  const float towards = static_cast<float>(ratio), stay = static_cast<float>(1.0 - ratio);
  const float by = static_cast<float>(count);
  for (int j = 0; j < n; ++j) out[j] = towards * (sum[j] / by) + stay * base[j];
}

Flags stock_rows(const StockJob& job, int64_t begin, int64_t end) {
  if (begin == end) return 0;
  const int count = job.count, columns = static_cast<int>(job.columns);
  const int64_t room = (job.columns + 16) / 16 * 16, pairs = pairs_of(count);
  double* gram = reinterpret_cast<double*>(thread_scratch(2 * pairs + (count + 4) * room));
  double* sums = gram + pairs;
  float* base = reinterpret_cast<float*>(sums + room / 2);
  float *x = base + room, *sum = x + room, *deltas = sum + room;
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += columns) {
    flags |= flag(0, load(job.base, pos, columns, job.zero_nonfinite, base));
    for (int i = 0; i < count; ++i) {
      float* to = i == 0 ? sum : x;
      float* d = deltas + i * room;
      flags |= flag(i + 1, load(job.experts[i], pos, columns, job.zero_nonfinite, to));
      subtract(to, base, columns, d);
      if (i > 0) add_to(sum, x, columns);
    }
    double* next = gram;
    for (int i = 0; i < count; ++i)
      for (int k = i; k < count; ++k)
        *next++ = row_product(deltas + i * room, deltas + k * room, columns, sums);
    const double ratio =
        stock_ratio(count, [&](int i, int k) { return gram[pairs - pairs_of(count - i) + k - i]; });
    between(base, sum, ratio, count, columns, x);
    if (store(x, columns, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
