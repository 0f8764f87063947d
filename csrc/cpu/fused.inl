// The fused combinations of core/fused.h over chunks. Once per instruction set.
#pragma once

#include <cstdint>

#include "core/fused.h"
#include "cpu/kernels.h"
#include "cpu/load.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

template <class Fused>
void fused_chunk(const float* base, const float* x, const float* coefficients, int n,
                 float* __restrict__ out) {
  float c[Fused::kCoefficients];
  for (int i = 0; i < Fused::kCoefficients; ++i) c[i] = coefficients[i];
  for (int j = 0; j < n; ++j) {
    float row[Fused::kInputs];
    for (int i = 0; i < Fused::kInputs; ++i) row[i] = x[i * kChunk + j];
    out[j] = Fused::element(base[j], row, c);
  }
}

template <class Fused>
Flags fused(const FusedJob& job, int64_t begin, int64_t end) {
  float* base = thread_scratch((2 + Fused::kInputs) * kChunk);
  float *out = base + kChunk, *x = base + 2 * kChunk;
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    for (int i = 0; i < Fused::kInputs; ++i)
      flags |= flag(i + 1, load(job.inputs[i], pos, n, job.zero_nonfinite, x + i * kChunk));
    fused_chunk<Fused>(base, x, job.coefficients, n, out);
    if (store(out, n, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}

template <class... Fused>
constexpr FusedTable fused_table(FusedKernels<Fused...>) {
  return {{fused<Fused>...}};
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
