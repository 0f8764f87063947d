// The element mathematics of the backward pass of a merge, in float32 like the forward pass.
//
// With u_i = kept_delta, d_i = u_i * w_i, a_i whether d_i agrees with the elected sign (element.h),
// S and D the sums in order from +0 of the d_i and w_i that agree, a gradient g of the output adds
//
//   without election:                  g * u_i          to the sum of expert i
//   with election:                     g * a_i u_i
//   with election and normalisation:   h * term(a_i, u_i, subtracted(D, q))  where h = g /
//   divisor(D)
//                                      g * q            to the last sum, q = S / divisor(D)
//
// Each product is one of two float32 values in float64, where it is exact: 48 bits of 53, exponents
// from 2^-298 to 2^256. So a fused multiply-add gives the same bits as a product added to the sum.
//
// Zeros may have either sign here: none is ever elected, and sums that start at +0 do not see it.
#pragma once

#include "core/element.h"
#include "core/macros.h"

namespace mergesafe {

MS_FN float kept_delta(bool keep, float delta, float rescale) {
  return pick(keep, delta * rescale);
}

// D, or 1 where D is 0.
MS_FN float divisor(float agreed_weights) { return agreed_weights != 0.0f ? agreed_weights : 1.0f; }

// The derivative of S / D for a weight has a part -S / D^2, unless D fell back to a constant 1.
MS_FN float subtracted(float agreed_weights, float mean) {
  return pick(agreed_weights != 0.0f, mean);
}

MS_FN float term(bool agreed, float kept, float subtracted) {
  return pick(agreed, kept - subtracted);
}

}  // namespace mergesafe
