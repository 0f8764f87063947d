// Combinations of any number of inputs: folds, like Magmax (magmax.h).
//
// The state of an element is kStates floats, which begin as +0. `next` takes the inputs into it,
// one after the other in their order; where kSweeps is 2, `again` then takes them once more, when
// the state says what only all of them do, as a sum; `last` makes the result of it. `next` and
// `again` are given the coefficients of all inputs and after these the kEach of this one. Where an
// input is kTensors = 2 tensors (itself, and what is known about it), all first ones come before
// all second ones, and `next` is given both values.
#pragma once

#include <utility>

#include "core/macros.h"

namespace mergesafe {

// What one input of a fold is given.
template <class Fold>
struct InputCoefficients {
  float values[Fold::kCoefficients + Fold::kEach];

  // `given`: the coefficients of all inputs, then kEach of every input.
  MS_FN InputCoefficients(const float* given, int input) {
    for (int k = 0; k < Fold::kCoefficients; ++k) values[k] = given[k];
    for (int k = 0; k < Fold::kEach; ++k)
      values[Fold::kCoefficients + k] = given[Fold::kCoefficients + input * Fold::kEach + k];
  }
};

// The coefficients that are not of single inputs.
template <class Fused>
struct SharedCoefficients {
  float values[Fused::kCoefficients];

  MS_FN explicit SharedCoefficients(const float* given) {
    for (int k = 0; k < Fused::kCoefficients; ++k) values[k] = given[k];
  }
};

// `next` of one input, whose values are x[at] and, where it is two tensors, x[at + apart].
template <class Fold, int K>
MS_FN void take_next(float (&state)[Fold::kStates], float base, const float* x, int apart,
                     const float (&c)[K]) {
  if constexpr (Fold::kTensors == 1) {
    Fold::next(state, base, x[0], c);
  } else {
    const float both[] = {x[0], x[apart]};
    Fold::next(state, base, both, c);
  }
}

// One element in registers, for a fixed number N of inputs.
template <class Fold, int N>
class FoldElement {
 public:
  static constexpr int kInputs = N * Fold::kTensors;

  MS_FN explicit FoldElement(const float* given) : all_(given) {
    for (int i = 0; i < N; ++i) {
      const InputCoefficients<Fold> one(given, i);
      for (int k = 0; k < kOne; ++k) each_[i][k] = one.values[k];
    }
  }

  MS_FN float operator()(float base, const float (&x)[kInputs]) const {
    return folded(base, x, std::make_integer_sequence<int, N>());
  }

 private:
  // Without loops, which gcc does not always unroll before it looks for vectors.
  template <int... I>
  MS_FN float folded(float base, const float (&x)[kInputs],
                     std::integer_sequence<int, I...>) const {
    float state[Fold::kStates] = {};
    (take_next<Fold>(state, base, x + I, N, each_[I]), ...);
    if constexpr (Fold::kSweeps == 2) (Fold::again(state, base, x[I], each_[I]), ...);
    return Fold::last(state, base, all_.values);
  }

  static constexpr int kOne = Fold::kCoefficients + Fold::kEach;
  SharedCoefficients<Fold> all_;
  float each_[N][kOne];
};

}  // namespace mergesafe
