// Element types and their exact conversion to and from float32, in integer arithmetic, so that
// every instruction set and device gives the same bits. No hardware conversion is used: AVX-512's
// vcvtneps2bf16 flushes subnormals.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/macros.h"

namespace mergesafe {

enum class DType : int { kBF16 = 0, kF16 = 1, kF32 = 2 };

// `inf` is the bit pattern of +infinity; larger magnitudes are NaN.
struct BF16 {
  uint16_t bits;
  static constexpr uint16_t inf = 0x7F80u;
};
struct F16 {
  uint16_t bits;
  static constexpr uint16_t inf = 0x7C00u;
};
struct F32 {
  uint32_t bits;
  static constexpr uint32_t inf = 0x7F800000u;
};

constexpr uint32_t kInfBits = 0x7F800000u;
constexpr uint32_t kAbsMask = 0x7FFFFFFFu;
// The one NaN that is ever written.
constexpr uint32_t kNaNBits = 0x7FC00000u;

MS_FN uint32_t bits_of(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

MS_FN float float_of(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

// All ones where the condition holds. Masks instead of branches keep loops vectorisable.
MS_FN uint32_t mask(bool condition) { return 0u - static_cast<uint32_t>(condition); }

MS_FN uint32_t select_bits(uint32_t m, uint32_t yes, uint32_t no) { return (m & yes) | (~m & no); }

MS_FN float to_float(BF16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

MS_FN float to_float(F32 x) { return float_of(x.bits); }

// Half to float: shift the fields into place, then scale by 2^112 to move the exponent bias; the
// product is exact, for subnormals too. Infinity and NaN get their exponent by hand.
MS_FN float to_float(F16 x) {
  const uint32_t h = x.bits;
  const uint32_t magnitude = (h & 0x7FFFu) << 13;
  const uint32_t scaled = bits_of(float_of(magnitude) * 5.192296858534828e33f);
  const uint32_t special = magnitude | kInfBits;
  const uint32_t value = select_bits(mask(magnitude >= 0x0F800000u), special, scaled);
  return float_of(value | ((h & 0x8000u) << 16));
}

// Bit patterns of a float32 value rounded to T, to nearest and ties to even; NaN becomes the one
// canonical NaN.
template <class T>
MS_FN uint32_t to_bits(float value);

template <>
MS_FN uint32_t to_bits<F32>(float value) {
  const uint32_t bits = bits_of(value);
  return select_bits(mask((bits & kAbsMask) > kInfBits), kNaNBits, bits);
}

// bfloat16 bits in the high half; the low half is left over. Add half a unit less one, plus the bit
// that breaks ties.
MS_FN uint32_t bf16_in_high_half(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
  return select_bits(mask((bits & kAbsMask) > kInfBits), kNaNBits, rounded);
}

template <>
MS_FN uint32_t to_bits<BF16>(float value) {
  return bf16_in_high_half(value) >> 16;
}

template <>
MS_FN uint32_t to_bits<F16>(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t magnitude = bits & kAbsMask;
  // Normal halves: rebias the exponent and round; a carry into the exponent is right, up to
  // infinity.
  const uint32_t normal = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14: adding 0.5 makes the float unit do the rounding at 2^-24.
  const uint32_t tiny = bits_of(float_of(magnitude) + 0.5f) - 0x3F000000u;
  uint32_t half = select_bits(mask(magnitude < 0x38800000u), tiny, normal);
  half = select_bits(mask(magnitude >= 0x47800000u), 0x7C00u, half);
  half = select_bits(mask(magnitude > kInfBits), 0x7E00u, half);
  const uint32_t sign = select_bits(mask(magnitude > kInfBits), 0u, (bits >> 16) & 0x8000u);
  return half | sign;
}

// Value after a round trip through T: what a cast at load leaves of it.
template <class T>
MS_FN float rounded(float value) {
  T stored;
  stored.bits = static_cast<decltype(stored.bits)>(to_bits<T>(value));
  return to_float(stored);
}

}  // namespace mergesafe
