// Loading and storing chunks of elements as float32. Once per instruction set.
#pragma once

#include <cstdint>
#include <limits>

#include "core/dtype.h"
#include "core/element.h"
#include "core/job.h"
#include "cpu/kernels.h"

namespace mergesafe::cpu::MS_ISA {
namespace {

constexpr int kChunk = 1024;  // elements per step: a few of these stay in the first-level cache

template <class T>
uint32_t convert_in(const T* data, int n, float* out) {
  uint32_t largest = 0;
  for (int j = 0; j < n; ++j) {
    const float value = to_float(data[j]);
    const uint32_t magnitude = bits_of(value) & kAbsMask;
    largest = magnitude > largest ? magnitude : largest;
    out[j] = value;
  }
  return largest;
}

template <class T>
uint32_t round_in_place(float* values, int n) {
  uint32_t largest = 0;
  for (int j = 0; j < n; ++j) {
    const float value = rounded<T>(values[j]);
    const uint32_t magnitude = bits_of(value) & kAbsMask;
    largest = magnitude > largest ? magnitude : largest;
    values[j] = value;
  }
  return largest;
}

inline void zero_nonfinite_in_place(float* values, int n) {
  for (int j = 0; j < n; ++j)
    values[j] = pick((bits_of(values[j]) & kAbsMask) < kInfBits, values[j]);
}

// A row of an input that is loaded a chunk at a time, in turn with others. So many rows across
// page boundaries are more than the processor's own prefetching follows, and asking for a whole
// chunk at once makes the processor wait: loops ask for the next chunk bit by bit as they compute.
struct NextChunk {
  const char* data;
  int size;  // bytes of an element

  NextChunk() = default;
  NextChunk(const Input& input, int64_t pos) : size(input.dtype == DType::kF32 ? 4 : 2) {
    data = static_cast<const char*>(input.data) + (pos + kChunk) * size;
  }
  // The lines of n elements from j on.
  MS_FN void fetch(int j, int n) const {
    for (int line = 0; line < n * size; line += 64) __builtin_prefetch(data + j * size + line);
  }
};

// out[0, n) = input[pos, pos + n) after the cast at load; true when a value was not finite.
inline bool load(const Input& input, int64_t pos, int n, bool zero_nonfinite, float* out) {
  uint32_t largest = 0;
  switch (input.dtype) {
    case DType::kBF16:
      largest = convert_in(static_cast<const BF16*>(input.data) + pos, n, out);
      break;
    case DType::kF16:
      largest = convert_in(static_cast<const F16*>(input.data) + pos, n, out);
      break;
    case DType::kF32:
      largest = convert_in(static_cast<const F32*>(input.data) + pos, n, out);
      break;
  }
  if (input.cast != input.dtype) {
    if (input.cast == DType::kBF16) largest = round_in_place<BF16>(out, n);
    if (input.cast == DType::kF16) largest = round_in_place<F16>(out, n);
  }
  const bool nonfinite = largest >= kInfBits;
  if (nonfinite && zero_nonfinite) zero_nonfinite_in_place(out, n);
  return nonfinite;
}

template <class T>
bool convert_out(const float* values, int n, T* data) {
  using Bits = decltype(T::bits);
  Bits* __restrict__ bits = &data->bits;
  // Not ~Bits{0} >> 1: short integers are promoted to int first.
  constexpr Bits magnitude_mask = std::numeric_limits<Bits>::max() / 2;
  Bits largest = 0;
  for (int j = 0; j < n; ++j) {
    const Bits stored = static_cast<Bits>(to_bits<T>(values[j]));
    const Bits magnitude = stored & magnitude_mask;
    largest = magnitude > largest ? magnitude : largest;
    bits[j] = stored;
  }
  return largest >= T::inf;
}

// Rounds once to the output type; true when a stored value is not finite.
inline bool store(const float* values, int n, const Output& out, int64_t pos) {
  switch (out.dtype) {
    case DType::kBF16: return convert_out(values, n, static_cast<BF16*>(out.data) + pos);
    case DType::kF16: return convert_out(values, n, static_cast<F16*>(out.data) + pos);
    case DType::kF32: break;
  }
  return convert_out(values, n, static_cast<F32*>(out.data) + pos);
}

// Is any of the values, as they are stored, NaN or infinity?
template <class T>
bool any_nonfinite(const T* data, int n) {
  using Bits = decltype(T::bits);
  constexpr Bits magnitude_mask = std::numeric_limits<Bits>::max() / 2;
  Bits largest = 0;
  for (int j = 0; j < n; ++j) {
    const Bits magnitude = data[j].bits & magnitude_mask;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest >= T::inf;
}

// The same for N rows of bfloat16 in one loop.
template <int N>
bool any_nonfinite(const BF16* const* rows, int n) {
  const BF16* x[N];
  for (int i = 0; i < N; ++i) x[i] = rows[i];
  uint16_t largest = 0;
  for (int j = 0; j < n; ++j) {
    for (int i = 0; i < N; ++i) {
      const uint16_t magnitude = x[i][j].bits & 0x7FFFu;
      largest = magnitude > largest ? magnitude : largest;
    }
  }
  return largest >= BF16::inf;
}

// Two neighbouring bfloat16 elements, the even one in the low half. Loops that read them convert
// in registers, with one instruction each and no shuffles, and save a pass through the cache.
typedef uint32_t Pair __attribute__((may_alias, aligned(2)));

inline float even(uint32_t pair) { return float_of(pair << 16); }
inline float odd(uint32_t pair) { return float_of(pair & 0xFFFF0000u); }
inline uint32_t make_pair(float even, float odd) {
  return bf16_in_high_half(even) >> 16 | (bf16_in_high_half(odd) & 0xFFFF0000u);
}

inline bool is_bf16(const Input& input) {
  return input.dtype == DType::kBF16 && input.cast == DType::kBF16;
}

inline const BF16* bf16_at(const Input& input, int64_t pos) {
  return static_cast<const BF16*>(input.data) + pos;
}

inline Flags flag(int input, bool set) {
  return static_cast<Flags>(set) << (input < 62 ? input : 62);
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
