// Float64 reductions in one fixed order: within a block of 4096 elements, element e is added to
// lane e % 16; the sixteen lanes are added as a binary tree; blocks are added in ascending order.
// A tensor may be cut anywhere between blocks and shared among any number of threads.
//
// Gradients, which are not continued over pieces, add 64 consecutive block sums at a time, from the
// first to the last, then 64 of these, until one is left: short chains suit a device.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace mergesafe {

constexpr int64_t kReduceBlock = 4096;
constexpr int kReduceLanes = 16;
constexpr int kReduceFan = 64;

MS_FN double add_lanes(const double* lanes) {
  double sums[kReduceLanes];
  for (int i = 0; i < kReduceLanes; ++i) sums[i] = lanes[i];
  for (int width = kReduceLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) sums[i] = sums[i] + sums[i + width];
  return sums[0];
}

}  // namespace mergesafe
