// Masks by the rank of a magnitude in its row, and experts from which a mask has dropped elements.
// Once per instruction set.
//
// Few elements need an exact rank. The words of most are below the thresholds of all ranks or of
// none. Of the others, how often each key occurs in the row bounds the rank, and most words are
// below the thresholds of both bounds or of neither. Only those that are left are counted.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/element.h"
#include "core/rank_mask.h"
#include "cpu/kernels.h"
#include "cpu/load.inl"
#include "cpu/masks.inl"
#include "cpu/select.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

// Keys order like magnitudes. An even one belongs to a single magnitude, whose last bits of the
// mantissa are 0, an odd one to those between: differences of 16-bit numbers tie heavily, most
// often where the last bits are 0.
constexpr int kMostKeys = 2048;
constexpr int kKeyOctaves = 8;     // powers of two that keys span
constexpr int kKeysAboveMean = 3;  // how many of them lie above that of the mean magnitude
// Rows up to this length need no keys.
constexpr int kShortRow = 128;
// How many ranks of a row are counted before sorting it is cheaper.
constexpr int kCountedRanks = 128;
// Keys are counted so many at once.
constexpr int kKeyBlock = 64;

// The scratch of a row of n elements.
struct RowScratch {
  float* base;
  uint32_t* magnitudes;
  uint32_t* words;
  uint32_t* open;  // numbers of elements that are not decided yet
  uint16_t* keys;  // whole blocks

  static int64_t room(int64_t n) { return (n + kKeyBlock - 1) / kKeyBlock * kKeyBlock; }
  static int64_t floats(int64_t n) { return 5 * room(n); }
  RowScratch(float* scratch, int64_t n) : base(scratch) {
    magnitudes = reinterpret_cast<uint32_t*>(scratch + room(n));
    words = magnitudes + room(n);
    open = words + room(n);
    keys = reinterpret_cast<uint16_t*>(open + room(n));
  }
};

// How the magnitudes of a row become keys.
struct KeyRule {
  int shift;
  int32_t least;  // what the first key stands for
  int32_t count;

  KeyRule(float mean, int n) {
    int bits = 4;  // of the mantissa: more in long rows, so that few elements share a key
    while (bits < 7 && n >> (bits + 7) > 0) ++bits;
    const int32_t octave = 2 << bits;
    const int32_t top = static_cast<int32_t>(magnitude_bits(mean) >> 23) + kKeysAboveMean + 1;
    shift = 23 - bits;
    least = (top - kKeyOctaves) * octave;
    count = kKeyOctaves * octave;
  }
  MS_FN int32_t operator()(int32_t magnitude) const {
    // The bits that are kept, rounded down and up, add up to an even number if they are all.
    const int32_t down = magnitude >> shift, up = (magnitude + ((1 << shift) - 1)) >> shift;
    const int32_t key = down + up - least, first = magnitude > 0 ? 1 : 0;
    const int32_t there = key > first ? key : first;
    return there < count - 1 ? there : count - 1;
  }
};

// The rank of values[at] among n values.
inline int rank_among(const uint32_t* values, int n, int at) {
  const int32_t value = static_cast<int32_t>(values[at]);
  int32_t below = 0;
  for (int j = 0; j < at; ++j) below += static_cast<int32_t>(values[j]) <= value;
  for (int j = at; j < n; ++j) below += static_cast<int32_t>(values[j]) < value;
  return below;
}

// How many of n keys, whole blocks and fewer than 2^16, are this one.
inline int count_keys(const uint16_t* keys, int n, uint16_t key) {
  uint16_t same = 0;
  for (int j = 0; j < n; ++j) same = static_cast<uint16_t>(same + (keys[j] == key));
  return same;
}

// How many of the first `end` keys of a block are this one.
inline int count_keys_before(const uint16_t* keys, uint16_t end, uint16_t key) {
  constexpr int n = kKeyBlock;
  uint16_t same = 0;
  for (int j = 0; j < n; ++j)
    same = static_cast<uint16_t>(same + ((keys[j] == key) & (static_cast<uint16_t>(j) < end)));
  return same;
}

// keep[i] for all elements of a row by a stable radix sort; clobbers open and keys, whose 2 n
// values hold two lists of indices.
inline void keep_by_sorting(const RankMask& mask, const RowScratch& row, int n, uint8_t* keep) {
  uint32_t* order = row.open;
  uint32_t* other = reinterpret_cast<uint32_t*>(row.keys);
  for (int j = 0; j < n; ++j) order[j] = static_cast<uint32_t>(j);
  for (int shift = 0; shift < 32; shift += 8) {
    int starts[256] = {};
    for (int i = 0; i < n; ++i) ++starts[row.magnitudes[i] >> shift & 255u];
    int start = 0;
    for (int& each : starts) {
      const int size = each;
      each = start;
      start += size;
    }
    for (int i = 0; i < n; ++i)
      other[starts[row.magnitudes[order[i]] >> shift & 255u]++] = order[i];
    uint32_t* swap = order;
    order = other;
    other = swap;
  }
  for (int rank = 0; rank < n; ++rank) {
    const uint32_t i = order[rank];
    keep[i] = static_cast<uint8_t>((row.words[i] < rank_threshold(mask, rank)) &
                                   (row.magnitudes[i] != 0));
  }
}

// The numbers of the elements that are not 0 and whose words lie in [least, most]; returns how
// many. Writes up to 15 more.
inline int open_elements(const RowScratch& row, int n, uint32_t least, uint32_t most) {
  const uint32_t* words = row.words;
  const uint32_t* magnitudes = row.magnitudes;
  uint32_t* out = row.open;
  int size = 0;
#if defined(__AVX512F__)
  const __m512i from = _mm512_set1_epi32(static_cast<int>(least));
  const __m512i width = _mm512_set1_epi32(static_cast<int>(most - least));
  __m512i numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int j = 0; j < n; j += 16) {
    const __mmask16 there = n - j < 16 ? static_cast<__mmask16>((1 << (n - j)) - 1) : 0xFFFF;
    const __m512i word = _mm512_loadu_si512(words + j);
    const __m512i magnitude = _mm512_loadu_si512(magnitudes + j);
    __mmask16 in = _mm512_mask_test_epi32_mask(there, magnitude, magnitude);
    in = _mm512_mask_cmple_epu32_mask(in, _mm512_sub_epi32(word, from), width);
    _mm512_storeu_si512(out + size, _mm512_maskz_compress_epi32(in, numbers));
    numbers = _mm512_add_epi32(numbers, _mm512_set1_epi32(16));
    size += __builtin_popcount(in);
  }
#elif defined(__AVX2__)
  const __m256i from = _mm256_set1_epi32(static_cast<int>(least));
  const __m256i width = _mm256_set1_epi32(static_cast<int>(most - least));
  __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int j = 0; j < n; j += 8) {
    const __m256i word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + j));
    const __m256i magnitude = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(magnitudes + j));
    const __m256i above = _mm256_sub_epi32(word, from);
    __m256i in = _mm256_cmpeq_epi32(_mm256_min_epu32(above, width), above);
    in = _mm256_andnot_si256(_mm256_cmpeq_epi32(magnitude, _mm256_setzero_si256()), in);
    const unsigned there = n - j < 8 ? (1u << (n - j)) - 1u : 0xFFu;
    const unsigned kept =
        static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(in))) & there;
    const __m256i lanes =
        _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kLaneLists.lists[kept])));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + size),
                        _mm256_permutevar8x32_epi32(numbers, lanes));
    numbers = _mm256_add_epi32(numbers, _mm256_set1_epi32(8));
    size += __builtin_popcount(kept);
  }
#else
  const uint32_t width = most - least;
  for (int j = 0; j < n; ++j) {  // scalar loop: no compress
    out[size] = static_cast<uint32_t>(j);
    size += (words[j] - least <= width) & (magnitudes[j] != 0);
  }
#endif
  return size;
}

// keep[j] where the word is below every threshold of the row.
inline void keep_surely(const RowScratch& row, int n, uint64_t least, uint8_t* __restrict__ keep) {
  const uint32_t* words = row.words;
  const uint32_t* magnitudes = row.magnitudes;
  // word < least, which may be 2^32
  const uint32_t most = static_cast<uint32_t>(least > 0 ? least - 1 : 0);
  const uint32_t any = least > 0 ? 0xFFFFFFFFu : 0u;
  for (int j = 0; j < n; ++j)
    keep[j] = static_cast<uint8_t>((words[j] <= most) & ((magnitudes[j] & any) != 0));
}

// What is known of the elements of a key: their ranks are those from start[key] to before
// start[key + 1], and threshold[key] is that of the first.
struct KeyRanks {
  int32_t start[kMostKeys + 1];
  double threshold[kMostKeys + 1];
};

// Finds the keys of a row, and fills up their last block.
inline void find_keys(const KeyRule& given, const RowScratch& row, int n) {
  const KeyRule rule = given;
  const uint32_t* magnitudes = row.magnitudes;
  uint16_t* __restrict__ keys = row.keys;
  for (int j = 0; j < n; ++j)
    keys[j] = static_cast<uint16_t>(rule(static_cast<int32_t>(magnitudes[j])));
  for (int i = n; i % kKeyBlock != 0; ++i) keys[i] = 0;
}

inline void rank_keys(const RankMask& mask, const uint16_t* keys, int n, int count,
                      KeyRanks& ranks) {
  // Four counts of each key, because a count takes its time until it can be changed again.
  uint32_t counts[4][kMostKeys];
  for (auto& each : counts) std::memset(each, 0, count * sizeof(uint32_t));
  int i = 0;
  for (; i + 4 <= n; i += 4) {
    uint64_t four;
    std::memcpy(&four, keys + i, sizeof four);
    ++counts[0][four & 0xFFFFu];
    ++counts[1][four >> 16 & 0xFFFFu];
    ++counts[2][four >> 32 & 0xFFFFu];
    ++counts[3][four >> 48];
  }
  for (; i < n; ++i) ++counts[0][keys[i]];
  uint32_t total = 0;
  for (int key = 0; key < count; ++key) {
    ranks.start[key] = static_cast<int32_t>(total);
    total += counts[0][key] + counts[1][key] + counts[2][key] + counts[3][key];
  }
  ranks.start[count] = static_cast<int32_t>(total);
  const double low = mask.low, step = mask.step;
  for (int key = 0; key <= count; ++key)
    ranks.threshold[key] = low + step * static_cast<double>(ranks.start[key]);
}

// Decides those of the first `open` open elements whose key suffices; returns how many are left.
inline int keep_by_key(const KeyRanks& ranks, const RowScratch& row, int open, uint8_t* keep) {
  int left = 0;
  for (int k = 0; k < open; ++k) {
    const uint32_t at = row.open[k];
    const int key = row.keys[at];
    // word < threshold, which is cut to an integer
    const double least = static_cast<double>(row.words[at]) + 1.0;
    const bool kept = ranks.threshold[key] >= least;
    keep[at] = static_cast<uint8_t>(kept);
    row.open[left] = at;
    left += !kept & (ranks.threshold[key + 1] >= least);
  }
  return left;
}

// Decides the first `open` open elements, which ascend, by their exact ranks.
inline void keep_by_rank(const RankMask& mask, const KeyRanks& ranks, const RowScratch& row, int n,
                         int count, int open, uint8_t* keep) {
  // How often a key occurs among the first elements of the row, as far as that is known.
  struct Seen {
    int32_t times, end;
  };
  Seen seen[kMostKeys];
  std::memset(seen, 0, count * sizeof(Seen));
  int counted = 0;
  for (int k = 0; k < open; ++k) {
    const int at = static_cast<int>(row.open[k]);
    const uint16_t key = row.keys[at];
    int rank;
    if (key % 2 == 0) {  // as many are smaller as have smaller keys
      const int block = at / kKeyBlock * kKeyBlock;
      Seen& known = seen[key];
      while (known.end < block) {
        const int size = block - known.end < 1 << 15 ? block - known.end : 1 << 15;
        known.times += count_keys(row.keys + known.end, size, key);
        known.end += size;
      }
      rank = ranks.start[key] + known.times +
             count_keys_before(row.keys + block, static_cast<uint16_t>(at - block), key);
    } else {
      if (++counted > kCountedRanks) return keep_by_sorting(mask, row, n, keep);
      rank = rank_among(row.magnitudes, n, at);
    }
    keep[at] = static_cast<uint8_t>(row.words[at] < rank_threshold(mask, rank));
  }
}

inline void keep_in_row(const RankMask& mask, const RowScratch& row, int n, float mean,
                        uint8_t* keep) {
  const uint64_t least = rank_threshold(mask, 0), most = rank_threshold(mask, n - 1);
  keep_surely(row, n, least, keep);
  if (least >= most) return;
  int open = open_elements(row, n, static_cast<uint32_t>(least), static_cast<uint32_t>(most - 1));
  if (n <= kShortRow) {
    for (int k = 0; k < open; ++k) {
      const int at = static_cast<int>(row.open[k]);
      const int rank = rank_among(row.magnitudes, n, at);
      keep[at] = static_cast<uint8_t>(row.words[at] < rank_threshold(mask, rank));
    }
    return;
  }
  const KeyRule rule(mean, n);
  KeyRanks ranks;
  find_keys(rule, row, n);
  rank_keys(mask, row.keys, n, rule.count, ranks);
  open = keep_by_key(ranks, row, open, keep);
  if (open > 0) keep_by_rank(mask, ranks, row, n, rule.count, open, keep);
}

// Magnitudes of x - base into `out`; returns their mean, which only guides the choice of keys.
inline float magnitudes_of(const float* base, const float* x, int n, uint32_t* out) {
  constexpr int kLanes = 16;
  float sums[kLanes] = {};
  int j = 0;
  for (; j + kLanes <= n; j += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint32_t bits = magnitude_bits(x[j + lane] - base[j + lane]);
      out[j + lane] = bits;
      sums[lane] = sums[lane] + float_of(bits);
    }
  float total = 0.0f;
  for (const float sum : sums) total = total + sum;
  for (; j < n; ++j) {
    out[j] = magnitude_bits(x[j] - base[j]);
    total = total + float_of(out[j]);
  }
  return total / static_cast<float>(n);
}

Flags rank_masks(const RankMaskJob& job, int64_t begin, int64_t end) {
  const int n = static_cast<int>(job.columns);
  const RowScratch row(thread_scratch(RowScratch::floats(n)), n);
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += n) {
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, row.base));
    for (int i = 0; i < job.count; ++i) {
      const RankMask& mask = job.masks[i];
      float* x = reinterpret_cast<float*>(row.words);
      flags |= flag(i + 1, load(job.experts[i], pos, n, job.zero_nonfinite, x));
      const float mean = magnitudes_of(row.base, x, n, row.magnitudes);
      random_words(job.offset + pos, n, mask.key, row.words);
      keep_in_row(mask, row, n, mean, job.keeps[i] + pos);
    }
  }
  return flags;
}

template <class T>
void copy_kept(const MaskedCopy& copy, int64_t begin, int64_t end) {
  const T* base = static_cast<const T*>(copy.base.data);
  const T* x = static_cast<const T*>(copy.expert.data);
  T* out = static_cast<T*>(copy.out.data);
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    kept_or_base(copy.keep + pos, &base[pos].bits, &x[pos].bits, n, &out[pos].bits);
  }
}

void masked_copy(const MaskedCopy& copy, int64_t begin, int64_t end) {
  const bool alike = copy.base.dtype == copy.expert.dtype && copy.base.cast == copy.expert.cast;
  if (alike && copy.out.dtype == copy.expert.dtype) {
    if (copy.out.dtype == DType::kF32) return copy_kept<F32>(copy, begin, end);
    return copy_kept<BF16>(copy, begin, end);  // of any type of two bytes
  }
  float* base = thread_scratch(2 * kChunk);
  float* x = base + kChunk;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    load(copy.base, pos, n, copy.zero_nonfinite, base);
    load(copy.expert, pos, n, copy.zero_nonfinite, x);
    kept_or_base(copy.keep + pos, base, x, n, static_cast<float*>(copy.out.data) + pos);
  }
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
