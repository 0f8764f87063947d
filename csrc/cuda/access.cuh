// Eight elements at a time between memory and registers.
#pragma once

#include "cuda/batch.h"

namespace mergesafe::cuda {

constexpr int kVector = 8;  // 16 bytes of 16-bit elements

// Eight elements as stored: fetched first for all inputs, converted later, so that the loads of a
// thread are in flight together.
struct Raw {
  // b for 32-bit elements only. Else it is not set: a copy of a would wait for its load before the
  // next one starts.
  uint4 a, b;
};

__device__ __forceinline__ Raw fetch(const Source& s, int64_t pos) {
  Raw raw;
  if (s.dtype == static_cast<uint8_t>(DType::kF32)) {
    const uint4* from = reinterpret_cast<const uint4*>(static_cast<const uint32_t*>(s.data) + pos);
    raw.a = __ldcs(from);
    raw.b = __ldcs(from + 1);
  } else {
    raw.a = __ldcs(reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(s.data) + pos));
  }
  return raw;
}

__device__ __forceinline__ void words_of(const uint4& v, uint32_t (&w)[4]) {
  w[0] = v.x;
  w[1] = v.y;
  w[2] = v.z;
  w[3] = v.w;
}

__device__ __forceinline__ float cast_at_load(float value, uint8_t cast) {
  if (cast == static_cast<uint8_t>(DType::kBF16)) return rounded<BF16>(value);
  if (cast == static_cast<uint8_t>(DType::kF16)) return rounded<F16>(value);
  return value;
}

__device__ __forceinline__ void expand(const Raw& raw, const Source& s, float (&x)[kVector]) {
  uint32_t a[4];
  words_of(raw.a, a);
  if (s.dtype == static_cast<uint8_t>(DType::kBF16)) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      x[2 * k] = float_of(a[k] << 16);
      x[2 * k + 1] = float_of(a[k] & 0xFFFF0000u);
    }
  } else if (s.dtype == static_cast<uint8_t>(DType::kF16)) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      x[2 * k] = to_float(F16{static_cast<uint16_t>(a[k])});
      x[2 * k + 1] = to_float(F16{static_cast<uint16_t>(a[k] >> 16)});
    }
  } else {
    uint32_t b[4];
    words_of(raw.b, b);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      x[k] = float_of(a[k]);
      x[k + 4] = float_of(b[k]);
    }
  }
  if (s.cast != s.dtype) {
#pragma unroll
    for (int k = 0; k < kVector; ++k) x[k] = cast_at_load(x[k], s.cast);
  }
}

__device__ __forceinline__ void store(const float (&x)[kVector], void* out, uint8_t dtype,
                                      int64_t pos) {
  uint32_t w[4];
  if (dtype == static_cast<uint8_t>(DType::kF32)) {
    uint4* to = reinterpret_cast<uint4*>(static_cast<uint32_t*>(out) + pos);
    to[0] =
        make_uint4(to_bits<F32>(x[0]), to_bits<F32>(x[1]), to_bits<F32>(x[2]), to_bits<F32>(x[3]));
    to[1] =
        make_uint4(to_bits<F32>(x[4]), to_bits<F32>(x[5]), to_bits<F32>(x[6]), to_bits<F32>(x[7]));
    return;
  }
  if (dtype == static_cast<uint8_t>(DType::kBF16)) {
#pragma unroll
    for (int k = 0; k < 4; ++k)
      w[k] = bf16_in_high_half(x[2 * k]) >> 16 | (bf16_in_high_half(x[2 * k + 1]) & 0xFFFF0000u);
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) w[k] = to_bits<F16>(x[2 * k]) | to_bits<F16>(x[2 * k + 1]) << 16;
  }
  *reinterpret_cast<uint4*>(static_cast<uint16_t*>(out) + pos) = make_uint4(w[0], w[1], w[2], w[3]);
}

// One element, wherever it lies.
__device__ __forceinline__ float load_one(const Source& s, int64_t pos) {
  float value;
  if (s.dtype == static_cast<uint8_t>(DType::kBF16))
    value = to_float(static_cast<const BF16*>(s.data)[pos]);
  else if (s.dtype == static_cast<uint8_t>(DType::kF16))
    value = to_float(static_cast<const F16*>(s.data)[pos]);
  else
    value = to_float(static_cast<const F32*>(s.data)[pos]);
  return s.cast == s.dtype ? value : cast_at_load(value, s.cast);
}

__device__ __forceinline__ void store_one(float value, void* out, uint8_t dtype, int64_t pos) {
  if (dtype == static_cast<uint8_t>(DType::kBF16))
    static_cast<uint16_t*>(out)[pos] = static_cast<uint16_t>(to_bits<BF16>(value));
  else if (dtype == static_cast<uint8_t>(DType::kF16))
    static_cast<uint16_t*>(out)[pos] = static_cast<uint16_t>(to_bits<F16>(value));
  else
    static_cast<uint32_t*>(out)[pos] = to_bits<F32>(value);
}

}  // namespace mergesafe::cuda
