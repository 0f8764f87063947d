// The CUDA entry points. Everything is enqueued on the given stream of the given device; nothing
// synchronises and nothing is allocated: callers bring workspaces. Results do not depend on the
// device or on the size of the grid.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/job.h"
#include "cuda/batch.h"

namespace mergesafe::cuda {

struct Stream {
  int device;
  cudaStream_t handle;
};

// Many jobs of one call, as flat lists: [jobs], and [jobs][count] for what concerns an expert.
struct JobList {
  int count = 0;                            // experts (or inputs) of every job
  std::vector<uint64_t> first, out;         // addresses; see Job
  std::vector<int> first_dtype, out_dtype;  // DType
  std::vector<int64_t> n;
  std::vector<uint64_t> offset;
  std::vector<uint64_t> inputs;  // addresses
  std::vector<int> dtypes;
  // What survives of every task vector; empty where nothing is dropped.
  std::vector<uint32_t> lo, hi, threshold;
  std::vector<uint64_t> key;  // of Philox, or the rank that is asked for
  std::vector<float> rescale;
  std::vector<bool> random;

  // Of all jobs together: more than any device holds, and so few that tiles and sums of blocks can
  // be counted.
  static constexpr int64_t kMostElements = int64_t{1} << 42;

  int jobs() const { return static_cast<int>(n.size()); }
  void validate() const;      // throws std::invalid_argument when lists have different lengths
  void check_arrays() const;  // the same when what valid lists say of memory cannot be
};

// Arrays on the device, by job: weights [jobs][count], scales [jobs].
struct MergeCall {
  const float* weights;
  const float* scales;
  Elect elect;
  bool normalize;
};

void run_sums(const JobList& jobs, const float* weights, Stream stream);
void run_merges(const JobList& jobs, const MergeCall& call, Stream stream);

// kernel: its number in FusedList; coefficients on the device, [jobs][as many as it takes].
void run_fused(int kernel, const JobList& jobs, const float* coefficients, Stream stream);

// Doubles of workspace that the reductions below need for `sums` sums of every job.
int64_t reduction_workspace(const JobList& jobs, int sums);
// totals[jobs][count]: gradients (out) times inputs.
void run_inner_products(const JobList& jobs, double* workspace, double* totals, Stream stream);
// totals[jobs][count + 1], see core/gradient.h.
void run_merge_gradients(const JobList& jobs, const MergeCall& call, double* workspace,
                         double* totals, Stream stream);
// Continues totals[count][count] of one job, the upper triangle.
void run_gram(const JobList& jobs, double* workspace, double* totals, Stream stream);
// Continues totals[jobs][count][2]: all and kept.
void run_norms(const JobList& jobs, Norm norm, double* workspace, double* totals, Stream stream);

// Bytes of workspace for the ranks of every job; answers[jobs][count] are bit patterns.
int64_t rank_workspace(const JobList& jobs);
void run_ranks(const JobList& jobs, void* workspace, uint32_t* answers, Stream stream);

// Adds to counts[count][kHistogramBins] of one job: the high bits of magnitudes, or with prefixes
// [count], on the device, the low bits of those whose high bits equal the prefix.
void run_histogram(const JobList& jobs, const int64_t* prefixes, unsigned long long* counts,
                   Stream stream);

// Adds to counts[count][2] of one job: the elements that a task vector alone changes by more than
// epsilon, and those that it and others change.
void run_changes(const JobList& jobs, float epsilon, unsigned long long* counts, Stream stream);

// Launches a kernel that does nothing: what a launch costs.
void run_nothing(int64_t work, Stream stream);

// Why kernels cannot run on this device, or "".
std::string problem_of(int device);

// --- one batch at a time: kernels of each file ------------------------------------------------

constexpr int kBins = 512;

struct RankState {
  uint32_t lo, mid, hi;      // the bracket; mid ties often
  uint32_t open;             // 0 when the answer is known
  int64_t k;                 // the rank asked for, from 1
  unsigned long long above;  // values above hi
};

struct RankBins {
  unsigned long long counts[kBins];
  uint32_t least[kBins], largest[kBins];
};

// What a batch of merges has in common, for kernels that are made for it.
struct Kind {
  bool random;  // any job keeps elements at random
  bool plain;   // all inputs and outputs are bfloat16, without a cast
};

void sum_batch(const Batch& batch, const float* weights, Stream stream);
void fused_batch(int kernel, const Batch& batch, const float* coefficients, Stream stream);
void merge_none(const Batch& batch, const MergeCall& call, Kind kind, Stream stream);
void merge_sum(const Batch& batch, const MergeCall& call, Kind kind, Stream stream);
void merge_any(const Batch& batch, const MergeCall& call, Stream stream);
void dots_batch(const Batch& batch, bool pairs, double* partials, Stream stream);
void gradient_batch(const Batch& batch, const float* weights, Elect elect, bool normalize,
                    double* partials, Stream stream);
void gradient_any(const Batch& batch, const float* weights, Elect elect, bool normalize,
                  double* partials, Stream stream);
void norms_batch(const Batch& batch, Norm norm, double* partials, Stream stream);
void tree_totals(const Batch& batch, int sums, double* partials, double* scratch, double* totals,
                 Stream stream);
void serial_totals(const Batch& batch, int sums, int pairs, bool largest, const double* partials,
                   double* totals, Stream stream);
void rank_batch(const Batch& batch, RankState* states, RankBins* bins, uint32_t* answers,
                Stream stream);
void histogram_batch(const Batch& batch, const int64_t* prefixes, unsigned long long* counts,
                     Stream stream);
void changes_batch(const Batch& batch, float epsilon, unsigned long long* counts, Stream stream);

}  // namespace mergesafe::cuda
