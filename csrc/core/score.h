// SCE (https://arxiv.org/abs/2408.07990): elements in which the task vectors vary most are
// selected, their sign is elected, and those that agree are averaged.
//
// The score of an element is the sum over experts of (delta_i - mean)^2, in float64 in ascending
// order, rounded once to float32. It orders like the variance; equal deltas score an exact 0.
#pragma once

#include <cstdint>

#include "core/element.h"
#include "core/job.h"
#include "core/macros.h"

namespace mergesafe {

// Sums of kept weights that are smaller divide by this instead.
constexpr float kLeastShare = 1e-6f;

struct ScoreJob {
  Input base;
  const Input* experts;
  int count;
  uint32_t lo;           // selected: bits of the score >= lo
  float* scores;         // memory for the score of every element, or null
  bool known;            // whether they are there already
  const float* weights;  // for the merge alone
  Output out;            // for the merge alone
  bool zero_nonfinite;
};

// delta(i) of `count` experts.
template <class Delta>
MS_FN float score_of(int count, Delta&& delta) {
  double total = 0.0;
  for (int i = 0; i < count; ++i) total = total + static_cast<double>(delta(i));
  const double mean = total / static_cast<double>(count);
  double squares = 0.0;
  for (int i = 0; i < count; ++i) {
    const double off = static_cast<double>(delta(i)) - mean;
    squares = squares + off * off;
  }
  return static_cast<float>(squares);
}

MS_FN bool selected(float score, uint32_t lo) { return magnitude_bits(score) >= lo; }

// base + the mean, by weight, of the deltas that have the sign of their sum.
template <class Delta>
MS_FN float merge_selected(float base, bool keep, int count, const float* weights, Delta&& delta) {
  float total = 0.0f;
  for (int i = 0; i < count; ++i) total = total + pick(keep, delta(i));
  const uint32_t flip = elected_flip(total);
  float sum = 0.0f, share = 0.0f;
  for (int i = 0; i < count; ++i) {
    const bool agreed = keep & agrees(delta(i), flip);
    sum = sum + pick(agreed, delta(i) * weights[i]);
    share = share + pick(agreed, weights[i]);
  }
  return changed(base, sum / (share < kLeastShare ? kLeastShare : share));
}

}  // namespace mergesafe
