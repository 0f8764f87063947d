// The fused combinations: each is a struct with a name, numbers of inputs and coefficients, and one
// element's arithmetic for host and device: in one function of all inputs, like Nearswap
// (nearswap.h), or for any number of inputs as a fold over them (fold.h). FusedList is all that
// loops, tables and bindings know of them; docs/adding-a-kernel.md says how to add one.
#pragma once

#include "core/consensus.h"
#include "core/emr.h"
#include "core/fisher.h"
#include "core/fold.h"
#include "core/magmax.h"
#include "core/nearswap.h"
#include "core/ram.h"
#include "core/resta.h"
#include "core/stitch.h"

namespace mergesafe {

template <class... Fused>
struct FusedKernels {
  static constexpr int kCount = sizeof...(Fused);
  static constexpr const char* kNames[] = {Fused::kName...};
  static constexpr int kInputs[] = {Fused::kInputs...};
  static constexpr int kTensors[] = {Fused::kTensors...};  // of every input
  static constexpr int kCoefficients[] = {Fused::kCoefficients...};
  static constexpr int kEach[] = {Fused::kEach...};  // of these, more of every input

  // How many coefficients the combination of this number takes for so many tensors of inputs.
  static constexpr int coefficients(int number, int tensors) {
    return kCoefficients[number] + kEach[number] * (tensors / kTensors[number]);
  }
};

// One element of a combination of a fixed number of inputs.
template <class Fused>
class FixedElement {
 public:
  static constexpr int kInputs = Fused::kInputs;

  MS_FN explicit FixedElement(const float* given) : all_(given) {}
  MS_FN float operator()(float base, const float (&x)[kInputs]) const {
    return Fused::element(base, x, all_.values);
  }

 private:
  SharedCoefficients<Fused> all_;
};

using FusedList = FusedKernels<Nearswap, Magmax, Ram, Consensus, Emr, Stitch, Resta, Fisher>;

}  // namespace mergesafe
