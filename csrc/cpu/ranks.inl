// Masks by the rank of a magnitude in its row, and experts from which a mask has dropped elements.
// Once per instruction set.
//
// Most elements need no exact rank: their bin in a histogram of the row bounds it, and their word
// is below the thresholds of both bounds or of neither. The others look for it among their bin.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/element.h"
#include "core/rank_mask.h"
#include "cpu/kernels.h"
#include "cpu/load.inl"
#include "cpu/masks.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

// Bins of a row: by the exponent and the first four bits of the mantissa, from the largest
// magnitude 16 exponents down; the first holds what is smaller.
constexpr int kRankBins = 256;
constexpr int kRankShift = 19;
// Rows up to this length need no bins.
constexpr int64_t kShortRow = 128;
// Comparisons per element of a row, after which sorting it is cheaper.
constexpr int64_t kRankEffort = 32;

// The scratch of a row of n elements.
struct RowScratch {
  float* base;
  uint32_t* magnitudes;
  uint32_t* words;
  uint32_t* binned;  // magnitudes by bin, within one by index
  uint32_t* open;    // pairs (index, place in binned) that are not decided yet

  static int64_t floats(int64_t n) { return 6 * n; }
  RowScratch(float* room, int64_t n) : base(room) {
    magnitudes = reinterpret_cast<uint32_t*>(room + n);
    words = magnitudes + n;
    binned = words + n;
    open = binned + n;
  }
};

// The rank of values[at] among n values.
inline int64_t rank_among(const uint32_t* values, int64_t n, int64_t at) {
  const int32_t value = static_cast<int32_t>(values[at]);
  int64_t rank = 0;
  for (int64_t from = 0; from < n; from += 1 << 20) {  // short enough for 32-bit counts
    const int64_t end = from + (1 << 20) < n ? from + (1 << 20) : n;
    const int64_t cut = at < from ? from : (at < end ? at : end);
    int32_t below = 0;
    for (int64_t j = from; j < cut; ++j) below += static_cast<int32_t>(values[j]) <= value;
    for (int64_t j = cut; j < end; ++j) below += static_cast<int32_t>(values[j]) < value;
    rank += below;
  }
  return rank;
}

// keep[i] for all elements of a row by a stable radix sort; clobbers binned and open, whose 3 n
// values hold two lists of indices.
inline void keep_by_sorting(const RankMask& mask, const RowScratch& row, int64_t n, uint8_t* keep) {
  uint32_t* order = row.binned;
  uint32_t* other = row.open;
  for (int64_t i = 0; i < n; ++i) order[i] = static_cast<uint32_t>(i);
  for (int shift = 0; shift < 32; shift += 8) {
    int64_t starts[256] = {};
    for (int64_t i = 0; i < n; ++i) ++starts[row.magnitudes[i] >> shift & 255u];
    int64_t start = 0;
    for (int64_t& each : starts) {
      const int64_t size = each;
      each = start;
      start += size;
    }
    for (int64_t i = 0; i < n; ++i)
      other[starts[row.magnitudes[order[i]] >> shift & 255u]++] = order[i];
    uint32_t* swap = order;
    order = other;
    other = swap;
  }
  for (int64_t rank = 0; rank < n; ++rank) {
    const uint32_t i = order[rank];
    keep[i] = static_cast<uint8_t>((row.words[i] < rank_threshold(mask, rank)) &
                                   (row.magnitudes[i] != 0));
  }
}

inline void keep_in_short_row(const RankMask& mask, const RowScratch& row, int64_t n,
                              uint8_t* keep) {
  const uint64_t least = rank_threshold(mask, 0), most = rank_threshold(mask, n - 1);
  for (int64_t i = 0; i < n; ++i) {
    bool kept = row.words[i] < least;
    if (!kept && row.words[i] < most)
      kept = row.words[i] < rank_threshold(mask, rank_among(row.magnitudes, n, i));
    keep[i] = static_cast<uint8_t>(kept & (row.magnitudes[i] != 0));
  }
}

inline void keep_in_row(const RankMask& mask, const RowScratch& row, int64_t n, uint32_t largest,
                        uint8_t* keep) {
  uint32_t next[kRankBins] = {}, start[kRankBins + 1];
  uint64_t surely[kRankBins], never[kRankBins];
  const int32_t first = static_cast<int32_t>(largest >> kRankShift) - (kRankBins - 1);
  const auto bin_of = [&](uint32_t magnitude) {
    const int32_t bin = static_cast<int32_t>(magnitude >> kRankShift) - first;
    return bin > 0 ? bin : 0;
  };
  for (int64_t i = 0; i < n; ++i) ++next[bin_of(row.magnitudes[i])];
  uint32_t total = 0;
  for (int bin = 0; bin < kRankBins; ++bin) {
    start[bin] = total;
    total += next[bin];
    next[bin] = start[bin];
    surely[bin] = rank_threshold(mask, start[bin]);
    never[bin] = rank_threshold(mask, total > start[bin] ? total - 1 : start[bin]);
  }
  start[kRankBins] = total;
  int64_t open = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t magnitude = row.magnitudes[i], word = row.words[i];
    const int bin = bin_of(magnitude);
    const uint32_t place = next[bin]++;
    row.binned[place] = magnitude;
    const bool kept = word < surely[bin], there = magnitude != 0;
    keep[i] = static_cast<uint8_t>(kept & there);
    row.open[2 * open] = static_cast<uint32_t>(i);
    row.open[2 * open + 1] = place;
    open += (word < never[bin]) & !kept & there;
  }
  int64_t effort = kRankEffort * n;
  for (int64_t k = 0; k < open; ++k) {
    const uint32_t i = row.open[2 * k], place = row.open[2 * k + 1];
    const int bin = bin_of(row.magnitudes[i]);
    const uint32_t from = start[bin], size = start[bin + 1] - from;
    effort -= size;
    if (effort < 0) return keep_by_sorting(mask, row, n, keep);
    const int64_t rank = from + rank_among(row.binned + from, size, place - from);
    keep[i] = static_cast<uint8_t>(row.words[i] < rank_threshold(mask, rank));
  }
}

Flags rank_masks(const RankMaskJob& job, int64_t begin, int64_t end) {
  const int64_t n = job.columns;
  const RowScratch row(thread_scratch(RowScratch::floats(n)), n);
  Flags flags = 0;
  // load() takes runs of an int; a row may be longer.
  const auto load_row = [&](int index, const Input& input, int64_t pos, float* out) {
    for (int64_t at = 0; at < n; at += 1 << 20) {
      const int count = static_cast<int>(n - at < 1 << 20 ? n - at : 1 << 20);
      flags |= flag(index, load(input, pos + at, count, job.zero_nonfinite, out + at));
    }
  };
  for (int64_t pos = begin; pos < end; pos += n) {
    load_row(0, job.base, pos, row.base);
    for (int i = 0; i < job.count; ++i) {
      const RankMask& mask = job.masks[i];
      uint8_t* keep = job.keeps[i] + pos;
      float* x = reinterpret_cast<float*>(row.magnitudes);
      load_row(i + 1, job.experts[i], pos, x);
      int32_t largest = 0;
      for (int64_t j = 0; j < n; ++j) {
        const int32_t magnitude = static_cast<int32_t>(magnitude_bits(x[j] - row.base[j]));
        largest = magnitude > largest ? magnitude : largest;
        std::memcpy(x + j, &magnitude, sizeof magnitude);
      }
      for (int64_t at = 0; at < n; at += 1 << 20) {
        const int count = static_cast<int>(n - at < 1 << 20 ? n - at : 1 << 20);
        random_words(job.offset + pos + at, count, mask.key, row.words + at);
      }
      if (n <= kShortRow)
        keep_in_short_row(mask, row, n, keep);
      else
        keep_in_row(mask, row, n, static_cast<uint32_t>(largest), keep);
    }
  }
  return flags;
}

template <class T>
void copy_kept(const MaskedCopy& copy, int64_t begin, int64_t end) {
  using Bits = decltype(T::bits);
  const Bits* base = &static_cast<const T*>(copy.base.data)->bits;
  const Bits* x = &static_cast<const T*>(copy.expert.data)->bits;
  Bits* __restrict__ out = &static_cast<T*>(copy.out.data)->bits;
  for (int64_t j = begin; j < end; ++j) {
    const Bits m = static_cast<Bits>(0 - copy.keep[j]);
    out[j] = static_cast<Bits>((x[j] & m) | (base[j] & static_cast<Bits>(~m)));
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
    for (int j = 0; j < n; ++j) x[j] = copy.keep[pos + j] != 0 ? x[j] : base[j];
    std::memcpy(static_cast<float*>(copy.out.data) + pos, x, n * sizeof(float));
  }
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
