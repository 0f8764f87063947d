// The fused combinations: each is a struct with a name, numbers of inputs and coefficients, and one
// element's arithmetic for host and device: in one function of all inputs, like Nearswap
// (nearswap.h), or for any number of inputs as a fold over them, like Magmax (magmax.h). FusedList
// is all that loops, tables and bindings know of them; docs/adding-a-kernel.md says how to add one.
#pragma once

#include "core/magmax.h"
#include "core/nearswap.h"

namespace mergesafe {

template <class... Fused>
struct FusedKernels {
  static constexpr int kCount = sizeof...(Fused);
  static constexpr const char* kNames[] = {Fused::kName...};
  static constexpr int kInputs[] = {Fused::kInputs...};
  static constexpr int kCoefficients[] = {Fused::kCoefficients...};
};

using FusedList = FusedKernels<Nearswap, Magmax>;

}  // namespace mergesafe
