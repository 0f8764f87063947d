// The element mathematics of every merge, once. The order of operations here is the contract
// that all backends reproduce bit for bit: float32, no contraction, experts in ascending order.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/macros.h"

namespace mergesafe {

// Magnitudes compare as the bit patterns of |delta|. Every NaN counts as the one value just above
// infinity, because devices disagree about the payload of a computed NaN.
constexpr uint32_t kNaNMagnitude = kInfBits + 1u;

MS_FN uint32_t magnitude_bits(float delta) {
  const int32_t bits = static_cast<int32_t>(bits_of(delta) & kAbsMask);
  const int32_t nan = static_cast<int32_t>(kNaNMagnitude);
  return static_cast<uint32_t>(bits < nan ? bits : nan);
}

// value where the condition holds, else +0. A select of already computed values, never a branch
// around work: every instruction set vectorises it.
MS_FN float pick(bool condition, float value) { return condition ? value : 0.0f; }

// One of two values by a mask: of some selects gcc makes branches, and a loop with branches is not
// vectorised.
MS_FN float choose(bool condition, float yes, float no) {
  return float_of(select_bits(mask(condition), bits_of(yes), bits_of(no)));
}

// The magnitudes lo to hi, both included. NaN is moved from kNaNMagnitude to all patterns above
// infinity once, in the bounds, so that elements need no clamp.
struct Window {
  int32_t lo;
  int32_t hi;
};

MS_FN Window window(uint32_t lo, uint32_t hi) {
  if (lo > kNaNMagnitude || hi > kAbsMask) hi = hi > kAbsMask ? kAbsMask : hi;
  if (lo > kNaNMagnitude) return {0, -1};
  return {static_cast<int32_t>(lo), static_cast<int32_t>(hi >= kNaNMagnitude ? kAbsMask : hi)};
}

// Signed comparison: magnitudes have no sign bit, and older instruction sets lack the unsigned one.
MS_FN bool in_window(float delta, Window w) {
  const int32_t magnitude = static_cast<int32_t>(bits_of(delta) & kAbsMask);
  return (magnitude >= w.lo) & (magnitude <= w.hi);
}

// d = weight * (rescale * delta) where kept, else +0.
MS_FN float weighted(bool keep, float delta, float rescale, float weight) {
  return pick(keep, (delta * rescale) * weight);
}

MS_FN float absolute(float value) { return float_of(bits_of(value) & kAbsMask); }

// +1, 0 or -1; NaN has no sign and gives 0.
MS_FN float sign(float value) { return pick(value > 0.0f, 1.0f) + pick(value < 0.0f, -1.0f); }

// The sign bit to flip in each d before asking whether it is positive: none where the elected sign
// is +. A total of zero elects +.
MS_FN uint32_t elected_flip(float total) { return mask(!(total >= 0.0f)) & 0x80000000u; }

// Does d vote with the elected sign? An exact zero never does.
MS_FN bool agrees(float d, uint32_t flip) { return float_of(bits_of(d) ^ flip) > 0.0f; }

// sum / divisor for a divisor other than 0. A device divides a zero by a slow subroutine, and where
// nothing was kept the sum is zero: there it divides 1 instead and puts the zero of the right sign.
MS_FN float quotient(float sum, float divisor) {
#if defined(__CUDA_ARCH__) || defined(MERGESAFE_EMULATE)
  const bool zero = (sum == 0.0f) & (divisor == divisor);
  const float divided = (zero ? 1.0f : sum) / divisor;
  return zero ? float_of((bits_of(sum) ^ bits_of(divisor)) & 0x80000000u) : divided;
#else
  return sum / divisor;
#endif
}

// base + change, and the base itself where the change is a zero: -0 + +0 would be +0.
MS_FN float changed(float base, float change) {
  const float sum = base + change;
  return change == 0.0f ? base : sum;
}

// base + scale * (sum / divisor).
MS_FN float finish(float base, float sum, float divisor, float scale) {
  return changed(base, quotient(sum, divisor) * scale);
}

// Whether weights in float32 add up to 1 but for their rounding: then a weighted sum returns values
// that are equal in all inputs as they are. Each weight and each addition may be half a unit off.
MS_FN bool sums_to_one(const float* weights, int count) {
  float total = weights[0];
  for (int i = 1; i < count; ++i) total = total + weights[i];
  const float distance = total - 1.0f;
  const float most = static_cast<float>(count) * 1.1920928955078125e-07f;  // 2^-23
  return (count > 1) & (distance <= most) & (-distance <= most);
}

// Sums of weights that are closer to zero than this divide by 1 instead.
constexpr double kTinyDivisor = 1e-8;

// What the sum of task vectors is divided by when no sign is elected: the sum of weight(i) in
// order, or 1 where that is next to nothing or not wanted.
template <class Weight>
MS_FN float divisor_of(int count, bool normalize, Weight weight) {
  if (!normalize) return 1.0f;
  float total = 0.0f;
  for (int i = 0; i < count; ++i) total = total + weight(i);
  const double magnitude = static_cast<double>(float_of(bits_of(total) & kAbsMask));
  return magnitude < kTinyDivisor ? 1.0f : total;
}

// The number of inputs of a fused combination (fused.h) that takes one or more.
constexpr int kAnyInputs = -1;

MS_FN bool same_bits(float a, float b) { return bits_of(a) == bits_of(b); }

}  // namespace mergesafe
