// EMR's unified task vector: the sign of the sum of the task vectors, with the largest magnitude
// that has it. Source: Huang et al., https://arxiv.org/abs/2405.17461.
#pragma once

#include "core/element.h"
#include "core/macros.h"

namespace mergesafe {

// The states: the sum of the task vectors, and the largest magnitude so far of those of its sign.
struct Emr {
  static constexpr const char* kName = "emr";
  static constexpr int kInputs = kAnyInputs, kTensors = 1;
  static constexpr int kCoefficients = 1, kEach = 0;  // lambda
  static constexpr int kStates = 2, kSweeps = 2;

  static MS_FN void next(float (&state)[kStates], float base, float x, const float (&)[1]) {
    state[0] = state[0] + (x - base);
  }

  // NaN is larger than all and comes out.
  static MS_FN void again(float (&state)[kStates], float base, float x, const float (&)[1]) {
    const float towards = (x - base) * sign(state[0]);
    const bool larger = (towards > state[1]) | (towards != towards);
    state[1] = larger ? towards : state[1];
  }

  // The base of -0 becomes +0 where nothing is added.
  static MS_FN float last(const float (&state)[kStates], float base,
                          const float (&c)[kCoefficients]) {
    return base + (sign(state[0]) * state[1]) * c[0];
  }
};

}  // namespace mergesafe
