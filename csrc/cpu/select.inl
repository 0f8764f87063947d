// Magnitudes, the bracket pass of the exact selection, radix histograms. Once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/select.h"
#include "cpu/intrinsics.h"
#include "cpu/kernels.h"
#include "cpu/load.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

inline void magnitude_chunk(const float* base, const float* x, int n, uint32_t* out) {
  for (int j = 0; j < n; ++j) out[j] = magnitude_bits(x[j] - base[j]);
}

void magnitudes(const DeltaJob& job, int expert, int64_t begin, int64_t end, uint32_t* out) {
  float* base = thread_scratch(2 * kChunk);
  float* x = base + kChunk;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    load(job.base, pos, n, job.zero_nonfinite, base);
    load(job.experts[expert], pos, n, job.zero_nonfinite, x);
    magnitude_chunk(base, x, n, out + (pos - begin));
  }
}

// A lane that no bracket holds; -1 as a signed magnitude.
constexpr uint32_t kNoMagnitude = 0xFFFFFFFFu;

// Appends the values of m in [lo, hi], except `skip`, to out; returns how many. Reads m, and
// writes out, up to a multiple of 16: what m holds past n must be kNoMagnitude.
// Compress in a register, then store all lanes: compressing to memory is slow on some CPUs.
#if defined(__AVX512F__)
inline int keep_range(const uint32_t* m, int n, uint32_t lo, uint32_t hi, uint32_t skip,
                      uint32_t* out) {
  const __m512i least = _mm512_set1_epi32(static_cast<int>(lo));
  const __m512i most = _mm512_set1_epi32(static_cast<int>(hi));
  const __m512i but = _mm512_set1_epi32(static_cast<int>(skip));
  int size = 0;
  for (int j = 0; j < n; j += 16) {
    const __m512i v = _mm512_loadu_si512(m + j);
    __mmask16 in = _mm512_cmpge_epi32_mask(v, least);
    in = _mm512_mask_cmple_epi32_mask(in, v, most);
    in = _mm512_mask_cmpneq_epi32_mask(in, v, but);
    _mm512_storeu_si512(out + size, _mm512_maskz_compress_epi32(in, v));
    size += __builtin_popcount(in);
  }
  return size;
}
#elif defined(__AVX2__)
// For each set of lanes to keep: their numbers, first lane first, one byte each.
struct LaneLists {
  uint64_t lists[256];
  constexpr LaneLists() : lists() {
    for (int kept = 0; kept < 256; ++kept)
      for (int lane = 7; lane >= 0; --lane)
        if (kept >> lane & 1) lists[kept] = lists[kept] << 8 | static_cast<uint64_t>(lane);
  }
};
constexpr LaneLists kLaneLists;

inline int keep_range(const uint32_t* m, int n, uint32_t lo, uint32_t hi, uint32_t skip,
                      uint32_t* out) {
  const __m256i least = _mm256_set1_epi32(static_cast<int>(lo));
  const __m256i most = _mm256_set1_epi32(static_cast<int>(hi));
  const __m256i but = _mm256_set1_epi32(static_cast<int>(skip));
  int size = 0;
  for (int j = 0; j < n; j += 8) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(m + j));
    __m256i no = _mm256_or_si256(_mm256_cmpgt_epi32(least, v), _mm256_cmpgt_epi32(v, most));
    no = _mm256_or_si256(no, _mm256_cmpeq_epi32(v, but));
    const int kept = _mm256_movemask_ps(_mm256_castsi256_ps(no)) ^ 0xFF;
    const __m256i lanes =
        _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kLaneLists.lists[kept])));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + size),
                        _mm256_permutevar8x32_epi32(v, lanes));
    size += __builtin_popcount(static_cast<unsigned>(kept));
  }
  return size;
}
#else
inline int keep_range(const uint32_t* m, int n, uint32_t lo, uint32_t hi, uint32_t skip,
                      uint32_t* out) {
  int size = 0;
  for (int j = 0; j < n; ++j) {  // scalar loop: no compress
    out[size] = m[j];
    size += (m[j] >= lo) & (m[j] <= hi) & (m[j] != skip);
  }
  return size;
}
#endif

inline void pad(uint32_t* m, int n) {
  for (int j = n; j % 16 != 0; ++j) m[j] = kNoMagnitude;
}

inline int count_above(const uint32_t* m, int n, uint32_t bound) {
  const int32_t hi = static_cast<int32_t>(bound);
  int32_t above = 0;
  for (int j = 0; j < n; ++j) above += static_cast<int32_t>(m[j]) > hi;
  return above;
}

int64_t count_above_all(const uint32_t* values, int64_t n, uint32_t bound) {
  int64_t count = 0;
  for (int64_t pos = 0; pos < n; pos += kChunk)
    count +=
        count_above(values + pos, static_cast<int>(n - pos < kChunk ? n - pos : kChunk), bound);
  return count;
}

// In place: what is written never passes what has been read.
int64_t narrow(uint32_t* values, int64_t n, uint32_t lo, uint32_t hi) {
  int64_t size = 0;
  for (int64_t pos = 0; pos < n; pos += kChunk) {
    const int part = static_cast<int>(n - pos < kChunk ? n - pos : kChunk);
    pad(values + pos, part);
    size += keep_range(values + pos, part, lo, hi, kNoMagnitude, values + size);
  }
  return size;
}

// The values of m in [lo, hi] to `members`; returns how many. `above` grows by those over hi.
inline int members_of(uint32_t* m, int n, const Bracket& b, int64_t& above, uint32_t* members) {
  above += count_above(m, n, b.hi);
  pad(m, n);
  return keep_range(m, n, b.lo, b.hi, kNoMagnitude, members);
}

// The same for bfloat16 rows where they lie, in any order; m is scratch.
inline int members_of_pairs(const BF16* base, const BF16* row, int n, const Bracket& b,
                            int64_t& above, uint32_t* __restrict__ m, uint32_t* members) {
  const Pair* from = reinterpret_cast<const Pair*>(base);
  const Pair* x = reinterpret_cast<const Pair*>(row);
  uint32_t* __restrict__ high = m + n / 2;
  for (int j = 0; j < n / 2; ++j) {
    m[j] = magnitude_bits(even(x[j]) - even(from[j]));
    high[j] = magnitude_bits(odd(x[j]) - odd(from[j]));
  }
  if (n % 2 != 0) m[n - 1] = magnitude_bits(to_float(row[n - 1]) - to_float(base[n - 1]));
  return members_of(m, n, b, above, members);
}

#if defined(__AVX512F__)
// The same for a whole chunk, in registers.
inline int members_of_chunk(const BF16* base, const BF16* row, const Bracket& b, int64_t& above,
                            uint32_t* members) {
  const __m512i lo = _mm512_set1_epi32(static_cast<int>(b.lo));
  const __m512i hi = _mm512_set1_epi32(static_cast<int>(b.hi));
  const __m512i width = _mm512_sub_epi32(hi, lo);
  const __m512i nan = _mm512_set1_epi32(static_cast<int>(kNaNMagnitude));
  const __m512i high_half = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u));
  const __m512i magnitude_mask = _mm512_set1_epi32(static_cast<int>(kAbsMask));
  const __m512i one = _mm512_set1_epi32(1);
  __m512i over = _mm512_setzero_si512();
  int size = 0;
  const auto step = [&](__m512i x, __m512i from) {
    const __m512 delta = _mm512_sub_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(from));
    const __m512i v =
        _mm512_min_epi32(_mm512_and_si512(_mm512_castps_si512(delta), magnitude_mask), nan);
    over = _mm512_mask_add_epi32(over, _mm512_cmpgt_epi32_mask(v, hi), over, one);
    const __mmask16 in = _mm512_cmple_epu32_mask(_mm512_sub_epi32(v, lo), width);
    _mm512_storeu_si512(members + size, _mm512_maskz_compress_epi32(in, v));
    size += __builtin_popcount(in);
  };
  for (int j = 0; j < kChunk; j += 32) {
    const __m512i x = _mm512_loadu_si512(row + j), from = _mm512_loadu_si512(base + j);
    step(_mm512_slli_epi32(x, 16), _mm512_slli_epi32(from, 16));
    step(_mm512_and_si512(x, high_half), _mm512_and_si512(from, high_half));
  }
  above += _mm512_reduce_add_epi32(over);
  return size;
}
#endif

inline int members_direct(const BF16* base, const BF16* row, int n, const Bracket& b,
                          int64_t& above, uint32_t* m, uint32_t* members) {
#if defined(__AVX512F__)
  if (n == kChunk) return members_of_chunk(base, row, b, above, members);
#endif
  return members_of_pairs(base, row, n, b, above, m, members);
}

// The same for scores, whose own magnitudes count.
#if defined(__AVX512F__)
inline int members_of_scores(const float* scores, int n, const Bracket& b, int64_t& above,
                             uint32_t*, uint32_t* members) {
  const __m512i lo = _mm512_set1_epi32(static_cast<int>(b.lo));
  const __m512i hi = _mm512_set1_epi32(static_cast<int>(b.hi));
  const __m512i width = _mm512_sub_epi32(hi, lo);
  const __m512i nan = _mm512_set1_epi32(static_cast<int>(kNaNMagnitude));
  const __m512i magnitude_mask = _mm512_set1_epi32(static_cast<int>(kAbsMask));
  int size = 0;
  int64_t over = 0;
  for (int j = 0; j < n; j += 16) {
    const __mmask16 there = n - j < 16 ? static_cast<__mmask16>((1u << (n - j)) - 1) : 0xFFFF;
    const __m512i bits = _mm512_maskz_loadu_epi32(there, scores + j);
    const __m512i v = _mm512_min_epi32(_mm512_and_si512(bits, magnitude_mask), nan);
    over += __builtin_popcount(_mm512_mask_cmpgt_epi32_mask(there, v, hi));
    const __mmask16 in = _mm512_mask_cmple_epu32_mask(there, _mm512_sub_epi32(v, lo), width);
    _mm512_storeu_si512(members + size, _mm512_maskz_compress_epi32(in, v));
    size += __builtin_popcount(in);
  }
  above += over;
  return size;
}
#else
// Over k, because the test of vectors looks for every loop over j, on AVX-512 too.
inline void magnitudes_of_scores(const float* scores, int n, uint32_t* __restrict__ out) {
  for (int k = 0; k < n; ++k) out[k] = magnitude_bits(scores[k]);
}

inline int members_of_scores(const float* scores, int n, const Bracket& b, int64_t& above,
                             uint32_t* m, uint32_t* members) {
  magnitudes_of_scores(scores, n, m);
  return members_of(m, n, b, above, members);
}
#endif

// Counts the members equal to one of the bracket's values and collects the others.
inline void take_members(uint32_t* members, int n, const Bracket& b, BracketCounts& counts,
                         Collected& c) {
  const uint32_t lo = b.lo, mid = b.mid, hi = b.hi;
  int32_t at_lo = 0, at_mid = 0, at_hi = 0;
  for (int j = 0; j < n; ++j) {
    at_lo += members[j] == lo;
    at_mid += members[j] == mid;
    at_hi += members[j] == hi;
  }
  counts.at_lo += at_lo;
  counts.at_mid += at_mid;
  counts.at_hi += at_hi;
  if (c.size >= 0 && c.size + n > c.capacity) c.size = -1;
  if (c.size < 0 || hi - lo < 2) return;
  pad(members, n);
  c.size += keep_range(members, n, lo + 1, hi - 1, mid, c.data + c.size);
}

// Scores lie in float32, and without a base; nothing is said of NaN among them.
void bracket_scores(const DeltaJob& job, const RankQuery* queries, const Bracket* brackets,
                    int count, int64_t begin, int64_t end, BracketCounts* counts,
                    Collected* collected) {
  uint32_t* m = reinterpret_cast<uint32_t*>(thread_scratch(2 * kChunk + 16));
  uint32_t* members = m + kChunk;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    for (int q = 0; q < count; ++q) {
      const float* scores = static_cast<const float*>(job.experts[queries[q].expert].data) + pos;
      const int found = members_of_scores(scores, n, brackets[q], counts[q].above, m, members);
      take_members(members, found, brackets[q], counts[q], collected[q]);
    }
  }
}

Flags bracket(const DeltaJob& job, const RankQuery* queries, const Bracket* brackets, int count,
              int64_t begin, int64_t end, BracketCounts* counts, Collected* collected) {
  if (job.base.data == nullptr) {
    bracket_scores(job, queries, brackets, count, begin, end, counts, collected);
    return 0;
  }
  float* base = thread_scratch(4 * kChunk + 16);
  float* x = base + kChunk;
  uint32_t* m = reinterpret_cast<uint32_t*>(x + kChunk);
  uint32_t* members = m + kChunk;
  bool direct = is_bf16(job.base) && !job.zero_nonfinite;
  for (int q = 0; q < count; ++q) direct = direct && is_bf16(job.experts[queries[q].expert]);
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    if (direct)
      flags |= flag(0, any_nonfinite(bf16_at(job.base, pos), n));
    else
      flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    int loaded = -1;
    for (int q = 0; q < count; ++q) {
      const int expert = queries[q].expert;
      const Input& input = job.experts[expert];
      const Bracket& b = brackets[q];
      int found;
      if (direct) {
        const BF16 *from = bf16_at(job.base, pos), *row = bf16_at(input, pos);
        found = members_direct(from, row, n, b, counts[q].above, m, members);
        if (expert != loaded) flags |= flag(expert + 1, any_nonfinite(row, n));
      } else {
        if (expert != loaded) {
          flags |= flag(expert + 1, load(input, pos, n, job.zero_nonfinite, x));
          magnitude_chunk(base, x, n, m);
        }
        found = members_of(m, n, b, counts[q].above, members);
      }
      loaded = expert;
      take_members(members, found, b, counts[q], collected[q]);
    }
  }
  return flags;
}

// Counts the high bits of magnitudes.
inline void count_high(const uint32_t* m, int n, int64_t* counts) {
  for (int j = 0; j < n; ++j) ++counts[m[j] >> kLowBits];  // scalar loop: scatter
}

// Counts the low bits of the magnitudes whose high bits are `prefix`, which few have.
inline void count_low(const uint32_t* m, int n, uint32_t prefix, int64_t* counts) {
  constexpr int kStep = 32;
  for (int from = 0; from < n; from += kStep) {
    const int size = n - from < kStep ? n - from : kStep;
    uint32_t there = 0;
    for (int k = 0; k < size; ++k)
      there |= static_cast<uint32_t>(m[from + k] >> kLowBits == prefix);
    if (there == 0) continue;
    for (int k = 0; k < size; ++k)
      if (m[from + k] >> kLowBits == prefix) ++counts[m[from + k] & ((1u << kLowBits) - 1)];
  }
}

Flags histogram(const DeltaJob& job, const int64_t* prefixes, int64_t begin, int64_t end,
                int64_t* counts) {
  float* base = thread_scratch(3 * kChunk);
  float* x = base + kChunk;
  uint32_t* m = reinterpret_cast<uint32_t*>(x + kChunk);
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    for (int i = 0; i < job.count; ++i) {
      flags |= flag(i + 1, load(job.experts[i], pos, n, job.zero_nonfinite, x));
      magnitude_chunk(base, x, n, m);
      int64_t* bins = counts + static_cast<int64_t>(i) * kHistogramBins;
      if (prefixes == nullptr)
        count_high(m, n, bins);
      else
        count_low(m, n, static_cast<uint32_t>(prefixes[i]), bins);
    }
  }
  return flags;
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
