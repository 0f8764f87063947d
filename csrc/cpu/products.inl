// Inner products of all pairs of rows at once. Once per instruction set.
//
// Rows are kChunk apart. `lanes` has the sixteen lanes of every pair (i, k), i <= k, in the order
// of the rows; they carry on through the chunks of a block, so that every sum has the order of
// core/reduce.h, whatever is computed side by side.
#pragma once

#include <cstdint>

#include "cpu/lanes.inl"
#include "cpu/load.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

constexpr int kMostPaired = 5;  // up to this many rows, loops are unrolled over their pairs

constexpr int64_t pairs_of(int64_t count) { return count * (count + 1) / 2; }

// How many parts of the lanes of so many sums and rows the registers hold, one being left over.
constexpr int parts_side_by_side(int values) {
  int parts = Lanes::kParts;
  while (parts > 1 && parts * values >= Lanes::kRegisters) parts /= 2;
  return parts;
}

// Each element is converted once and meets all others in registers.
template <int N>
void add_pairs(const float* x, int n, double* lanes) {
  constexpr int kPairs = pairs_of(N), kSide = parts_side_by_side(kPairs + N);
  const int whole = n / kReduceLanes * kReduceLanes;
  for (int first = 0; first < kReduceLanes; first += kSide * Lanes::kPart) {
    Lanes::Part sums[kPairs][kSide], row[N][kSide];
    for (int pair = 0; pair < kPairs; ++pair)
      for (int p = 0; p < kSide; ++p)
        sums[pair][p] = Lanes::read(lanes + pair * kReduceLanes + first + p * Lanes::kPart);
    for (int at = first; at < whole; at += kReduceLanes) {
      for (int i = 0; i < N; ++i)
        for (int p = 0; p < kSide; ++p)
          row[i][p] = Lanes::wide(x + i * kChunk + at + p * Lanes::kPart);
      for (int i = 0, pair = 0; i < N; ++i)
        for (int k = i; k < N; ++k, ++pair)
          for (int p = 0; p < kSide; ++p)
            sums[pair][p] = Lanes::fused(row[i][p], row[k][p], sums[pair][p]);
    }
    for (int pair = 0; pair < kPairs; ++pair)
      for (int p = 0; p < kSide; ++p)
        Lanes::write(lanes + pair * kReduceLanes + first + p * Lanes::kPart, sums[pair][p]);
  }
  for (int j = whole, lane = 0; j < n; ++j, ++lane) {
    double* sum = lanes + lane;
    for (int i = 0; i < N; ++i)
      for (int k = i; k < N; ++k, sum += kReduceLanes)
        *sum =
            *sum + static_cast<double>(x[i * kChunk + j]) * static_cast<double>(x[k * kChunk + j]);
  }
}

inline void add_all_pairs(const float* x, int count, int n, double* lanes) {
  switch (count) {
    case 1: return add_pairs<1>(x, n, lanes);
    case 2: return add_pairs<2>(x, n, lanes);
    case 3: return add_pairs<3>(x, n, lanes);
    case 4: return add_pairs<4>(x, n, lanes);
    case kMostPaired: return add_pairs<kMostPaired>(x, n, lanes);
    default: break;
  }
  for (int i = 0; i < count; ++i)
    for (int k = i; k < count; ++k, lanes += kReduceLanes)
      add_products(x + i * kChunk, x + k * kChunk, n, lanes);
}

// block[i * count + k] = the sum of the pair's lanes, which are zero afterwards.
inline void finish_pairs(int count, double* lanes, double* block) {
  for (int i = 0; i < count; ++i) {
    for (int k = i; k < count; ++k, lanes += kReduceLanes) {
      block[i * count + k] = add_lanes(lanes);
      for (int lane = 0; lane < kReduceLanes; ++lane) lanes[lane] = 0.0;
    }
  }
}

// Scratch of the calling thread: the lanes, cleared, and `rows` rows after them.
struct PairScratch {
  double* lanes;
  float* rows;

  PairScratch(int64_t count, int64_t rows_needed) {
    const int64_t values = pairs_of(count) * kReduceLanes;
    lanes = reinterpret_cast<double*>(thread_scratch(2 * values + rows_needed * kChunk));
    rows = reinterpret_cast<float*>(lanes + values);
    for (int64_t i = 0; i < values; ++i) lanes[i] = 0.0;
  }
};

// Calls chunk(pos, n) for the chunks of [begin, end), and finishes the sums of every block.
template <class Chunk>
void over_blocks(int count, int64_t begin, int64_t end, double* lanes, double* sums,
                 Chunk&& chunk) {
  static_assert(kReduceBlock % kChunk == 0);
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    chunk(pos, static_cast<int>(end - pos < kChunk ? end - pos : kChunk));
    if ((pos - begin) % kReduceBlock != kReduceBlock - kChunk && pos + kChunk < end) continue;
    finish_pairs(count, lanes, sums);
    sums += static_cast<int64_t>(count) * count;
  }
}

Flags gram(const Input* inputs, int count, bool zero_nonfinite, int64_t begin, int64_t end,
           double* sums) {
  const PairScratch scratch(count, count);
  Flags flags = 0;
  over_blocks(count, begin, end, scratch.lanes, sums, [&](int64_t pos, int n) {
    for (int i = 0; i < count; ++i)
      flags |= flag(i, load(inputs[i], pos, n, zero_nonfinite, scratch.rows + i * kChunk));
    add_all_pairs(scratch.rows, count, n, scratch.lanes);
  });
  return flags;
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
