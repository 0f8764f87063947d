// Which elements of a task vector are kept: by magnitude, or by Philox words. Once per instruction
// set.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/element.h"
#include "core/job.h"
#include "core/philox.h"
#include "cpu/intrinsics.h"
#include "cpu/load.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

// Counters sit in 64-bit lanes, whose low halves are multiplied and whose high halves are ignored:
// so the products need no shuffles between rounds.
#if defined(__AVX512F__)
constexpr int kWideBytes = 64;
#elif defined(__AVX2__)
constexpr int kWideBytes = 32;
#else
constexpr int kWideBytes = 16;
#endif
constexpr int kWideLanes = kWideBytes / 8;
typedef uint64_t Wide __attribute__((vector_size(kWideBytes)));
typedef uint32_t Narrow __attribute__((vector_size(kWideBytes / 2)));

struct PhiloxWide {
  using Word = Wide;
  static MS_FN void multiply(Wide a, uint32_t b, Wide& high, Wide& low) {
#if defined(__AVX512F__)
    low = (Wide)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(static_cast<int64_t>(b)));
#elif defined(__AVX2__)
    low = (Wide)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(static_cast<int64_t>(b)));
#elif defined(__SSE2__)
    low = (Wide)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(static_cast<int64_t>(b)));
#else
    low = (a & 0xFFFFFFFFu) * b;
#endif
    high = low >> 32;
  }
};

inline void store_low(Wide words, uint32_t* out) {
  const Narrow low = __builtin_convertvector(words, Narrow);
  std::memcpy(out, &low, sizeof low);
}

// The 64 words of elements [first, first + 64), first a multiple of 64: see core/philox.h. Those
// of elements e % kStep == p go to out + p * distance.
template <int kStep>
void philox_group(uint64_t first, uint64_t key, int distance, uint32_t* out) {
  const uint64_t counter = first / kPhiloxGroup * kPhiloxLanes;
  Wide lanes;
  for (int i = 0; i < kWideLanes; ++i) lanes[i] = static_cast<uint64_t>(kStep * i);
  for (int at = 0; at < kPhiloxLanes; at += kWideLanes) {
    const int part = at / (kPhiloxLanes / kStep), place = at % (kPhiloxLanes / kStep);
    Wide c0 = lanes + (counter + kStep * place + part), c1 = Wide{} + (counter >> 32), c2{}, c3{};
    philox_rounds<PhiloxWide>(key, c0, c1, c2, c3);
    uint32_t* to = out + part * distance + place;
    store_low(c0, to);
    store_low(c1, to + kPhiloxLanes / kStep);
    store_low(c2, to + 2 * kPhiloxLanes / kStep);
    store_low(c3, to + 3 * kPhiloxLanes / kStep);
  }
}

// out[0, n) = the Philox words of elements [first, first + n), for any alignment of first.
inline void random_words(uint64_t first, int n, uint64_t key, uint32_t* out) {
  uint32_t group[kPhiloxGroup];
  for (uint64_t at = first / kPhiloxGroup * kPhiloxGroup; at < first + n; at += kPhiloxGroup) {
    const int skip = at < first ? static_cast<int>(first - at) : 0;
    const int to = static_cast<int>(at + skip - first);
    const int take = kPhiloxGroup - skip < n - to ? kPhiloxGroup - skip : n - to;
    philox_group<1>(at, key, 0, group);
    std::memcpy(out + to, group + skip, take * sizeof(uint32_t));
  }
}

// The same for whole groups from a multiple of 64 on: words of even elements from out on, of odd
// ones from out + kChunk / 2 on.
inline void random_pairs(uint64_t first, int n, uint64_t key, uint32_t* out) {
  for (int at = 0; at < n; at += kPhiloxGroup)
    philox_group<2>(first + at, key, kChunk / 2, out + at / 2);
}

// Turns Philox words into keep masks: below the threshold.
inline void words_to_masks(uint32_t* words, int n, uint32_t threshold) {
  for (int j = 0; j < n; ++j) words[j] = mask(words[j] < threshold);
}

// out = x where it is kept, else the base, as bits.
template <class Bits>
void kept_or_base(const uint8_t* keep, const Bits* base, const Bits* x, int n,
                  Bits* __restrict__ out) {
  for (int j = 0; j < n; ++j) {
    const Bits kept = static_cast<Bits>(0 - keep[j]);
    out[j] = static_cast<Bits>((x[j] & kept) | (base[j] & static_cast<Bits>(~kept)));
  }
}

inline void kept_or_base(const uint8_t* keep, const float* base, const float* x, int n,
                         float* __restrict__ out) {
  for (int j = 0; j < n; ++j) out[j] = keep[j] != 0 ? x[j] : base[j];
}

inline void drop_in_place(const uint8_t* keep, const float* base, int n, float* __restrict__ x) {
  for (int j = 0; j < n; ++j) x[j] = keep[j] != 0 ? x[j] : base[j];
}

// Keep masks of one expert's deltas into `masks`.
inline void keep_masks(const TaskVector& v, const float* base, const float* x, uint64_t first,
                       int n, uint32_t* masks) {
  if (v.random) {
    random_words(first, n, v.key, masks);
    words_to_masks(masks, n, v.threshold);
  } else {
    const Window kept = window(v.lo, v.hi);
    for (int j = 0; j < n; ++j) masks[j] = mask(in_window(x[j] - base[j], kept));
  }
}

// The same for pairs, first a multiple of 64: masks of even elements, then kChunk / 2 further on
// those of odd ones.
inline void keep_pairs(const TaskVector& v, const BF16* base, const BF16* row, uint64_t first,
                       int n, uint32_t* __restrict__ masks) {
  if (v.random) {
    random_pairs(first, n, v.key, masks);
    words_to_masks(masks, kChunk, v.threshold);
    return;
  }
  const Window kept = window(v.lo, v.hi);
  const Pair* b = reinterpret_cast<const Pair*>(base);
  const Pair* x = reinterpret_cast<const Pair*>(row);
  for (int j = 0; j < n / 2; ++j) {
    masks[j] = mask(in_window(even(x[j]) - even(b[j]), kept));
    masks[kChunk / 2 + j] = mask(in_window(odd(x[j]) - odd(b[j]), kept));
  }
  if (n % 2 != 0)
    masks[n / 2] = mask(in_window(to_float(row[n - 1]) - to_float(base[n - 1]), kept));
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
