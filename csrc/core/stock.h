// Model Stock by rows: between the base and the mean of its experts, as far as the angles of the
// task vectors put it (https://arxiv.org/abs/2403.19522). The order of operations is that of
// by_rows() in methods/definitions/model_stock.py: sums and ratios in float64, elements in float32.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/job.h"
#include "core/macros.h"

namespace mergesafe {

// Whole rows of `columns` elements.
struct StockJob {
  Input base;
  const Input* experts;
  int count;
  int64_t columns;
  Output out;
  bool zero_nonfinite;
};

constexpr double kTinyProduct = 1e-6;  // products of norms below this count as this
constexpr double kSingular = 1e-6;     // denominators below this have no finite ratio

// Clamped to [-1, 1]; NaN stays.
MS_FN double cosine_of(double product, double square, double other) {
  const double norms = std::sqrt(square) * std::sqrt(other);
  const double cosine = product / (norms < kTinyProduct ? kTinyProduct : norms);
  const double capped = cosine > 1.0 ? 1.0 : cosine;
  return capped < -1.0 ? -1.0 : capped;
}

// How far the mean of the experts is gone towards; gram(i, k), i <= k, of their task vectors.
template <class Gram>
MS_FN double stock_ratio(int count, Gram&& gram) {
  double total = 0.0;
  int pairs = 0;
  for (int i = 0; i < count; ++i) {
    for (int k = i + 1; k < count; ++k, ++pairs) {
      const double cosine = cosine_of(gram(i, k), gram(i, i), gram(k, k));
      total = pairs == 0 ? cosine : total + cosine;
    }
  }
  const double mean = total / pairs;
  const double denominator = 1.0 + (count - 1) * mean;
  return std::fabs(denominator) < kSingular ? 0.0 : count * mean / denominator;
}

}  // namespace mergesafe
