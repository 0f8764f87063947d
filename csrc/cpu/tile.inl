// The tile functions of core/tile.h. Once per instruction set.
#pragma once

#include <cstdint>

#include "core/tile.h"
#include "cpu/intrinsics.h"
#include "cpu/kernels.h"
#include "cpu/load.inl"
#include "cpu/stock.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

// The sum of n values, at least one, which are lost, by halves as in row_sum() of ops/tiles.py.
inline double sum_of_halves(double* values, int n) {
  for (int left = n; left > 1; left = left / 2 + left % 2) {
    const int half = left / 2;
    add_halves(values, half);
    if (left % 2 == 1) values[half] = values[2 * half];
  }
  return values[0];
}

inline void halve(const double* values, int n, double* __restrict__ out) {
  const double* high = values + n;
  for (int j = 0; j < n; ++j) out[j] = values[j] + high[j];
}

// The same of values that stay; `room` is for half of them.
inline double sum_by_halves(const double* values, int n, double* room) {
  const int half = n / 2;
  halve(values, half, room);
  if (n % 2 == 1) room[half] = values[2 * half];
  return sum_of_halves(room, half + n % 2);
}

// Floats in the order of their value; of NaN it is the largest or the least.
MS_FN int32_t ordered(uint32_t bits) {
  const int32_t word = static_cast<int32_t>(bits);
  return word ^ ((word >> 31) & 0x7FFFFFFF);
}

struct Ends {
  float least, most;
};

// As whole numbers, because a maximum of floats has an order that loops must keep. NaN is an end.
inline Ends ends_of(const float* x, int n) {
  int32_t least = ordered(bits_of(x[0])), most = least;
  for (int j = 0; j < n; ++j) {
    const int32_t value = ordered(bits_of(x[j]));
    least = value < least ? value : least;
    most = value > most ? value : most;
  }
  const auto back = [](int32_t value) {
    return float_of(static_cast<uint32_t>(ordered(static_cast<uint32_t>(value))));
  };
  return {back(least), back(most)};
}

// The largest distance; NaN where one is.
inline float farthest(const float* x, const float* base, int n) {
  int32_t most = 0;
  for (int j = 0; j < n; ++j) {
    const int32_t far = static_cast<int32_t>(bits_of(x[j] - base[j]) & kAbsMask);
    most = far > most ? far : most;
  }
  return float_of(static_cast<uint32_t>(most));
}

inline void powers_of(const float* x, double shift, int n, double* __restrict__ out) {
  for (int j = 0; j < n; ++j) out[j] = exp_of(static_cast<double>(x[j]) - shift);
}

inline void powers_near(const float* x, double shift, int n, double* __restrict__ out) {
  for (int j = 0; j < n; ++j) out[j] = exp_near_zero(static_cast<double>(x[j]) - shift);
}

// exp of the values of a row less the largest of them, and what makes shares of these.
struct Powers {
  const double* values;
  double by;
};

// Weights of a model mostly lie near each other, and then there is less to compute.
inline Powers powers_in(const float* x, int n, double* values, double* room) {
  const Ends ends = ends_of(x, n);
  const double most = static_cast<double>(ends.most);
  if (most - static_cast<double>(ends.least) <= kNearZero)
    powers_near(x, most, n, values);
  else
    powers_of(x, most, n, values);
  return {values, 1.0 / sum_by_halves(values, n, room)};
}

// Values at most so far from the base change no share by a factor beyond exp(0.2), which is 1.222.
constexpr float kNearBase = 0.1f;

// p log(p / q), of shares and a tiny one more.
template <bool kNear>
MS_FN double divergence_term(double x, double base, double by_x, double by_base) {
  const double p = x * by_x + kTinyShare, q = base * by_base + kTinyShare;
  return (kNear ? log_near_ratio(p, q) : log_ratio(p, q)) * p;
}

template <bool kNear>
void divergence_halves(const Powers& x, const Powers& base, int n, double* __restrict__ out) {
  const double *low = x.values, *high = low + n, *base_low = base.values, *base_high = base_low + n;
  const double by_x = x.by, by_base = base.by;
  for (int j = 0; j < n; ++j)
    out[j] = divergence_term<kNear>(low[j], base_low[j], by_x, by_base) +
             divergence_term<kNear>(high[j], base_high[j], by_x, by_base);
}

// Their sum over a row, rounded once.
inline float divergence_of(const Powers& x, const Powers& base, bool near, int n, double* room) {
  const int half = n / 2, last = 2 * half;
  if (near)
    divergence_halves<true>(x, base, half, room);
  else
    divergence_halves<false>(x, base, half, room);
  if (n % 2 == 1)
    room[half] = divergence_term<false>(x.values[last], base.values[last], x.by, base.by);
  return static_cast<float>(sum_of_halves(room, half + n % 2));
}

inline void distances(const float* x, const float* base, float by, int n, float* __restrict__ out) {
  for (int j = 0; j < n; ++j) out[j] = std::fabs(x[j] - base[j]) * by;
}

// Where the divergence of each row is kept, what comes again costs a product.
Flags arcee_importances(const TileScoreJob& job, int64_t begin, int64_t end) {
  if (begin == end) return 0;
  const int columns = static_cast<int>(job.columns);
  const int64_t room = (job.columns + 15) / 16 * 16;
  double* p = reinterpret_cast<double*>(thread_scratch(8 * room));
  double *q = p + room, *sums = q + room;
  float *base = reinterpret_cast<float*>(sums + room), *x = base + room;
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += columns) {
    flags |= flag(0, load(job.base, pos, columns, job.zero_nonfinite, base));
    flags |= flag(1, load(job.inputs[0], pos, columns, job.zero_nonfinite, x));
    float divergence;
    if (job.rows_known) {
      divergence = job.rows[pos / columns];
    } else {
      const Powers of_x = powers_in(x, columns, p, sums);
      const Powers of_base = powers_in(base, columns, q, sums);
      const bool near = farthest(x, base, columns) <= kNearBase;
      divergence = divergence_of(of_x, of_base, near, columns, sums);
      if (job.rows != nullptr) job.rows[pos / columns] = divergence;
    }
    for (int s = 0; s < job.score_count; ++s)
      distances(x, base, divergence, columns, job.scores[s].out + pos);
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

inline void pcb_nears(const float* tau, const float* total, const PcbScreen& of, int n,
                      float* __restrict__ out) {
  const PcbScreen screen = of;
  for (int j = 0; j < n; ++j) out[j] = pcb_near(tau[j], total[j], screen);
}

// The numbers of those that are not below the floor, NaN among them. Writes up to 15 more.
#if defined(__AVX512F__)
inline int at_least(const float* values, int n, float floor, int32_t* numbers) {
  const __m512 least = _mm512_set1_ps(floor);
  __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int size = 0;
  for (int j = 0; j < n; j += 16) {
    const __mmask16 there = n - j < 16 ? static_cast<__mmask16>((1u << (n - j)) - 1) : 0xFFFF;
    const __mmask16 in =
        _mm512_mask_cmp_ps_mask(there, _mm512_loadu_ps(values + j), least, _CMP_NLT_UQ);
    _mm512_storeu_si512(numbers + size, _mm512_maskz_compress_epi32(in, lane));
    size += __builtin_popcount(in);
    lane = _mm512_add_epi32(lane, _mm512_set1_epi32(16));
  }
  return size;
}
#else
inline int at_least(const float* values, int n, float floor, int32_t* numbers) {
  int size = 0;
  for (int j = 0; j < n; ++j) {  // scalar loop: no compress
    numbers[size] = j;
    size += !(values[j] < floor);
  }
  return size;
}
#endif

// N inputs, which lie kChunk apart, become task vectors.
template <int N>
void pcb_deltas(const float* base, float* __restrict__ x, int n, double* __restrict__ total) {
  for (int j = 0; j < n; ++j) {
    double sum = 0.0;
    for (int i = 0; i < N; ++i) {
      const float tau = x[i * kChunk + j] - base[j];
      x[i * kChunk + j] = tau;
      sum = sum + static_cast<double>(tau);
    }
    total[j] = sum;
  }
}

inline void pcb_deltas_of(const float* base, float* x, int count, int n, double* total) {
  switch (count) {
    case 1: return pcb_deltas<1>(base, x, n, total);
    case 2: return pcb_deltas<2>(base, x, n, total);
    case 3: return pcb_deltas<3>(base, x, n, total);
    case 4: return pcb_deltas<4>(base, x, n, total);
    default: break;
  }
  for (int j = 0; j < n; ++j) total[j] = 0.0;  // scalar loop: memset
  for (int i = 0; i < count; ++i) add_tau(base, x + int64_t{i} * kChunk, n, total);
}

inline void narrowed(const double* values, int n, float* __restrict__ out) {
  for (int j = 0; j < n; ++j) out[j] = static_cast<float>(values[j]);
}

// One chunk of task vectors, and what its scores need besides.
struct PcbChunk {
  double *total, *few_totals;
  float *base, *near_total, *near, *few, *found, *tau;
  int32_t* numbers;

  static int64_t floats(int count) { return (10 + int64_t{count}) * kChunk + 16; }
  PcbChunk(float* scratch, int count)
      : total(reinterpret_cast<double*>(scratch)),
        few_totals(total + kChunk),
        base(reinterpret_cast<float*>(few_totals + kChunk)),
        near_total(base + kChunk),
        near(near_total + kChunk),
        few(near + kChunk),
        found(few + kChunk),
        tau(found + kChunk),
        numbers(reinterpret_cast<int32_t*>(tau + int64_t{count} * kChunk)) {}

  Flags load_deltas(const TileScoreJob& job, int64_t pos, int n) {
    Flags flags = flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    for (int i = 0; i < job.count; ++i)
      flags |=
          flag(i + 1, load(job.inputs[i], pos, n, job.zero_nonfinite, tau + int64_t{i} * kChunk));
    pcb_deltas_of(base, tau, job.count, n, total);
    narrowed(total, n, near_total);
    return flags;
  }

  // The exact scores of those that may reach the floor; the others are 0.
  void screened(const float* t, PcbBounds bounds, float floor, int count, int n, float* out) {
    pcb_nears(t, near_total, PcbScreen(bounds, count), n, near);
    const int left = at_least(near, n, floor / kScreenMargin, numbers);
    for (int k = 0; k < left; ++k) {
      few[k] = t[numbers[k]];
      few_totals[k] = total[numbers[k]];
    }
    // Up to whole registers: what is left over would be computed one by one.
    const int padded = (left + 15) / 16 * 16;
    for (int k = left; k < padded; ++k) few[k] = 0.0f, few_totals[k] = 0.0;
    pcb_scores(few, few_totals, bounds, count, padded, found);
    for (int j = 0; j < n; ++j) out[j] = 0.0f;  // scalar loop: memset
    for (int k = 0; k < left; ++k) out[numbers[k]] = found[k];
  }
};

// Settings: the number of the expert, and the bounds of its magnitudes.
Flags pcb_scores_tile(const TileScoreJob& job, int64_t begin, int64_t end) {
  PcbChunk chunk(thread_scratch(PcbChunk::floats(job.count)), job.count);
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    flags |= chunk.load_deltas(job, pos, n);
    for (int s = 0; s < job.score_count; ++s) {
      const TileScore& score = job.scores[s];
      const float* tau = chunk.tau + static_cast<int64_t>(score.settings[0]) * kChunk;
      const PcbBounds bounds{score.settings[1], score.settings[2]};
      if (pcb_screens(score.floor, bounds, job.count))
        chunk.screened(tau, bounds, score.floor, job.count, n, score.out + pos);
      else
        pcb_scores(tau, chunk.total, bounds, job.count, n, score.out + pos);
    }
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

// In the order of kTileShapes and kTileScores.
constexpr TileTable kTileTable = {{arcee_fused_tile, pcb_balanced_tile},
                                  {arcee_importances, pcb_scores_tile}};

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
