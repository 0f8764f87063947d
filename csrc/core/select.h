// Exact selection of the k-th largest magnitude without a sort.
//
// A sample of the magnitudes gives a bracket [lo, hi] that very probably holds the answer, and its
// most probable value mid. One pass counts what lies above the bracket, counts the members equal
// to lo, mid and hi (differences of bf16 values tie heavily) and collects the few others; the
// answer is then found among those. A bracket that misses is detected by its counts, and a radix
// histogram decides instead: the result is exact in either case.
#pragma once

#include <cstdint>

namespace mergesafe {

struct Bracket {
  uint32_t lo;
  uint32_t mid;
  uint32_t hi;
};

struct BracketCounts {
  int64_t above = 0;  // > hi
  int64_t at_hi = 0;
  int64_t at_mid = 0;
  int64_t at_lo = 0;
};

// Radix of the histogram fallback, also used when a tensor is streamed in chunks: first the high
// 16 bits of the 31 magnitude bits, then the low 15 within one of those.
constexpr int kLowBits = 15;
constexpr int kHistogramBins = 1 << 16;

}  // namespace mergesafe
