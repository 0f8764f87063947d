// Sums of a gradient with inputs and with task vectors, per block. Once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/gradient.h"
#include "core/reduce.h"
#include "cpu/avx512_gradient.inl"
#include "cpu/kernels.h"
#include "cpu/lanes.inl"
#include "cpu/load.inl"
#include "cpu/masks.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

constexpr int kGradientChunk = 512;  // all rows of a few experts stay in the first-level cache

// The rows of a chunk.
struct GradientRows {
  float *grad, *base, *total, *divisor;
  uint32_t* masks;
  float* x;  // a row per expert: first its values, then u_i, then what the gradient multiplies

  static int64_t floats(int64_t count) { return (5 + count) * kGradientChunk; }
  explicit GradientRows(float* scratch)
      : grad(scratch),
        base(grad + kGradientChunk),
        total(base + kGradientChunk),
        divisor(total + kGradientChunk),
        masks(reinterpret_cast<uint32_t*>(divisor + kGradientChunk)),
        x(divisor + 2 * kGradientChunk) {}
  float* expert(int i) const { return x + static_cast<int64_t>(i) * kGradientChunk; }
};

// Makes u_i of every expert's values.
inline void keep_deltas(const GradientJob& job, const GradientRows& rows, int64_t pos, int n) {
  const float* base = rows.base;
  uint32_t* masks = rows.masks;
  for (int i = 0; i < job.count; ++i) {
    const TaskVector& v = job.vectors[i];
    float* u = rows.expert(i);
    load(v.input, pos, n, false, u);
    keep_masks(v, base, u, job.offset + pos, n, masks);
    const float rescale = v.rescale;
    for (int j = 0; j < n; ++j) u[j] = kept_delta(masks[j] != 0, u[j] - base[j], rescale);
  }
}

// Makes of the masks what agrees() wants to know.
template <Elect kElect>
void elect_signs(const GradientJob& job, const GradientRows& rows, int n) {
  constexpr FixedRule<kElect, false> rule{};
  float* total = rows.total;
  std::memset(total, 0, n * sizeof(float));
  for (int i = 0; i < job.count; ++i) {
    const float weight = job.vectors[i].weight;
    const float* u = rows.expert(i);
    for (int j = 0; j < n; ++j) total[j] = vote(rule, total[j], u[j] * weight);
  }
  uint32_t* flip = rows.masks;
  for (int j = 0; j < n; ++j) flip[j] = elected_flip(total[j]);
}

// Makes shares of the divisors, means of the totals, and of the base what is subtracted.
inline void divide_by_weights(const GradientJob& job, const GradientRows& rows, int n) {
  const float* grad = rows.grad;
  const uint32_t* flip = rows.masks;
  float *base = rows.base, *total = rows.total, *weights = rows.divisor;
  std::memset(total, 0, n * sizeof(float));
  std::memset(weights, 0, n * sizeof(float));
  for (int i = 0; i < job.count; ++i) {
    const float weight = job.vectors[i].weight;
    const float* u = rows.expert(i);
    for (int j = 0; j < n; ++j) agree(u[j] * weight, weight, flip[j], total[j], weights[j]);
  }
  for (int j = 0; j < n; ++j) {
    const Shares s = divided(grad[j], total[j], weights[j], flip[j]);
    weights[j] = s.share;
    total[j] = s.mean;
    base[j] = s.less;
  }
}

// One chunk of inputs of any dtype, count and alignment, through float32 rows.
inline void gradient_loaded(const GradientJob& job, const GradientRows& rows, int64_t pos, int n,
                            double* lanes) {
  load(job.grad, pos, n, false, rows.grad);
  load(job.base, pos, n, false, rows.base);
  keep_deltas(job, rows, pos, n);
  if (job.elect == Elect::kNone) {
    for (int i = 0; i < job.count; ++i)
      add_products(rows.grad, rows.expert(i), n, lanes + i * kReduceLanes);
    return;
  }
  if (job.elect == Elect::kSum)
    elect_signs<Elect::kSum>(job, rows, n);
  else
    elect_signs<Elect::kCount>(job, rows, n);
  float* less = rows.base;
  if (job.normalize)
    divide_by_weights(job, rows, n);
  else
    std::memset(less, 0, n * sizeof(float));
  const uint32_t* flip = rows.masks;
  const float* share = job.normalize ? rows.divisor : rows.grad;
  for (int i = 0; i < job.count; ++i) {
    const float weight = job.vectors[i].weight;
    float* u = rows.expert(i);
    for (int j = 0; j < n; ++j) u[j] = term(agrees(u[j] * weight, flip[j]), u[j], less[j]);
    add_products(share, u, n, lanes + i * kReduceLanes);
  }
  if (job.normalize) add_products(rows.grad, rows.total, n, lanes + job.count * kReduceLanes);
}

inline bool all_bf16(const GradientJob& job) {
  bool all = is_bf16(job.grad) && is_bf16(job.base);
  for (int i = 0; i < job.count; ++i) all = all && is_bf16(job.vectors[i].input);
  return all;
}

// Adds the elements from pos to stop that pairs take; returns where they end.
inline int64_t add_pairs(GradientPairs pairs, Keep keep, const GradientJob& job, int64_t pos,
                         int64_t stop, uint32_t* masks, double* lanes) {
  const int64_t end = stop - (stop - pos) % kPairStep;
  const int64_t step = keep == Keep::kMasks ? kChunk : kReduceBlock;
  for (; pos < end; pos += step) {
    const int n = static_cast<int>(end - pos < step ? end - pos : step);
    GradientFrom<BF16> from{bf16_at(job.grad, pos), bf16_at(job.base, pos), {}};
    for (int i = 0; i < job.count; ++i) {
      const TaskVector& v = job.vectors[i];
      from.x[i] = bf16_at(v.input, pos);
      if (keep == Keep::kMasks)
        keep_pairs(v, from.base, from.x[i], job.offset + pos, n, masks + i * kChunk);
    }
    pairs(job, from, n, masks, lanes);
  }
  return end;
}

// The values of [pos, pos + n): where they lie, or converted into `room`.
inline const float* floats_at(const Input& input, int64_t pos, int n, float* room) {
  if (input.dtype == DType::kF32 && input.cast == DType::kF32)
    return static_cast<const float*>(input.data) + pos;
  load(input, pos, n, false, room);
  return room;
}

// The same for elements of any dtype.
inline int64_t add_floats(GradientFloats floats, Keep keep, const GradientJob& job,
                          const GradientRows& rows, int64_t pos, int64_t stop, uint32_t* masks,
                          double* lanes) {
  const int64_t end = stop - (stop - pos) % kPairStep;
  for (; pos < end; pos += kGradientChunk) {
    const int n = static_cast<int>(end - pos < kGradientChunk ? end - pos : kGradientChunk);
    GradientFrom<float> from{
        floats_at(job.grad, pos, n, rows.grad), floats_at(job.base, pos, n, rows.base), {}};
    for (int i = 0; i < job.count; ++i) {
      const TaskVector& v = job.vectors[i];
      from.x[i] = floats_at(v.input, pos, n, rows.expert(i));
      if (keep == Keep::kMasks)
        keep_masks(v, from.base, from.x[i], job.offset + pos, n, masks + i * kChunk);
    }
    floats(job, from, n, masks, lanes);
  }
  return end;
}

void merge_gradient(const GradientJob& job, int64_t begin, int64_t end, double* sums) {
  const Keep keep = keep_of(job);
  const bool aligned = keep != Keep::kMasks || (job.offset + begin) % kPhiloxGroup == 0;
  const GradientPairs pairs = aligned && all_bf16(job) ? gradient_kernel<BF16>(job, keep) : nullptr;
  const GradientFloats floats = pairs == nullptr ? gradient_kernel<float>(job, keep) : nullptr;
  const int64_t stride = job.count + 1, room = 2 * stride * kReduceLanes;
  const int64_t values = GradientRows::floats(job.count);
  float* scratch = thread_scratch(room + values + static_cast<int64_t>(job.count) * kChunk);
  double* lanes = reinterpret_cast<double*>(scratch);
  const GradientRows rows(scratch + room);
  uint32_t* masks = reinterpret_cast<uint32_t*>(scratch + room + values);
  for (int64_t block = begin; block < end; block += kReduceBlock) {
    const int64_t stop = end - block < kReduceBlock ? end : block + kReduceBlock;
    std::memset(lanes, 0, room * sizeof(float));
    int64_t pos = block;
    if (pairs != nullptr)
      pos = add_pairs(pairs, keep, job, pos, stop, masks, lanes);
    else if (floats != nullptr)
      pos = add_floats(floats, keep, job, rows, pos, stop, masks, lanes);
    for (; pos < stop; pos += kGradientChunk)
      gradient_loaded(job, rows, pos,
                      static_cast<int>(stop - pos < kGradientChunk ? stop - pos : kGradientChunk),
                      lanes);
    for (int64_t i = 0; i < stride; ++i) *sums++ = add_lanes(lanes + i * kReduceLanes);
  }
}

// Adds grad times 1 to kFixed inputs at [pos, pos + n) to their lanes; x has room for two rows.
inline void add_inner_products(const Input& grad, const Input* inputs, int count, int64_t pos,
                               int n, float* x, double* lanes) {
  const BF16* rows[kFixed];
  ProductPairs pairs = is_bf16(grad) ? product_pairs_of(count) : nullptr;
  for (int i = 0; i < count; ++i) {
    if (is_bf16(inputs[i]))
      rows[i] = bf16_at(inputs[i], pos);
    else
      pairs = nullptr;
  }
  const int paired = pairs != nullptr ? n - n % kPairStep : 0;
  if (paired > 0) pairs(bf16_at(grad, pos), rows, paired, lanes);
  if (paired == n) return;
  load(grad, pos + paired, n - paired, false, x);
  for (int i = 0; i < count; ++i) {
    load(inputs[i], pos + paired, n - paired, false, x + kReduceBlock);
    add_products(x, x + kReduceBlock, n - paired, lanes + i * kReduceLanes);
  }
}

void inner_products(const Input& grad, const Input* inputs, int count, int64_t begin, int64_t end,
                    double* sums) {
  float* x = thread_scratch(2 * kReduceBlock);
  for (int64_t pos = begin; pos < end; pos += kReduceBlock) {
    const int n = static_cast<int>(end - pos < kReduceBlock ? end - pos : kReduceBlock);
    for (int first = 0; first < count; first += kFixed) {
      const int some = count - first < kFixed ? count - first : kFixed;
      double lanes[kFixed * kReduceLanes] = {};
      add_inner_products(grad, inputs + first, some, pos, n, x, lanes);
      for (int i = 0; i < some; ++i) *sums++ = add_lanes(lanes + i * kReduceLanes);
    }
  }
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
