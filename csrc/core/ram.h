// RAM: what one task vector alone changes is added, by a factor of its own; what several change is
// averaged over them. Source: https://arxiv.org/abs/2601.13572; the formula is that of mergekit's
// ram and, with factors, ramplus_tl.
#pragma once

#include "core/element.h"
#include "core/macros.h"

namespace mergesafe {

// Whether a task vector counts as a change of an element. NaN does.
MS_FN bool is_change(float delta, float epsilon) { return !(absolute(delta) <= epsilon); }

// The states: the sum of the changes, their number, and the sum of their factors, which is that of
// the one where there is one.
struct Ram {
  static constexpr const char* kName = "ram";
  static constexpr int kInputs = kAnyInputs, kTensors = 1;
  static constexpr int kCoefficients = 1, kEach = 1;  // epsilon; the factor
  static constexpr int kStates = 3, kSweeps = 1;

  static MS_FN void next(float (&state)[kStates], float base, float x, const float (&c)[2]) {
    const float delta = x - base;
    const bool changes = is_change(delta, c[0]);
    state[0] = state[0] + pick(changes, delta);
    state[1] = state[1] + pick(changes, 1.0f);
    state[2] = state[2] + pick(changes, c[1]);
  }

  static MS_FN float last(const float (&state)[kStates], float base,
                          const float (&)[kCoefficients]) {
    const bool shared = state[1] > 1.0f;
    const float mean = quotient(state[0], choose(shared, state[1], 1.0f));
    const float alone = state[0] * state[2];
    return changed(base, choose(shared, mean, alone));
  }
};

}  // namespace mergesafe
