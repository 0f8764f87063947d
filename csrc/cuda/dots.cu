// Inner products of gradients with inputs, and of all pairs of inputs.
#include "cuda/blocks.cuh"
#include "cuda/run.h"

namespace mergesafe::cuda {
namespace {

constexpr int kTogether = 4;  // inner products of one thread

// kPairs: blockIdx.y chooses input i, times all inputs k >= i. Else: the gradient, times all
// inputs.
template <bool kPairs>
__global__ void __launch_bounds__(kReduceThreads)
    dots_kernel(MS_PARAMETER(Batch) batch, double* partials) {
  const Team team(batch);
  const int chunks = (batch.count + kTogether - 1) / kTogether;
  const int from = static_cast<int>(blockIdx.y) % chunks * kTogether;
  const int row = static_cast<int>(blockIdx.y) / chunks;
  if (kPairs && from + kTogether <= row) return;
  const Job& job = batch.job(team.j);
  const Source given =
      kPairs ? batch.expert(team.j, row).source : Source{job.out, job.out_dtype, job.out_dtype};
  double lanes[kTogether][kEach] = {};
#pragma unroll 1
  for (int64_t at = team.begin; at < team.end; at += kRows * kReduceLanes) {
    const int64_t pos = at + team.member * kEach;
    const bool whole = job.vectors && at + kRows * kReduceLanes <= team.end;
    Rows g, x[kTogether];
    if (whole) {
      g.fetch(given, pos);
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
        if (from + i < batch.count) x[i].fetch(batch.expert(team.j, from + i).source, pos);
    } else {
      g.fetch_partly(given, pos, team.end);
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
        if (from + i < batch.count)
          x[i].fetch_partly(batch.expert(team.j, from + i).source, pos, team.end);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float gs[kEach], xs[kEach];
      g.expand(r, given, whole, gs);
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        if (from + i >= batch.count) continue;
        x[i].expand(r, batch.expert(team.j, from + i).source, whole, xs);
#pragma unroll
        for (int c = 0; c < kEach; ++c)
          lanes[i][c] = lanes[i][c] + static_cast<double>(gs[c]) * static_cast<double>(xs[c]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kTogether; ++i) {
    const double sum = add_team(lanes[i]);
    if (team.busy && team.member == 0 && from + i < batch.count) {
      const int64_t at = kPairs ? static_cast<int64_t>(row) * batch.count + from + i : from + i;
      partials[at * batch.tiles + team.block] = sum;
    }
  }
}

dim3 grid_of(const Batch& batch, int rows) {
  const unsigned chunks = (batch.count + kTogether - 1) / kTogether;
  return dim3((batch.tiles + kBlocksPerLaunch - 1) / kBlocksPerLaunch, chunks * rows);
}

}  // namespace

void dots_batch(const Batch& batch, bool pairs, double* partials, Stream stream) {
  if (pairs)
    MS_LAUNCH(dots_kernel<true>, grid_of(batch, batch.count), kReduceThreads, stream.handle, batch,
              partials);
  else
    MS_LAUNCH(dots_kernel<false>, grid_of(batch, 1), kReduceThreads, stream.handle, batch,
              partials);
}

}  // namespace mergesafe::cuda
