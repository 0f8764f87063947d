// Localize-and-Stitch: of every task vector what reaches its floor, averaged over the task vectors
// that do. Source: He et al., https://arxiv.org/abs/2408.13656.
#pragma once

#include "core/element.h"
#include "core/macros.h"

namespace mergesafe {

// The states: the sum of what is kept, and of how many task vectors.
struct Stitch {
  static constexpr const char* kName = "stitch";
  static constexpr int kInputs = kAnyInputs, kTensors = 1;
  static constexpr int kCoefficients = 1, kEach = 1;  // lambda; the floor
  static constexpr int kStates = 2, kSweeps = 1;

  // A product, so that NaN comes out.
  static MS_FN void next(float (&state)[kStates], float base, float x, const float (&c)[2]) {
    const float delta = x - base;
    const float keep = pick(absolute(delta) >= c[1], 1.0f);
    state[0] = state[0] + keep * delta;
    state[1] = state[1] + keep;
  }

  // The base of -0 becomes +0 where nothing is added.
  static MS_FN float last(const float (&state)[kStates], float base,
                          const float (&c)[kCoefficients]) {
    const float kept = choose(state[1] > 1.0f, state[1], 1.0f);
    return base + quotient(state[0], kept) * c[0];
  }
};

}  // namespace mergesafe
