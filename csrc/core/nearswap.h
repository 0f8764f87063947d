// nearswap: where an input lies within a distance t of the base, its value; beyond, the base moved
// towards it by t. Source: the model card of alchemonaut/QuartetAnemoi-70B-t0.0001.
#pragma once

#include "core/element.h"
#include "core/macros.h"

namespace mergesafe {

struct Nearswap {
  static constexpr const char* kName = "nearswap";
  static constexpr int kInputs = 1, kTensors = 1;
  static constexpr int kCoefficients = 1, kEach = 0;  // t

  // base + (x - base) * share, share = t / max(|x - base|, 1e-6) within [0, 1]. A share of 1 gives
  // x as it is, a change of zero the base as it is.
  static MS_FN float element(float base, const float (&x)[kInputs],
                             const float (&c)[kCoefficients]) {
    const float delta = x[0] - base;
    const float distance = float_of(bits_of(delta) & kAbsMask);
    const float by = distance > 1e-6f ? distance : 1e-6f;
    const float ratio = c[0] / by;
    // By masks: of selects in a row gcc makes paths, which take twice the instructions.
    const uint32_t capped = select_bits(mask(ratio < 1.0f), bits_of(ratio), bits_of(1.0f));
    const float share = float_of(mask(float_of(capped) > 0.0f) & capped);
    const float moved = changed(base, delta * share);
    return float_of(select_bits(mask(share == 1.0f), bits_of(x[0]), bits_of(moved)));
  }
};

}  // namespace mergesafe
