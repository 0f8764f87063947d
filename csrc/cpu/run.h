// The CPU entry points: kernels of the chosen instruction set over threads. Results do not depend
// on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"

namespace mergesafe::cpu {

// a * b, the length of a list; throws std::bad_alloc where no list is as long.
int64_t product(int64_t a, int64_t b);

Flags run_weighted_sum(const SumJob& job, int64_t n, int threads);
Flags run_merge(const MergeJob& job, int64_t n, int threads);
// kernel: its number in FusedList.
Flags run_fused(int kernel, const FusedJob& job, int64_t n, int threads);
// The bits of the k-th largest |delta| per query; queries in ascending order of expert.
Flags run_kth_magnitude(const DeltaJob& job, int64_t n, const std::vector<RankQuery>& queries,
                        int threads, uint32_t* answers);
// Adds to counts[expert][bin].
Flags run_histogram(const DeltaJob& job, const int64_t* prefixes, int64_t n, int threads,
                    int64_t* counts);
// Continues totals[i][j] (upper triangle) over further elements.
Flags run_gram(const std::vector<Input>& inputs, bool zero_nonfinite, int64_t n, int threads,
               double* totals);
// Continues totals[expert][2]: sums of |d| or d^2, or maxima, of all and of the kept elements.
Flags run_delta_norms(const MergeJob& job, Norm norm, int64_t n, int threads, double* totals);
// Continues totals[i][j] (upper triangle), of task vectors.
Flags run_delta_gram(const DeltaJob& job, int64_t n, int threads, double* totals);
// Continues totals[i][j] and counts[i][j][2] (upper triangles) over further elements; see Kernels.
Flags run_compare(const DeltaJob& job, bool with_base, int64_t n, int threads, double* totals,
                  int64_t* counts);
// Adds to counts[expert][2]; see Kernels.
Flags run_count_changes(const DeltaJob& job, float epsilon, int64_t n, int threads,
                        int64_t* counts);
// Of n elements, whole rows.
Flags run_rank_masks(const RankMaskJob& job, int64_t n, int threads);
Flags run_stock_rows(const StockJob& job, int64_t n, int threads);
// `function`: its number in kTileShapes.
Flags run_tile(int function, const TileJob& job, int64_t n, int threads);
// `function`: its number in kTileScores.
Flags run_tile_scores(int function, const TileScoreJob& job, int64_t n, int threads);
void run_masked_copy(const MaskedCopy& copy, int64_t n, int threads);
// Adds to counts[bin] and nonzero; see Kernels.
Flags run_score_histogram(const ScoreJob& job, int64_t prefix, int64_t n, int threads,
                          int64_t* counts, int64_t* nonzero);
// Continues totals[expert]: sums of the squares of selected deltas.
Flags run_score_norms(const ScoreJob& job, int64_t n, int threads, double* totals);
Flags run_merge_scored(const ScoreJob& job, int64_t n, int threads);
// out[i] = the sum over elements of grad times input i.
void run_inner_products(const Input& grad, const std::vector<Input>& inputs, int64_t n, int threads,
                        double* out);
// out[count + 1]: the sums for each weight, then for the scale.
void run_merge_gradient(const GradientJob& job, int64_t n, int threads, double* out);
void run_add_low_rank(const Input& w, const float* a, const float* b, int64_t rank, int64_t columns,
                      float scale, int64_t begin, int64_t end, int threads, float* out);
void run_triad(float* a, const float* b, const float* c, float s, int64_t n, int threads);

}  // namespace mergesafe::cpu
