// The fused combinations: each is a struct like Nearswap (nearswap.h) with a name, numbers of
// inputs and coefficients, and one element's arithmetic for host and device. FusedList is all that
// loops, tables and bindings know of them; docs/adding-a-kernel.md says how to add one.
#pragma once

#include "core/nearswap.h"

namespace mergesafe {

template <class... Fused>
struct FusedKernels {
  static constexpr int kCount = sizeof...(Fused);
  static constexpr const char* kNames[] = {Fused::kName...};
  static constexpr int kInputs[] = {Fused::kInputs...};
  static constexpr int kCoefficients[] = {Fused::kCoefficients...};
};

using FusedList = FusedKernels<Nearswap>;

}  // namespace mergesafe
