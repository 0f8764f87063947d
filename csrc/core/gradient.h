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
#include "core/job.h"
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

// All of it for one element in registers, for a fixed number N of experts. kNormalize only counts
// with election.
template <int N, Elect kElect, bool kNormalize>
struct GradientChain {
  float rescale[N], weight[N];

  // share * terms[i] belong to the weights, g * mean to the scale.
  MS_FN void operator()(float g, float b, const float (&x)[N], const bool (&keep)[N], float& share,
                        float (&terms)[N], float& mean) const {
    float d[N];
    float total = 0.0f;
    for (int i = 0; i < N; ++i) {
      terms[i] = kept_delta(keep[i], x[i] - b, rescale[i]);
      d[i] = terms[i] * weight[i];
      total = total + (kElect == Elect::kCount ? sign(d[i]) : d[i]);
    }
    share = g;
    mean = 0.0f;
    if (kElect == Elect::kNone) return;
    const uint32_t flip = elected_flip(total);
    float sum = 0.0f, by = 0.0f;
    for (int i = 0; i < N; ++i) {
      const bool agreed = agrees(d[i], flip);
      sum = sum + pick(agreed, d[i]);
      by = by + pick(agreed, weight[i]);
    }
    if (kNormalize) {
      share = quotient(g, divisor(by));
      mean = quotient(sum, divisor(by));
    }
    const float less = kNormalize ? subtracted(by, mean) : 0.0f;
    for (int i = 0; i < N; ++i) terms[i] = term(agrees(d[i], flip), terms[i], less);
  }
};

}  // namespace mergesafe
