// The backward pass for more experts than registers hold: inputs are read again, from the
// first-level cache, for the votes, the sums and the terms.
#include "core/gradient.h"
#include "cuda/blocks.cuh"
#include "cuda/merge.cuh"

namespace mergesafe::cuda {
namespace {

constexpr int kTogether = 4;  // experts of one thread; blockIdx.y says which

__global__ void __launch_bounds__(kReduceThreads)
    gradient_any_kernel(MS_PARAMETER(Batch) batch, const float* all_weights, Elect elect,
                        bool normalize, double* partials) {
  const Team team(batch);
  const Job& job = batch.job(team.j);
  const Source given{job.out, job.out_dtype, job.out_dtype};
  const float* weights = all_weights + static_cast<int64_t>(batch.before + team.j) * batch.count;
  const int from = static_cast<int>(blockIdx.y) * kTogether;
  const AnyRule rule{0.0f, 1.0f, elect, normalize};
  double lanes[kTogether + 1][kEach] = {};
#pragma unroll
  for (int c = 0; c < kEach; ++c) {
#pragma unroll 1
    for (int64_t p = team.begin + team.member * kEach + c; p < team.end; p += kReduceLanes) {
      const ReadAgain experts{batch, weights, team.j, p, load_one(job.first, p)};
      const float g = load_one(given, p);
      const Shares s = shares_of(rule, g, experts);
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        if (from + i >= batch.count) continue;
        const float factor = term_of(rule, s, experts.kept(from + i), weights[from + i]);
        lanes[i][c] = lanes[i][c] + static_cast<double>(s.share) * static_cast<double>(factor);
      }
      lanes[kTogether][c] =
          lanes[kTogether][c] + static_cast<double>(g) * static_cast<double>(s.mean);
    }
  }
  const bool writes = team.busy && team.member == 0;
#pragma unroll
  for (int i = 0; i < kTogether; ++i) {
    const double sum = add_team(lanes[i]);
    if (writes && from + i < batch.count)
      partials[static_cast<int64_t>(from + i) * batch.tiles + team.block] = sum;
  }
  const double last = add_team(lanes[kTogether]);
  if (writes && from == 0)
    partials[static_cast<int64_t>(batch.count) * batch.tiles + team.block] =
        elect != Elect::kNone && normalize ? last : 0.0;
}

}  // namespace

void gradient_any(const Batch& batch, const float* weights, Elect elect, bool normalize,
                  double* partials, Stream stream) {
  const dim3 grid((batch.tiles + kBlocksPerLaunch - 1) / kBlocksPerLaunch,
                  (batch.count + kTogether - 1) / kTogether);
  MS_LAUNCH(gradient_any_kernel, grid, kReduceThreads, stream.handle, batch, weights, elect,
            normalize, partials);
}

}  // namespace mergesafe::cuda
