// The kernels of one instruction set, as a table of functions. Each works on elements
// [begin, end) of its job on the calling thread; begin is a multiple of kReduceBlock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/fused.h"
#include "core/job.h"
#include "core/rank_mask.h"
#include "core/score.h"
#include "core/select.h"
#include "core/stock.h"
#include "core/tile.h"

namespace mergesafe::cpu {

// Bit i is set when input i (the base first) held NaN or infinity; bit 63 when the output does.
// Inputs past 62 share bit 62.
using Flags = uint64_t;
constexpr Flags kOutputFlag = Flags{1} << 63;

// Bytes of one block of a digest; tiles of a tensor begin at multiples of it.
constexpr int64_t kDigestBlock = 8192;

struct Collected {
  uint32_t* data;  // room for `capacity` + 64 values
  int64_t capacity;
  int64_t size;  // set to -1 when the capacity did not suffice
};

// By number in FusedList.
struct FusedTable {
  Flags (*kernels[FusedList::kCount])(const FusedJob&, int64_t begin, int64_t end);
};

// In the order of kTileShapes and kTileScores.
struct TileTable {
  Flags (*functions[kTileFunctions])(const TileJob&, int64_t begin, int64_t end);
  Flags (*scores[kTileScoreFunctions])(const TileScoreJob&, int64_t begin, int64_t end);
};

struct Kernels {
  const char* name;
  Flags (*weighted_sum)(const SumJob&, int64_t begin, int64_t end);
  Flags (*merge_task_vectors)(const MergeJob&, int64_t begin, int64_t end);
  FusedTable fused;
  // out[j] = magnitude bits of expert's delta at begin + j.
  void (*magnitudes)(const DeltaJob&, int expert, int64_t begin, int64_t end, uint32_t* out);
  // One pass over all experts; query q looks at expert queries[q].expert, in ascending order. Where
  // the base has no data, the experts are scores in float32, whose own magnitudes count.
  Flags (*bracket)(const DeltaJob&, const RankQuery* queries, const Bracket* brackets, int count,
                   int64_t begin, int64_t end, BracketCounts* counts, Collected* collected);
  // Of n values with room for 15 more: how many exceed bound; those in [lo, hi] moved to the front.
  int64_t (*count_above)(const uint32_t* values, int64_t n, uint32_t bound);
  int64_t (*narrow)(uint32_t* values, int64_t n, uint32_t lo, uint32_t hi);
  // counts[expert][bin]: of the high 16 bits if prefixes is null, else of the low bits of those
  // whose high bits equal prefixes[expert].
  Flags (*histogram)(const DeltaJob&, const int64_t* prefixes, int64_t begin, int64_t end,
                     int64_t* counts);
  // sums[block][i][j], i <= j, of inner products of inputs.
  Flags (*gram)(const Input* inputs, int count, bool zero_nonfinite, int64_t begin, int64_t end,
                double* sums);
  // sums[block][expert][2]: norm terms (|d|, d^2 or max |d|) of all and of the kept elements.
  Flags (*delta_norms)(const MergeJob&, Norm norm, int64_t begin, int64_t end, double* sums);
  // With task vectors t_i = experts[i] - base: sums[block][i][j], i <= j, of inner products of the
  // t_i.
  Flags (*delta_gram)(const DeltaJob&, int64_t begin, int64_t end, double* sums);
  // The same, base itself before the t_i if with_base; counts[i][j][2], i < j, += the elements
  // in which t_i and t_j both are not zero, and of these those in which their signs are opposite.
  Flags (*compare)(const DeltaJob&, bool with_base, int64_t begin, int64_t end, double* sums,
                   int64_t* counts);
  // counts[expert][2] += the elements that the expert alone changes (see core/ram.h), and those
  // that others change, too.
  Flags (*count_changes)(const DeltaJob&, float epsilon, int64_t begin, int64_t end,
                         int64_t* counts);
  // sums[block][i] of grad times input i.
  void (*inner_products)(const Input& grad, const Input* inputs, int count, int64_t begin,
                         int64_t end, double* sums);
  // sums[block][count + 1]: the terms of each weight, then of the scale; see core/gradient.h.
  void (*merge_gradient)(const GradientJob&, int64_t begin, int64_t end, double* sums);
  // out = w + scale * (b a) for elements [begin, end) of a matrix with `columns` columns.
  void (*add_low_rank)(const Input& w, const float* a, const float* b, int64_t rank,
                       int64_t columns, float scale, int64_t begin, int64_t end, float* out);
  // Rows of job.columns elements; begin and end are multiples of that. Writes job.keeps.
  Flags (*rank_masks)(const RankMaskJob&, int64_t begin, int64_t end);
  void (*masked_copy)(const MaskedCopy&, int64_t begin, int64_t end);
  // counts[bin] as in histogram, of scores; prefix is -1 for their high bits. nonzero += the scores
  // that are not 0.
  Flags (*score_histogram)(const ScoreJob&, int64_t prefix, int64_t begin, int64_t end,
                           int64_t* counts, int64_t* nonzero);
  // sums[block][expert] of the squares of selected deltas.
  Flags (*score_norms)(const ScoreJob&, int64_t begin, int64_t end, double* sums);
  Flags (*merge_scored)(const ScoreJob&, int64_t begin, int64_t end);
  // Whole rows.
  Flags (*stock_rows)(const StockJob&, int64_t begin, int64_t end);
  TileTable tiles;
  int64_t (*count_nonfinite)(const Input& input, int64_t n);
  void (*triad)(float* a, const float* b, const float* c, float s, int64_t begin, int64_t end);
  // sum = {high, low} of the digest of these bytes, which begin at block number first_block.
  void (*digest)(const void* data, int64_t nbytes, uint64_t first_block, uint64_t sum[2]);
};

// Cache-line aligned scratch of the calling thread, kept for its next call.
float* thread_scratch(int64_t floats);

const Kernels& current();              // what runs now
void use(const std::string& name);     // force one by name; throws std::invalid_argument
std::vector<std::string> available();  // names usable on this machine, best last
std::vector<std::string> compiled();   // names in this build

}  // namespace mergesafe::cpu
