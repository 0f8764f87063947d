// RESTA: the base, which is the model that is merged, plus what an aligned model has and an
// unaligned one has not. Source: Bhardwaj et al., https://arxiv.org/abs/2402.11746.
#pragma once

#include "core/macros.h"

namespace mergesafe {

struct Resta {
  static constexpr const char* kName = "resta";
  static constexpr int kInputs = 2, kTensors = 1;     // the aligned model, the unaligned one
  static constexpr int kCoefficients = 1, kEach = 0;  // gamma

  // The base of -0 becomes +0 where nothing is added.
  static MS_FN float element(float base, const float (&x)[kInputs],
                             const float (&c)[kCoefficients]) {
    return base + (x[0] - x[1]) * c[0];
  }
};

}  // namespace mergesafe
