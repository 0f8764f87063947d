// Keeping the elements of a row with a probability that grows with the rank of their magnitude
// (MAGPRUNE of DELLA, https://arxiv.org/abs/2406.11617).
//
// Rank 0 is the smallest magnitude of the row, equal ones rank by index. An element is kept where
// its Philox word is below the threshold of its rank; one whose delta is 0 never is, because
// keeping it would change nothing.
#pragma once

#include <cstdint>

#include "core/job.h"
#include "core/macros.h"

namespace mergesafe {

// The threshold of rank r is low + step * r, in units of 2^-32 of probability.
struct RankMask {
  double low;
  double step;
  uint64_t key;
};

constexpr double kWords = 4294967296.0;  // 2^32, above every word

MS_FN uint64_t rank_threshold(const RankMask& ranked, int64_t rank) {
  const double threshold = ranked.low + ranked.step * static_cast<double>(rank);
  if (!(threshold > 0.0)) return 0;
  return static_cast<uint64_t>(threshold < kWords ? threshold : kWords);
}

// Whole rows of a base and its experts, from element `offset` of their tensor on.
struct RankMaskJob {
  Input base;
  const Input* experts;
  const RankMask* masks;
  uint8_t* const* keeps;  // of each expert: 1 where an element is kept, else 0
  int count;
  int64_t columns;
  uint64_t offset;
  bool zero_nonfinite;
};

// An expert in which what is dropped has the value of the base, so that its delta is 0. Stored in
// the type of both where they have one, else in float32 after the casts at load.
struct MaskedCopy {
  Input base;
  Input expert;
  const uint8_t* keep;
  Output out;
  bool zero_nonfinite;
};

}  // namespace mergesafe
