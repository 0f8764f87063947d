// Fisher merging: the mean of the inputs, each weighted by the diagonal of its Fisher information,
// of which values below a floor are raised to it. The base is not looked at. Source: Matena and
// Raffel, https://arxiv.org/abs/2111.09832.
#pragma once

#include "core/element.h"
#include "core/macros.h"

namespace mergesafe {

// The states: the weighted sum, and the sum of weights. Tensors of an input: it, and its diagonal.
struct Fisher {
  static constexpr const char* kName = "fisher";
  static constexpr int kInputs = kAnyInputs, kTensors = 2;
  static constexpr int kCoefficients = 1, kEach = 1;  // the floor; the weight
  static constexpr int kStates = 2, kSweeps = 1;

  // NaN is below nothing, and comes out.
  static MS_FN void next(float (&state)[kStates], float, const float (&x)[kTensors],
                         const float (&c)[2]) {
    const float share = choose(x[1] < c[0], c[0], x[1]) * c[1];
    state[0] = state[0] + share * x[0];
    state[1] = state[1] + share;
  }

  static MS_FN float last(const float (&state)[kStates], float, const float (&)[kCoefficients]) {
    return state[0] / state[1];
  }
};

}  // namespace mergesafe
