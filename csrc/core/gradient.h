// The element mathematics of the backward pass of a merge, in float32 like the forward pass.
//
// With u_i = kept_delta, d_i = u_i * w_i, a_i whether d_i agrees with the elected sign (element.h),
// S and D the sums in order from +0 of the d_i and w_i that agree, a gradient g of the output adds
//
//   without election:                  g * u_i          to the sum of expert i
//   with election:                     g * a_i u_i
//   with election and normalisation:   h * term(a_i, u_i, subtracted(D, q)),  h = g / divisor(D)
//                                      g * q            to the last sum,       q = S / divisor(D)
//
// Each product is one of two float32 values in float64, where it is exact: 48 bits of 53, exponents
// from 2^-298 to 2^256. So a fused multiply-add gives the same bits as a product added to the sum.
//
// Zeros may have either sign here: none is ever elected, and sums that start at +0 do not see it.
#pragma once

#include "core/chain.h"
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

// What an element's gradient g is multiplied with, for all experts alike.
struct Shares {
  float share;  // times a term belongs to each weight
  float less;   // subtracted from the terms
  float mean;   // g * mean belongs to the scale
  uint32_t flip;
};

// What `sum` and `by`, that agree with the elected sign, leave of a gradient.
MS_FN Shares divided(float g, float sum, float by, uint32_t flip) {
  const float mean = quotient(sum, divisor(by));
  return {quotient(g, divisor(by)), subtracted(by, mean), mean, flip};
}

// Of one element; experts as in chain.h. rule.divide: normalisation, which only counts with
// election.
template <class Rule, class Experts>
MS_FN Shares shares_of(const Rule& rule, float g, Experts&& experts) {
  if (rule.elect == Elect::kNone) return {g, 0.0f, 0.0f, 0};
  float total = 0.0f;
  for (int i = 0; i < experts.count(); ++i) total = vote(rule, total, experts.first(i));
  const uint32_t flip = elected_flip(total);
  if (!rule.divide) return {g, 0.0f, 0.0f, flip};
  float sum = 0.0f, by = 0.0f;
  for (int i = 0; i < experts.count(); ++i)
    agree(experts.again(i), experts.weight(i), flip, sum, by);
  return divided(g, sum, by, flip);
}

// What `share` multiplies for an expert whose kept delta is u.
template <class Rule>
MS_FN float term_of(const Rule& rule, const Shares& s, float u, float weight) {
  return rule.elect == Elect::kNone ? u : term(agrees(u * weight, s.flip), u, s.less);
}

// All of it for one element in registers, for a fixed number N of experts.
template <int N, Elect kElect, bool kNormalize>
struct GradientChain {
  float rescale[N], weights[N];

  // s.share * terms[i] belong to the weights, g * s.mean to the scale.
  MS_FN Shares operator()(float g, float b, const float (&x)[N], const bool (&keep)[N],
                          float (&terms)[N]) const {
    constexpr FixedRule<kElect, kNormalize> rule{};
    for (int i = 0; i < N; ++i) terms[i] = kept_delta(keep[i], x[i] - b, rescale[i]);
    const Shares s = shares_of(rule, g, Registers{weights, terms});
    for (int i = 0; i < N; ++i) terms[i] = term_of(rule, s, terms[i], weights[i]);
    return s;
  }

 private:
  struct Registers {
    const float (&weights)[N];
    const float (&u)[N];
    static constexpr int count() { return N; }
    MS_FN float weight(int i) const { return weights[i]; }
    MS_FN float first(int i) const { return u[i] * weights[i]; }
    MS_FN float again(int i) const { return first(i); }
  };
};

}  // namespace mergesafe
