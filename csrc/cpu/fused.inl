// The fused combinations of core/fused.h over chunks. Once per instruction set.
#pragma once

#include <cstdint>

#include "core/fused.h"
#include "cpu/kernels.h"
#include "cpu/load.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

template <class Fused>
struct Coefficients {
  float values[Fused::kCoefficients];

  explicit Coefficients(const float* given) {
    for (int i = 0; i < Fused::kCoefficients; ++i) values[i] = given[i];
  }
};

template <class Fused>
void fused_chunk(const float* base, const float* x, const Coefficients<Fused>& given, int n,
                 float* __restrict__ out) {
  const Coefficients<Fused> c = given;
  for (int j = 0; j < n; ++j) {
    float row[Fused::kInputs];
    for (int i = 0; i < Fused::kInputs; ++i) row[i] = x[i * kChunk + j];
    out[j] = Fused::element(base[j], row, c.values);
  }
}

template <class Fused>
void fused_pairs(const BF16* base, const BF16* const* rows, const Coefficients<Fused>& given, int n,
                 BF16* to) {
  const Coefficients<Fused> c = given;
  const Pair* b = reinterpret_cast<const Pair*>(base);
  const Pair* x[Fused::kInputs];
  for (int i = 0; i < Fused::kInputs; ++i) x[i] = reinterpret_cast<const Pair*>(rows[i]);
  Pair* __restrict__ out = reinterpret_cast<Pair*>(to);
  float low[Fused::kInputs], high[Fused::kInputs];
  for (int j = 0; j < n / 2; ++j) {
    for (int i = 0; i < Fused::kInputs; ++i) {
      low[i] = even(x[i][j]);
      high[i] = odd(x[i][j]);
    }
    out[j] = make_pair(Fused::element(even(b[j]), low, c.values),
                       Fused::element(odd(b[j]), high, c.values));
  }
  if (n % 2 == 0) return;
  for (int i = 0; i < Fused::kInputs; ++i) low[i] = to_float(rows[i][n - 1]);
  const float last = Fused::element(to_float(base[n - 1]), low, c.values);
  to[n - 1].bits = static_cast<uint16_t>(to_bits<BF16>(last));
}

// One chunk of bfloat16 where it lies; its values are looked at last, from the cache.
template <class Fused>
Flags fused_direct(const FusedJob& job, const Coefficients<Fused>& c, int64_t pos, int n) {
  constexpr int N = Fused::kInputs;
  BF16* out = static_cast<BF16*>(job.out.data) + pos;
  const BF16* all[N + 2] = {bf16_at(job.base, pos)};
  for (int i = 0; i < N; ++i) all[i + 1] = bf16_at(job.inputs[i], pos);
  all[N + 1] = out;
  fused_pairs<Fused>(all[0], all + 1, c, n, out);
  if (!any_nonfinite<N + 2>(all, n)) return 0;
  Flags flags = any_nonfinite(out, n) ? kOutputFlag : 0;
  for (int i = 0; i <= N; ++i) flags |= flag(i, any_nonfinite(all[i], n));
  return flags;
}

// A fold over any number of inputs: one row of them after the other meets the row of states.
template <class Fused>
void fold_first(const float* base, const float* x, int n, float* __restrict__ state) {
  for (int j = 0; j < n; ++j) state[j] = Fused::first(base[j], x[j]);
}

template <class Fused>
void fold_next(const float* base, const float* x, int n, float* __restrict__ state) {
  for (int j = 0; j < n; ++j) state[j] = Fused::next(state[j], base[j], x[j]);
}

template <class Fused>
void fold_last(const float* base, const Coefficients<Fused>& given, int n,
               float* __restrict__ state) {
  const Coefficients<Fused> c = given;
  for (int j = 0; j < n; ++j) state[j] = Fused::last(state[j], base[j], c.values);
}

template <class Fused>
Flags folded(const FusedJob& job, int64_t begin, int64_t end) {
  const Coefficients<Fused> c(job.coefficients);
  float* base = thread_scratch(3 * kChunk);
  float *state = base + kChunk, *x = base + 2 * kChunk;
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    for (int i = 0; i < job.count; ++i) {
      flags |= flag(i + 1, load(job.inputs[i], pos, n, job.zero_nonfinite, x));
      i == 0 ? fold_first<Fused>(base, x, n, state) : fold_next<Fused>(base, x, n, state);
    }
    fold_last<Fused>(base, c, n, state);
    if (store(state, n, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}

template <class Fused>
Flags of_fixed(const FusedJob& job, int64_t begin, int64_t end) {
  const Coefficients<Fused> c(job.coefficients);
  float* base = thread_scratch((2 + Fused::kInputs) * kChunk);
  float *out = base + kChunk, *x = base + 2 * kChunk;
  bool direct = is_bf16(job.base) && job.out.dtype == DType::kBF16 && !job.zero_nonfinite;
  for (int i = 0; i < Fused::kInputs; ++i) direct = direct && is_bf16(job.inputs[i]);
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    if (direct) {
      flags |= fused_direct<Fused>(job, c, pos, n);
      continue;
    }
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    for (int i = 0; i < Fused::kInputs; ++i)
      flags |= flag(i + 1, load(job.inputs[i], pos, n, job.zero_nonfinite, x + i * kChunk));
    fused_chunk<Fused>(base, x, c, n, out);
    if (store(out, n, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}

template <class Fused>
Flags fused(const FusedJob& job, int64_t begin, int64_t end) {
  if constexpr (Fused::kInputs == kAnyInputs)
    return folded<Fused>(job, begin, end);
  else
    return of_fixed<Fused>(job, begin, end);
}

template <class... Fused>
constexpr FusedTable fused_table(FusedKernels<Fused...>) {
  return {{fused<Fused>...}};
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
