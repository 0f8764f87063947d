// Inputs of any type, and every instruction set.
#pragma once

#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/job.h"
#include "cpu/kernels.h"
#include "unit.h"

namespace unit {

using mergesafe::BF16;
using mergesafe::DType;
using mergesafe::F16;

constexpr DType kTypes[] = {DType::kBF16, DType::kF16, DType::kF32};

// Numbers as they are stored, and read back one by one.
struct Array {
  DType dtype;
  DType cast;
  std::vector<uint16_t> narrow;
  std::vector<uint32_t> wide;

  Array(DType type, int64_t n) : dtype(type), cast(type) {
    if (type == DType::kF32)
      wide.resize(static_cast<size_t>(n));
    else
      narrow.resize(static_cast<size_t>(n));
  }
  const void* data() const {
    return dtype == DType::kF32 ? static_cast<const void*>(wide.data()) : narrow.data();
  }
  void* data() { return dtype == DType::kF32 ? static_cast<void*>(wide.data()) : narrow.data(); }
  int64_t size() const { return static_cast<int64_t>(narrow.size() + wide.size()); }
  mergesafe::Input input() const { return {data(), dtype, cast}; }
  mergesafe::Output output() { return {data(), dtype}; }
  uint32_t bits(int64_t at) const {
    const auto i = static_cast<size_t>(at);
    return dtype == DType::kF32 ? wide[i] : narrow[i];
  }
  void set(int64_t at, uint32_t bits) {
    const auto i = static_cast<size_t>(at);
    if (dtype == DType::kF32)
      wide[i] = bits;
    else
      narrow[i] = static_cast<uint16_t>(bits);
  }
  float operator[](int64_t at) const {
    float value = mergesafe::float_of(bits(at));
    if (dtype == DType::kBF16) value = to_float(BF16{static_cast<uint16_t>(bits(at))});
    if (dtype == DType::kF16) value = to_float(F16{static_cast<uint16_t>(bits(at))});
    if (cast == dtype) return value;
    if (cast == DType::kBF16) return mergesafe::rounded<BF16>(value);
    return cast == DType::kF16 ? mergesafe::rounded<F16>(value) : value;
  }
};

inline uint32_t rounded_bits(float value, DType dtype) {
  if (dtype == DType::kBF16) return mergesafe::to_bits<BF16>(value);
  if (dtype == DType::kF16) return mergesafe::to_bits<F16>(value);
  return mergesafe::to_bits<mergesafe::F32>(value);
}

// Numbers near 1 in size, some zeros; `awkward` adds infinities, NaN, subnormals and extremes.
inline Array array(DType dtype, int64_t n, uint64_t seed, bool awkward = false) {
  constexpr float kAwkward[] = {
      __builtin_inff(), -__builtin_inff(), 1e-40f, -0.0f, 3e38f, -3e38f, 1e-6f, 65504.0f};
  Random random(seed);
  Array made(dtype, n);
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t word = random.word();
    float value = static_cast<float>(static_cast<int64_t>(word >> 40) - (1 << 23)) * 0x1p-23f;
    if (word % 11 == 0) value = 0.0f;
    if (awkward && word % 13 == 1) value = kAwkward[word / 13 % 8];
    if (awkward && word % 31 == 2) value = __builtin_nanf("");
    made.set(i, rounded_bits(value, dtype));
  }
  return made;
}

template <class Body>
void every_isa(Body&& body) {
  for (const std::string& name : mergesafe::cpu::available()) {
    mergesafe::cpu::use(name);
    body();
  }
  mergesafe::cpu::use("auto");
}

}  // namespace unit
