// The tile functions of core/tile.h. Once per instruction set.
#pragma once

#include <cstdint>

#include "core/tile.h"
#include "cpu/kernels.h"
#include "cpu/load.inl"
#include "cpu/stock.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

// The sum of n values, which are lost, by halves as in row_sum() of ops/tiles.py.
inline double sum_by_halves(double* values, int n) {
  if (n == 0) return 0.0;
  for (int left = n; left > 1; left = left / 2 + left % 2) {
    const int half = left / 2;
    add_halves(values, half);
    if (left % 2 == 1) values[half] = values[2 * half];
  }
  return values[0];
}

// Floats in the order of their value; of NaN it is the largest or the least.
MS_FN int32_t ordered(uint32_t bits) {
  const int32_t word = static_cast<int32_t>(bits);
  return word ^ ((word >> 31) & 0x7FFFFFFF);
}

// As whole numbers, because a maximum of floats has an order that loops must keep.
inline float largest_of(const float* x, int n) {
  int32_t largest = ordered(bits_of(x[0]));
  for (int j = 0; j < n; ++j) {
    const int32_t value = ordered(bits_of(x[j]));
    largest = value > largest ? value : largest;
  }
  return float_of(static_cast<uint32_t>(ordered(static_cast<uint32_t>(largest))));
}

inline void powers_of(const float* x, double shift, int n, double* __restrict__ out,
                      double* __restrict__ again) {
  for (int j = 0; j < n; ++j) {
    out[j] = exp_of(static_cast<double>(x[j]) - shift);
    again[j] = out[j];
  }
}

inline void share_out(double by, int n, double* __restrict__ values) {
  for (int j = 0; j < n; ++j) values[j] = values[j] * by + kTinyShare;
}

// `out`: exp of x less its largest, shared out, and a tiny share more. `room` has n values.
inline void softmax(const float* x, int n, double* out, double* room) {
  powers_of(x, static_cast<double>(largest_of(x, n)), n, out, room);
  share_out(1.0 / sum_by_halves(room, n), n, out);
}

inline void divergence_terms(const double* q, int n, double* __restrict__ p) {
  for (int j = 0; j < n; ++j) p[j] = log_ratio(p[j], q[j]) * p[j];
}

inline void distances(const float* x, const float* base, float by, int n, float* __restrict__ out) {
  for (int j = 0; j < n; ++j) out[j] = std::fabs(x[j] - base[j]) * by;
}

// Rows of job.columns elements.
Flags arcee_importance(const TileJob& job, int64_t begin, int64_t end) {
  if (begin == end) return 0;
  const int columns = static_cast<int>(job.columns);
  const int64_t room = (job.columns + 15) / 16 * 16;
  double* p = reinterpret_cast<double*>(thread_scratch(9 * room));
  double *q = p + room, *sums = q + room;
  float *base = reinterpret_cast<float*>(sums + room), *x = base + room, *out = x + room;
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += columns) {
    flags |= flag(0, load(job.base, pos, columns, job.zero_nonfinite, base));
    flags |= flag(1, load(job.inputs[0], pos, columns, job.zero_nonfinite, x));
    softmax(x, columns, p, sums);
    softmax(base, columns, q, sums);
    divergence_terms(q, columns, p);
    distances(x, base, static_cast<float>(sum_by_halves(p, columns)), columns, out);
    if (store(out, columns, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}

inline void fuse(const float* base, const float* x, const float* importance, float threshold, int n,
                 float* __restrict__ out) {
  for (int j = 0; j < n; ++j) out[j] = arcee_fused(base[j], x[j], importance[j], threshold);
}

Flags arcee_fused_tile(const TileJob& job, int64_t begin, int64_t end) {
  float* base = thread_scratch(3 * kChunk);
  float *x = base + kChunk, *out = x + kChunk;
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    flags |= flag(1, load(job.inputs[0], pos, n, job.zero_nonfinite, x));
    fuse(base, x, job.scores[0] + pos, job.settings[0], n, out);
    if (store(out, n, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}

inline void add_tau(const float* base, float* __restrict__ x, int n, double* __restrict__ total) {
  for (int j = 0; j < n; ++j) {
    x[j] = x[j] - base[j];
    total[j] = total[j] + static_cast<double>(x[j]);
  }
}

inline void pcb_scores(const float* tau, const double* total, PcbBounds bounds, int count, int n,
                       float* __restrict__ out) {
  for (int j = 0; j < n; ++j) out[j] = pcb_score(tau[j], total[j], bounds, count);
}

// Settings: the number of the expert, and the bounds of its magnitudes.
Flags pcb_score_tile(const TileJob& job, int64_t begin, int64_t end) {
  double* total = reinterpret_cast<double*>(thread_scratch(6 * kChunk));
  float* base = reinterpret_cast<float*>(total + kChunk);
  float *x = base + kChunk, *tau = x + kChunk, *out = tau + kChunk;
  const int number = static_cast<int>(job.settings[0]);
  const PcbBounds bounds{job.settings[1], job.settings[2]};
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    for (int j = 0; j < n; ++j) total[j] = 0.0;  // scalar loop: memset
    for (int i = 0; i < job.count; ++i) {
      float* to = i == number ? tau : x;
      flags |= flag(i + 1, load(job.inputs[i], pos, n, job.zero_nonfinite, to));
      add_tau(base, to, n, total);
    }
    pcb_scores(tau, total, bounds, job.count, n, out);
    if (store(out, n, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}

// Of one expert: its bounds, the least score that counts and how far they spread, its weight.
struct PcbExpert {
  PcbBounds bounds;
  float least, spread, weight;

  explicit PcbExpert(const float* c)
      : bounds{c[0], c[1]},
        least(c[2]),
        spread(static_cast<float>(static_cast<double>(c[3]) - static_cast<double>(c[2]))),
        weight(c[4]) {}
};

inline void add_expert(const float* base, const float* x, const float* score,
                       const PcbExpert& given, int n, float* __restrict__ total,
                       float* __restrict__ shares) {
  const PcbExpert e = given;
  for (int j = 0; j < n; ++j) {
    const float share = pcb_share(score[j], e.least, e.spread);
    total[j] = total[j] + e.weight * (share * pcb_change(x[j] - base[j], e.bounds));
    shares[j] = shares[j] + share;
  }
}

inline void finish_pcb(const float* base, const float* total, const float* shares, float factor,
                       int n, float* __restrict__ out) {
  for (int j = 0; j < n; ++j) out[j] = pcb_merged(base[j], total[j], shares[j], factor);
}

// Settings: lambda, then of every expert what a PcbExpert is made of.
Flags pcb_balanced_tile(const TileJob& job, int64_t begin, int64_t end) {
  float* base = thread_scratch(5 * kChunk);
  float *x = base + kChunk, *total = x + kChunk, *shares = total + kChunk, *out = shares + kChunk;
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    for (int j = 0; j < n; ++j) total[j] = 0.0f;   // scalar loop: memset
    for (int j = 0; j < n; ++j) shares[j] = 0.0f;  // scalar loop: memset
    for (int i = 0; i < job.count; ++i) {
      flags |= flag(i + 1, load(job.inputs[i], pos, n, job.zero_nonfinite, x));
      add_expert(base, x, job.scores[i] + pos, PcbExpert(job.settings + 1 + 5 * i), n, total,
                 shares);
    }
    finish_pcb(base, total, shares, job.settings[0], n, out);
    if (store(out, n, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}

// In the order of kTileShapes.
constexpr TileTable kTileTable = {
    {arcee_importance, arcee_fused_tile, pcb_score_tile, pcb_balanced_tile}};

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
