// Consensus merging: a factor times the sum of the task vectors, where enough of them are large
// beside the sum of the others. Source: Wang et al., https://arxiv.org/abs/2405.07813.
#pragma once

#include "core/element.h"
#include "core/macros.h"

namespace mergesafe {

// The states: the sum of the task vectors, and how many claim the element.
struct Consensus {
  static constexpr const char* kName = "consensus";
  static constexpr int kInputs = kAnyInputs, kTensors = 1;
  static constexpr int kCoefficients = 2, kEach = 1;  // agreement, lambda; threshold
  static constexpr int kStates = 2, kSweeps = 2;

  static MS_FN void next(float (&state)[kStates], float base, float x, const float (&)[3]) {
    state[0] = state[0] + (x - base);
  }

  static MS_FN void again(float (&state)[kStates], float base, float x, const float (&c)[3]) {
    const float delta = x - base;
    const float others = state[0] - delta;
    state[1] = state[1] + pick(absolute(delta) >= c[2] * absolute(others), 1.0f);
  }

  // The base of -0 becomes +0 where nothing is added.
  static MS_FN float last(const float (&state)[kStates], float base,
                          const float (&c)[kCoefficients]) {
    const float keep = choose(state[1] >= c[0], 1.0f, 0.0f);
    return base + (keep * state[0]) * c[1];
  }
};

}  // namespace mergesafe
