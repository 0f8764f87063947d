// AVX-512: a gradient with up to kFixed experts, from rows to the lanes of the sums. Rows are all
// bfloat16 where they lie, or all float32, where they lie or as load() converted them. The
// arithmetic is that of core/gradient.h and core/element.h, with masks of lanes: written again,
// because what GCC makes of gradient.inl takes twice the time on such a processor (2.1 ns an
// element of three bfloat16 experts with election and normalisation, 1.1 ns here; AMD EPYC, GCC
// 12).
#pragma once

#include <cstdint>
#include <limits>

#include "core/element.h"
#include "core/job.h"
#include "core/reduce.h"
#include "cpu/intrinsics.h"
#include "cpu/load.inl"
#include "cpu/merge.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

// What is kept of every task vector: all of it, or magnitudes from a bound on, both with a rescale
// of 1; a window; what masks say.
enum class Keep { kWhole, kAbove, kWindow, kMasks };

inline Keep keep_of(const GradientJob& job) {
  Keep keep = Keep::kWhole;
  for (int i = 0; i < job.count; ++i) {
    const TaskVector& v = job.vectors[i];
    if (v.random) return Keep::kMasks;
    const bool above = v.lo <= kNaNMagnitude && v.hi >= kNaNMagnitude && v.rescale == 1.0f;
    if (!above) keep = Keep::kWindow;
    if (keep == Keep::kWhole && v.lo > 0) keep = Keep::kAbove;
  }
  return keep;
}

constexpr int kPairStep = 32;
constexpr int kHalf = kPairStep / 2;

// Where the elements of gradient, base and experts begin.
template <class T>
struct GradientFrom {
  const T *grad, *base, *x[kFixed];
};

// Adds n elements, a multiple of kPairStep, to the lanes of the sums.
template <class T>
using GradientKernel = void (*)(const GradientJob& job, const GradientFrom<T>& from, int n,
                                const uint32_t* masks, double* lanes);
using GradientPairs = GradientKernel<BF16>;
using GradientFloats = GradientKernel<float>;
using ProductPairs = void (*)(const BF16* grad, const BF16* const* rows, int n, double* lanes);

#if defined(__AVX512F__)
inline __m512i load_pairs(const BF16* row) { return _mm512_loadu_si512(row); }

// The even or the odd elements.
MS_FN __m512 half_of(__m512i pairs, int half) {
  const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u));
  return _mm512_castsi512_ps(half == 0 ? _mm512_slli_epi32(pairs, 16)
                                       : _mm512_and_si512(pairs, odd));
}

struct Doubles {
  __m512d low, high;
};

MS_FN Doubles widened(__m512 x) {
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(x)),
          _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))};
}

MS_FN Doubles load_widened(const float* x) {
  return {_mm512_cvtps_pd(_mm256_load_ps(x)), _mm512_cvtps_pd(_mm256_load_ps(x + 8))};
}

// The lanes of one sum, even and odd ones apart. Of the sixteen even elements of 32, the first
// eight belong to the even lanes and so do the last eight, in this order; the odd ones likewise.
struct PairLanes {
  __m512d half[2];

  MS_FN void read(const double* lanes) {
    const __m512d a = _mm512_loadu_pd(lanes), b = _mm512_loadu_pd(lanes + 8);
    half[0] = _mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), b);
    half[1] = _mm512_permutex2var_pd(a, _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15), b);
  }
  MS_FN void write(double* lanes) const {
    const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    const __m512i high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    _mm512_storeu_pd(lanes, _mm512_permutex2var_pd(half[0], low, half[1]));
    _mm512_storeu_pd(lanes + 8, _mm512_permutex2var_pd(half[0], high, half[1]));
  }
  MS_FN void add(int h, Doubles x, Doubles y) {
    half[h] = _mm512_fmadd_pd(x.low, y.low, half[h]);
    half[h] = _mm512_fmadd_pd(x.high, y.high, half[h]);
  }
};

// The lanes of one sum in order.
struct FloatLanes {
  __m512d half[2];

  MS_FN void read(const double* lanes) {
    half[0] = _mm512_loadu_pd(lanes);
    half[1] = _mm512_loadu_pd(lanes + 8);
  }
  MS_FN void write(double* lanes) const {
    _mm512_storeu_pd(lanes, half[0]);
    _mm512_storeu_pd(lanes + 8, half[1]);
  }
  MS_FN void add(int, Doubles x, Doubles y) {
    half[0] = _mm512_fmadd_pd(x.low, y.low, half[0]);
    half[1] = _mm512_fmadd_pd(x.high, y.high, half[1]);
  }
};

// Two registers of sixteen out of 32 elements from j on, and where their masks are: even and odd
// elements of bfloat16, and of float32 the first and the last.
template <class T>
struct Halves;

template <>
struct Halves<BF16> {
  using Lanes = PairLanes;
  static MS_FN __m512 read(const BF16* row, int j, int h) {
    return half_of(load_pairs(row + j), h);
  }
  static MS_FN int mask(int j, int h) { return j / 2 + h * (kChunk / 2); }
};

template <>
struct Halves<float> {
  using Lanes = FloatLanes;
  static MS_FN __m512 read(const float* row, int j, int h) {
    return _mm512_loadu_ps(row + j + h * kHalf);
  }
  static MS_FN int mask(int j, int h) { return j + h * kHalf; }
};

template <int N>
void product_pairs(const BF16* grad, const BF16* const* rows, int n, double* lanes) {
  PairLanes sums[N];
  for (int i = 0; i < N; ++i) sums[i].read(lanes + i * kReduceLanes);
  for (int j = 0; j < n; j += kPairStep) {
    for (int h = 0; h < 2; ++h) {
      const Doubles g = widened(half_of(load_pairs(grad + j), h));
      for (int i = 0; i < N; ++i) sums[i].add(h, g, widened(half_of(load_pairs(rows[i] + j), h)));
    }
  }
  for (int i = 0; i < N; ++i) sums[i].write(lanes + i * kReduceLanes);
}

// u_i of sixteen elements.
template <int N, Keep kKeep>
struct KeptDeltas {
  __m512 rescale[N];
  __m512i lo[N], span[N];

  explicit KeptDeltas(const GradientJob& job) {
    for (int i = 0; i < N; ++i) {
      const TaskVector& v = job.vectors[i];
      rescale[i] = _mm512_set1_ps(v.rescale);
      // An empty window becomes one that no magnitude is in.
      const Window w = window(v.lo, v.hi);
      const bool empty = w.hi < w.lo;
      lo[i] = _mm512_set1_epi32(empty ? std::numeric_limits<int32_t>::min() : w.lo);
      span[i] = _mm512_set1_epi32(empty ? 0 : w.hi - w.lo);
    }
  }

  MS_FN __m512 operator()(int i, __m512 delta, const uint32_t* masks) const {
    if (kKeep == Keep::kWhole) return delta;
    if (kKeep == Keep::kMasks) {
      const __m512i mask = _mm512_loadu_si512(masks + i * kChunk);
      return _mm512_maskz_mul_ps(_mm512_test_epi32_mask(mask, mask), delta, rescale[i]);
    }
    const __m512i magnitude =
        _mm512_and_si512(_mm512_castps_si512(delta), _mm512_set1_epi32(kAbsMask));
    if (kKeep == Keep::kAbove)
      return _mm512_maskz_mov_ps(_mm512_cmpge_epi32_mask(magnitude, lo[i]), delta);
    const __m512i above = _mm512_sub_epi32(magnitude, lo[i]);
    return _mm512_maskz_mul_ps(_mm512_cmple_epu32_mask(above, span[i]), delta, rescale[i]);
  }
};

// A vector whose sign bits are those that elected_flip() of core/element.h flips, where they
// matter: a total of -0 is one of zeros, of which none agrees with any sign.
template <int N, Elect kElect>
MS_FN __m512i flip_of(const __m512 (&d)[N]) {
  if (kElect == Elect::kSum) {
    __m512 total = d[0];
    for (int i = 1; i < N; ++i) total = _mm512_add_ps(total, d[i]);
    // max gives its second operand where one is NaN, which elects -.
    const __m512 least = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    return _mm512_castps_si512(_mm512_max_ps(total, least));
  }
  const __m512 zero = _mm512_setzero_ps();
  const __m512i one = _mm512_set1_epi32(1);
  __m512i votes = _mm512_setzero_si512();
  for (int i = 0; i < N; ++i) {
    votes = _mm512_mask_add_epi32(votes, _mm512_cmp_ps_mask(d[i], zero, _CMP_GT_OQ), votes, one);
    votes = _mm512_mask_sub_epi32(votes, _mm512_cmp_ps_mask(d[i], zero, _CMP_LT_OQ), votes, one);
  }
  return votes;
}

MS_FN __mmask16 agreeing(__m512 d, __m512i flip) {
  const __m512i sign = _mm512_set1_epi32(static_cast<int>(0x80000000u));
  constexpr int kXorAnd = 0x78;  // d ^ (flip & sign)
  const __m512i flipped = _mm512_ternarylogic_epi32(_mm512_castps_si512(d), flip, sign, kXorAnd);
  return _mm512_cmp_ps_mask(_mm512_castsi512_ps(flipped), _mm512_setzero_ps(), _CMP_GT_OQ);
}

// The lines of 32 elements that are wanted 4 KiB later: five rows and two phases of work are more
// than the processor's own prefetching follows.
template <class T>
MS_FN void fetch_ahead(const T* row) {
  const char* at = reinterpret_cast<const char*>(row) + 4096;
  _mm_prefetch(at, _MM_HINT_T0);
  if (sizeof(T) == 4) _mm_prefetch(at + 64, _MM_HINT_T0);
}

// What a sum multiplies, of kRow elements, the two halves of 32 apart. Float32 first and
// sums later, because each alone keeps the processor busier, and widening from memory is cheaper.
constexpr int kRow = 512;

template <int N>
struct Rows {
  alignas(64) float grad[kRow], share[kRow], mean[kRow], terms[N][kRow];
};

template <int N, Elect kElect, bool kNormalize>
MS_FN void elect_half(__m512 g, const __m512 (&u)[N], const __m512 (&weight)[N], Rows<N>& to,
                      int j) {
  __m512 d[N];
  for (int i = 0; i < N; ++i) d[i] = _mm512_mul_ps(u[i], weight[i]);
  const __m512i flip = flip_of<N, kElect>(d);
  __mmask16 agreed[N];
  for (int i = 0; i < N; ++i) agreed[i] = agreeing(d[i], flip);
  _mm512_store_ps(to.grad + j, g);
  if (!kNormalize) {
    for (int i = 0; i < N; ++i)
      _mm512_store_ps(to.terms[i] + j, _mm512_maskz_mov_ps(agreed[i], u[i]));
    return;
  }
  __m512 total = _mm512_maskz_mov_ps(agreed[0], d[0]);
  __m512 weights = _mm512_maskz_mov_ps(agreed[0], weight[0]);
  for (int i = 1; i < N; ++i) {
    total = _mm512_mask_add_ps(total, agreed[i], total, d[i]);
    weights = _mm512_mask_add_ps(weights, agreed[i], weights, weight[i]);
  }
  const __mmask16 live = _mm512_cmp_ps_mask(weights, _mm512_setzero_ps(), _CMP_NEQ_UQ);
  const __m512 by = _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), live, weights);
  const __m512 mean = _mm512_div_ps(total, by);
  const __m512 less = _mm512_maskz_mov_ps(live, mean);
  _mm512_store_ps(to.share + j, _mm512_div_ps(g, by));
  _mm512_store_ps(to.mean + j, mean);
  for (int i = 0; i < N; ++i)
    _mm512_store_ps(to.terms[i] + j, _mm512_maskz_sub_ps(agreed[i], u[i], less));
}

template <int N, bool kNormalize, class SumLanes>
MS_FN void add_rows(const Rows<N>& from, int n, SumLanes (&sums)[N + 1]) {
  for (int j = 0; j < n; j += kPairStep) {
    for (int h = 0; h < 2; ++h) {
      const int at = j + h * kHalf;
      const Doubles share = load_widened((kNormalize ? from.share : from.grad) + at);
      for (int i = 0; i < N; ++i) sums[i].add(h, share, load_widened(from.terms[i] + at));
      if (kNormalize) sums[N].add(h, load_widened(from.grad + at), load_widened(from.mean + at));
    }
  }
}

template <class T, int N, Elect kElect, bool kNormalize, Keep kKeep>
void gradient_rows(const GradientJob& job, const GradientFrom<T>& from, int n,
                   const uint32_t* masks, double* lanes) {
  using H = Halves<T>;
  const KeptDeltas<N, kKeep> kept(job);
  const T *grad = from.grad, *base = from.base, *x[N];
  __m512 weight[N];
  typename H::Lanes sums[N + 1];
  for (int i = 0; i < N; ++i) {
    x[i] = from.x[i];
    weight[i] = _mm512_set1_ps(job.vectors[i].weight);
  }
  for (int i = 0; i <= N; ++i) sums[i].read(lanes + i * kReduceLanes);
  Rows<N> rows;
  for (int begin = 0; begin < n; begin += kRow) {
    const int end = n - begin < kRow ? n : begin + kRow;
    for (int j = begin; j < end; j += kPairStep) {
      if (kElect != Elect::kNone) {
        fetch_ahead(grad + j);
        fetch_ahead(base + j);
        for (int i = 0; i < N; ++i) fetch_ahead(x[i] + j);
      }
      for (int h = 0; h < 2; ++h) {
        const __m512 g = H::read(grad, j, h), b = H::read(base, j, h);
        __m512 u[N];
        for (int i = 0; i < N; ++i)
          u[i] = kept(i, _mm512_sub_ps(H::read(x[i], j, h), b), masks + H::mask(j, h));
        if (kElect != Elect::kNone) {
          elect_half<N, kElect, kNormalize>(g, u, weight, rows, j - begin + h * kHalf);
          continue;
        }
        const Doubles wide = widened(g);
        for (int i = 0; i < N; ++i) sums[i].add(h, wide, widened(u[i]));
      }
    }
    if (kElect != Elect::kNone) add_rows<N, kNormalize>(rows, end - begin, sums);
  }
  for (int i = 0; i <= N; ++i) sums[i].write(lanes + i * kReduceLanes);
}

template <class T, int N, Keep kKeep>
GradientKernel<T> gradient_elect(const GradientJob& job) {
  if (job.elect == Elect::kSum)
    return job.normalize ? gradient_rows<T, N, Elect::kSum, true, kKeep>
                         : gradient_rows<T, N, Elect::kSum, false, kKeep>;
  if (job.elect == Elect::kCount)
    return job.normalize ? gradient_rows<T, N, Elect::kCount, true, kKeep>
                         : gradient_rows<T, N, Elect::kCount, false, kKeep>;
  return gradient_rows<T, N, Elect::kNone, false, kKeep>;
}

template <class T, int N>
GradientKernel<T> gradient_fixed(const GradientJob& job, Keep keep) {
  switch (keep) {
    case Keep::kMasks: return gradient_elect<T, N, Keep::kMasks>(job);
    case Keep::kWindow: return gradient_elect<T, N, Keep::kWindow>(job);
    case Keep::kAbove: return gradient_elect<T, N, Keep::kAbove>(job);
    case Keep::kWhole: break;
  }
  return job.elect == Elect::kNone ? gradient_rows<T, N, Elect::kNone, false, Keep::kWhole>
                                   : gradient_elect<T, N, Keep::kAbove>(job);
}

// The kernel for as many experts, or null where there is none.
template <class T>
GradientKernel<T> gradient_kernel(const GradientJob& job, Keep keep) {
  switch (job.count) {
    case 1: return gradient_fixed<T, 1>(job, keep);
    case 2: return gradient_fixed<T, 2>(job, keep);
    case 3: return gradient_fixed<T, 3>(job, keep);
    case 4: return gradient_fixed<T, 4>(job, keep);
    default: return nullptr;
  }
}

// The same for the sums of products with 1 to kFixed rows.
inline ProductPairs product_pairs_of(int count) {
  constexpr ProductPairs kernels[kFixed] = {product_pairs<1>, product_pairs<2>, product_pairs<3>,
                                            product_pairs<4>};
  return kernels[count - 1];
}
#else
template <class T>
GradientKernel<T> gradient_kernel(const GradientJob&, Keep) {
  return nullptr;
}
inline ProductPairs product_pairs_of(int) { return nullptr; }
#endif

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
