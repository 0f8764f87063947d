// exp, logarithms and tanh in operations that round correctly everywhere, each on its own and in
// the order of methods/elementary.py, which says how exact they are. Of NaN they are NaN.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/macros.h"

namespace mergesafe {

MS_FN uint64_t bits_of(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

MS_FN double double_of(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

constexpr double kLeastExponent = -700.0;  // exp of less counts as exp of this: about 1e-304
constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;
// ln 2 in two parts, of which the first has so few digits that its products here are exact.
constexpr double kLn2High = 0.6931471803691238, kLn2Low = 1.9082149292705877e-10;
constexpr double kRounder = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to a whole number
constexpr uint64_t kExponentBias = 1023;
constexpr int kExponentBits = 52;

// exp(r) - 1 by its series, for r within ln(2)/2 of 0.
MS_FN double exp_series(double r) {
  double terms = r * (1.0 / 3628800.0);
  terms = (terms + 1.0 / 362880.0) * r;
  terms = (terms + 1.0 / 40320.0) * r;
  terms = (terms + 1.0 / 5040.0) * r;
  terms = (terms + 1.0 / 720.0) * r;
  terms = (terms + 1.0 / 120.0) * r;
  terms = (terms + 1.0 / 24.0) * r;
  terms = (terms + 1.0 / 6.0) * r;
  terms = (terms + 0.5) * r;
  return terms * r + r;
}

// exp(y) = rest + power, a power of 2; for y of at most 700.
struct Exponential {
  double rest, power;
};

MS_FN Exponential exp_minus_one(double y) {
  y = y < kLeastExponent ? kLeastExponent : y;
  const double rounded = y * kLog2E + kRounder;
  const double whole = rounded - kRounder;
  const double r = (y - whole * kLn2High) - whole * kLn2Low;
  // The low bits of `rounded` are the whole number.
  const double power = double_of((bits_of(rounded) + kExponentBias) << kExponentBits);
  return {exp_series(r) * power, power};
}

MS_FN double exp_of(double y) {
  const Exponential e = exp_minus_one(y);
  return e.rest + e.power;
}

// The same for y within kNearZero of 0, where the power of 2 is 1: equal bits, fewer operations.
constexpr double kNearZero = 0.34;  // below ln(2)/2
MS_FN double exp_near_zero(double y) { return exp_series(y) + 1.0; }

// log(p / q) by its series, for numbers between 1/1.5 and 1.5 times each other.
MS_FN double log_series(double p, double q) {
  const double z = (p - q) / (p + q);
  const double square = z * z;
  double terms = square * (2.0 / 17.0);
  terms = (terms + 2.0 / 15.0) * square;
  terms = (terms + 2.0 / 13.0) * square;
  terms = (terms + 2.0 / 11.0) * square;
  terms = (terms + 2.0 / 9.0) * square;
  terms = (terms + 2.0 / 7.0) * square;
  terms = (terms + 2.0 / 5.0) * square;
  terms = (terms + 2.0 / 3.0) * square;
  return (terms + 2.0) * z;
}

// log(p / q) of normal numbers above 0 whose ratio is within 2^1000 of 1.
MS_FN double log_ratio(double p, double q) {
  const uint64_t apart = bits_of(p) - bits_of(q) + (uint64_t{1} << (kExponentBits - 1));
  // Shifted to be positive, because few instruction sets shift signed numbers of 64 bits.
  const uint64_t biased = (apart + (kExponentBias << kExponentBits)) >> kExponentBits;
  const double near = double_of(bits_of(p) - ((biased - kExponentBias) << kExponentBits));
  constexpr uint64_t kTwo52 = 0x4330000000000000u;  // the bits of 2^52, whose unit is 1
  const double whole = double_of(biased | kTwo52) - (4503599627370496.0 + kExponentBias);
  return log_series(near, q) + whole * kLn2;
}

// The same for numbers of which neither is more than 1.25 times the other: their bits differ by
// less than half of what a factor of 2 makes, so that the whole power of 2 between them is 0.
MS_FN double log_near_ratio(double p, double q) { return log_series(p, q) + 0.0; }

MS_FN double tanh_of(double v) {
  constexpr uint64_t kSign = uint64_t{1} << 63;
  const Exponential e = exp_minus_one(double_of(bits_of(v) & ~kSign) * -2.0);
  const double below = e.rest + (e.power - 1.0);  // exp(-2 |v|) - 1
  const double size = below / (-2.0 - below);
  return double_of((bits_of(size) & ~kSign) | (bits_of(v) & kSign));
}

}  // namespace mergesafe
