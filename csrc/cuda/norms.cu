// Norms of task vectors, before and after sparsification.
#include "cuda/blocks.cuh"
#include "cuda/run.h"
#include "cuda/tiles.cuh"

namespace mergesafe::cuda {
namespace {

__device__ __forceinline__ double norm_term(Norm norm, float d) {
  if (norm == Norm::kL2) return static_cast<double>(d) * static_cast<double>(d);
  return static_cast<double>(float_of(bits_of(d) & kAbsMask));
}

// blockIdx.y is the expert; partials 2 i and 2 i + 1 are of all and of the kept elements. The
// largest magnitude is found on bit patterns, where NaN is the largest of all.
__global__ void __launch_bounds__(kReduceThreads)
    norms_kernel(MS_PARAMETER(Batch) batch, Norm norm, double* partials) {
  const Team team(batch);
  const Job& job = batch.job(team.j);
  const int i = static_cast<int>(blockIdx.y);
  const Expert& e = batch.expert(team.j, i);
  double all[kEach] = {}, kept[kEach] = {};
  uint32_t largest = 0, largest_kept = 0;
#pragma unroll 1
  for (int64_t at = team.begin; at < team.end; at += kRows * kReduceLanes) {
    const int64_t pos = at + team.member * kEach;
    const bool whole = job.vectors && at + kRows * kReduceLanes <= team.end;
    Rows x, base;
    if (whole) {
      x.fetch(e.source, pos);
      base.fetch(job.first, pos);
    } else {
      x.fetch_partly(e.source, pos, team.end);
      base.fetch_partly(job.first, pos, team.end);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float xs[kEach], bs[kEach];
      x.expand(r, e.source, whole, xs);
      base.expand(r, job.first, whole, bs);
#pragma unroll
      for (int c = 0; c < kEach; ++c) {
        // What is missing at the end is 0 - 0: it adds nothing to either.
        const float delta = xs[c] - bs[c];
        const bool keep = keeps(e, delta, job.offset + pos + r * kReduceLanes + c);
        const float survivor = pick(keep, delta);
        if (norm == Norm::kLinf) {
          largest = max(largest, magnitude_bits(delta));
          largest_kept = max(largest_kept, magnitude_bits(survivor));
        } else {
          all[c] = all[c] + norm_term(norm, delta);
          kept[c] = kept[c] + norm_term(norm, survivor);
        }
      }
    }
  }
  if (norm == Norm::kLinf) {
#pragma unroll
    for (int width = kTeam / 2; width > 0; width /= 2) {
      largest = max(largest, __shfl_down_sync(0xFFFFFFFFu, largest, width, kTeam));
      largest_kept = max(largest_kept, __shfl_down_sync(0xFFFFFFFFu, largest_kept, width, kTeam));
    }
  }
  const double sum = add_team(all), sum_kept = add_team(kept);
  if (!team.busy || team.member != 0) return;
  const bool linf = norm == Norm::kLinf;
  const int64_t at = static_cast<int64_t>(2 * i) * batch.tiles + team.block;
  partials[at] = linf ? static_cast<double>(float_of(largest)) : sum;
  partials[at + batch.tiles] = linf ? static_cast<double>(float_of(largest_kept)) : sum_kept;
}

}  // namespace

void norms_batch(const Batch& batch, Norm norm, double* partials, Stream stream) {
  const dim3 grid((batch.tiles + kBlocksPerLaunch - 1) / kBlocksPerLaunch, batch.count);
  MS_LAUNCH(norms_kernel, grid, kReduceThreads, stream.handle, batch, norm, partials);
}

}  // namespace mergesafe::cuda
