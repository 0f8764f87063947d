// The sixteen float64 lanes of a sum (core/reduce.h) in registers. Once per instruction set.
#pragma once

#include <cstdint>

#include "core/reduce.h"
#include "cpu/intrinsics.h"

namespace mergesafe::cpu::MS_ISA {
namespace {

// Fused where the instruction set can: the product of two float32 is exact in float64, so that the
// sum is rounded once either way.
struct Lanes {
#if defined(__AVX512F__)
  using Part = __m512d;
  static constexpr int kPart = 8, kRegisters = 32;
  static Part read(const double* x) { return _mm512_loadu_pd(x); }
  static void write(double* x, Part v) { _mm512_storeu_pd(x, v); }
  static Part wide(const float* x) { return _mm512_cvtps_pd(_mm256_loadu_ps(x)); }
  static Part fused(Part a, Part b, Part c) { return _mm512_fmadd_pd(a, b, c); }
#elif defined(__FMA__)
  using Part = __m256d;
  static constexpr int kPart = 4, kRegisters = 16;
  static Part read(const double* x) { return _mm256_loadu_pd(x); }
  static void write(double* x, Part v) { _mm256_storeu_pd(x, v); }
  static Part wide(const float* x) { return _mm256_cvtps_pd(_mm_loadu_ps(x)); }
  static Part fused(Part a, Part b, Part c) { return _mm256_fmadd_pd(a, b, c); }
#elif defined(__SSE2__)
  using Part = __m128d;
  static constexpr int kPart = 2, kRegisters = 16;
  static Part read(const double* x) { return _mm_loadu_pd(x); }
  static void write(double* x, Part v) { _mm_storeu_pd(x, v); }
  static Part wide(const float* x) {
    return _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x))));
  }
  static Part fused(Part a, Part b, Part c) { return _mm_add_pd(c, _mm_mul_pd(a, b)); }
#else
  using Part = double;
  static constexpr int kPart = 1, kRegisters = 32;
  static Part read(const double* x) { return *x; }
  static void write(double* x, Part v) { *x = v; }
  static Part wide(const float* x) { return static_cast<double>(*x); }
  static Part fused(Part a, Part b, Part c) { return c + a * b; }
#endif
  static constexpr int kParts = kReduceLanes / kPart;
  Part part[kParts];
};

// Adds x[j] * y[j] to lane j % 16.
inline void add_products(const float* x, const float* y, int n, double* lanes) {
  Lanes sums;
  for (int p = 0; p < Lanes::kParts; ++p) sums.part[p] = Lanes::read(lanes + p * Lanes::kPart);
  int j = 0;
  for (; j + kReduceLanes <= n; j += kReduceLanes) {
    for (int p = 0; p < Lanes::kParts; ++p) {
      const int at = j + p * Lanes::kPart;
      sums.part[p] = Lanes::fused(Lanes::wide(x + at), Lanes::wide(y + at), sums.part[p]);
    }
  }
  for (int p = 0; p < Lanes::kParts; ++p) Lanes::write(lanes + p * Lanes::kPart, sums.part[p]);
  for (int lane = 0; j < n; ++j, ++lane)
    lanes[lane] = lanes[lane] + static_cast<double>(x[j]) * static_cast<double>(y[j]);
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
