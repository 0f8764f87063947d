// MagMax: the base plus a factor times the task vector that is largest in magnitude, element by
// element; of equal ones the first. Source: Marczak et al., https://arxiv.org/abs/2407.06322.
#pragma once

#include "core/element.h"
#include "core/macros.h"

namespace mergesafe {

// The state is the largest task vector so far.
struct Magmax {
  static constexpr const char* kName = "magmax";
  static constexpr int kInputs = kAnyInputs, kTensors = 1;
  static constexpr int kCoefficients = 1, kEach = 0;  // lambda
  static constexpr int kStates = 1, kSweeps = 1;

  // As bits, so that NaN is larger than all and comes out.
  static MS_FN void next(float (&state)[kStates], float base, float x, const float (&)[1]) {
    const float delta = x - base;
    const int32_t ours = static_cast<int32_t>(bits_of(state[0]) & kAbsMask);
    const int32_t theirs = static_cast<int32_t>(bits_of(delta) & kAbsMask);
    state[0] = float_of(select_bits(mask(theirs > ours), bits_of(delta), bits_of(state[0])));
  }

  static MS_FN float last(const float (&state)[kStates], float base,
                          const float (&c)[kCoefficients]) {
    return changed(base, state[0] * c[0]);
  }
};

}  // namespace mergesafe
