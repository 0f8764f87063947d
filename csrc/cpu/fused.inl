// The fused combinations of core/fused.h over chunks. Once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/fused.h"
#include "cpu/kernels.h"
#include "cpu/load.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

// An Element gives one element of a fixed number of inputs: FixedElement or FoldElement.
template <class Element>
void fused_chunk(const float* base, const float* x, const Element& given, int n,
                 float* __restrict__ out) {
  const Element element = given;
  for (int j = 0; j < n; ++j) {
    float row[Element::kInputs];
    for (int i = 0; i < Element::kInputs; ++i) row[i] = x[i * kChunk + j];
    out[j] = element(base[j], row);
  }
}

template <class Element>
void fused_pairs(const BF16* base, const BF16* const* rows, const Element& given, int n, BF16* to) {
  const Element element = given;
  const Pair* b = reinterpret_cast<const Pair*>(base);
  const Pair* x[Element::kInputs];
  for (int i = 0; i < Element::kInputs; ++i) x[i] = reinterpret_cast<const Pair*>(rows[i]);
  Pair* __restrict__ out = reinterpret_cast<Pair*>(to);
  float low[Element::kInputs], high[Element::kInputs];
  for (int j = 0; j < n / 2; ++j) {
    for (int i = 0; i < Element::kInputs; ++i) {
      low[i] = even(x[i][j]);
      high[i] = odd(x[i][j]);
    }
    out[j] = make_pair(element(even(b[j]), low), element(odd(b[j]), high));
  }
  if (n % 2 == 0) return;
  for (int i = 0; i < Element::kInputs; ++i) low[i] = to_float(rows[i][n - 1]);
  const float last = element(to_float(base[n - 1]), low);
  to[n - 1].bits = static_cast<uint16_t>(to_bits<BF16>(last));
}

// One chunk of bfloat16 where it lies; its values are looked at last, from the cache.
template <class Element>
Flags fused_direct(const FusedJob& job, const Element& element, int64_t pos, int n) {
  constexpr int N = Element::kInputs;
  BF16* out = static_cast<BF16*>(job.out.data) + pos;
  const BF16* all[N + 2] = {bf16_at(job.base, pos)};
  for (int i = 0; i < N; ++i) all[i + 1] = bf16_at(job.inputs[i], pos);
  all[N + 1] = out;
  fused_pairs(all[0], all + 1, element, n, out);
  if (!any_nonfinite<N + 2>(all, n)) return 0;
  Flags flags = any_nonfinite(out, n) ? kOutputFlag : 0;
  for (int i = 0; i <= N; ++i) flags |= flag(i, any_nonfinite(all[i], n));
  return flags;
}

template <class Element>
Flags fused_elements(const FusedJob& job, int64_t begin, int64_t end) {
  const Element element(job.coefficients);
  float* base = thread_scratch((2 + Element::kInputs) * kChunk);
  float *out = base + kChunk, *x = base + 2 * kChunk;
  bool direct = is_bf16(job.base) && job.out.dtype == DType::kBF16 && !job.zero_nonfinite;
  for (int i = 0; i < Element::kInputs; ++i) direct = direct && is_bf16(job.inputs[i]);
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    if (direct) {
      flags |= fused_direct(job, element, pos, n);
      continue;
    }
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    for (int i = 0; i < Element::kInputs; ++i)
      flags |= flag(i + 1, load(job.inputs[i], pos, n, job.zero_nonfinite, x + i * kChunk));
    fused_chunk(base, x, element, n, out);
    if (store(out, n, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}

// A fold over any number of inputs: one row of them after the other meets the rows of states, which
// lie kChunk apart, as the tensors of an input do.
template <class Fold>
void fold_next(const float* base, const float* x, const InputCoefficients<Fold>& given, int n,
               float* __restrict__ states) {
  const InputCoefficients<Fold> c = given;
  for (int j = 0; j < n; ++j) {
    float state[Fold::kStates];
    for (int k = 0; k < Fold::kStates; ++k) state[k] = states[k * kChunk + j];
    take_next<Fold>(state, base[j], x + j, kChunk, c.values);
    for (int k = 0; k < Fold::kStates; ++k) states[k * kChunk + j] = state[k];
  }
}

template <class Fold>
void fold_again(const float* base, const float* x, const InputCoefficients<Fold>& given, int n,
                float* __restrict__ states) {
  const InputCoefficients<Fold> c = given;
  for (int j = 0; j < n; ++j) {
    float state[Fold::kStates];
    for (int k = 0; k < Fold::kStates; ++k) state[k] = states[k * kChunk + j];
    Fold::again(state, base[j], x[j], c.values);
    for (int k = 0; k < Fold::kStates; ++k) states[k * kChunk + j] = state[k];
  }
}

// The result lies in the first row of states.
template <class Fold>
void fold_last(const float* base, const SharedCoefficients<Fold>& given, int n,
               float* __restrict__ states) {
  const SharedCoefficients<Fold> c = given;
  for (int j = 0; j < n; ++j) {
    float state[Fold::kStates];
    for (int k = 0; k < Fold::kStates; ++k) state[k] = states[k * kChunk + j];
    states[j] = Fold::last(state, base[j], c.values);
  }
}

template <class Fold>
Flags folded(const FusedJob& job, int64_t begin, int64_t end) {
  const SharedCoefficients<Fold> shared(job.coefficients);
  float* base = thread_scratch((1 + Fold::kTensors + Fold::kStates) * kChunk);
  float *x = base + kChunk, *states = x + Fold::kTensors * kChunk;
  const int inputs = job.count / Fold::kTensors;
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    const auto take = [&](int i) {
      for (int t = 0; t < Fold::kTensors; ++t) {
        const int number = t * inputs + i;
        flags |=
            flag(number + 1, load(job.inputs[number], pos, n, job.zero_nonfinite, x + t * kChunk));
      }
      return InputCoefficients<Fold>(job.coefficients, i);
    };
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    std::memset(states, 0, Fold::kStates * kChunk * sizeof(float));
    for (int i = 0; i < inputs; ++i) fold_next<Fold>(base, x, take(i), n, states);
    if constexpr (Fold::kSweeps == 2)
      for (int i = 0; i < inputs; ++i) fold_again<Fold>(base, x, take(i), n, states);
    fold_last<Fold>(base, shared, n, states);
    if (store(states, n, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}

template <class Fused>
Flags fused(const FusedJob& job, int64_t begin, int64_t end) {
  if constexpr (Fused::kInputs != kAnyInputs) {
    return fused_elements<FixedElement<Fused>>(job, begin, end);
  } else {
    switch (job.count / Fused::kTensors) {
      case 1: return fused_elements<FoldElement<Fused, 1>>(job, begin, end);
      case 2: return fused_elements<FoldElement<Fused, 2>>(job, begin, end);
      case 3: return fused_elements<FoldElement<Fused, 3>>(job, begin, end);
      case 4: return fused_elements<FoldElement<Fused, 4>>(job, begin, end);
      default: return folded<Fused>(job, begin, end);
    }
  }
}

template <class... Fused>
constexpr FusedTable fused_table(FusedKernels<Fused...>) {
  return {{fused<Fused>...}};
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
