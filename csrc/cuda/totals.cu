// The sums of blocks become sums of jobs, in the two orders of core/reduce.h.
#include "core/reduce.h"
#include "cuda/batch.h"
#include "cuda/launch.h"
#include "cuda/run.h"

namespace mergesafe::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kAtOnce = 1024;

// Block (j, s): 64 consecutive terms of sum s of job j at a time, until one is left, to and fro
// between partials and scratch. totals[job][sum].
__global__ void __launch_bounds__(kThreads)
    tree_kernel(MS_PARAMETER(Batch) batch, double* partials, double* scratch, double* totals) {
  const int j = static_cast<int>(blockIdx.x), s = static_cast<int>(blockIdx.y);
  const int64_t at = static_cast<int64_t>(s) * batch.tiles + batch.start(j);
  double *from = partials + at, *to = scratch + at;
  uint32_t left = batch.ends()[j] - batch.start(j);
  double* out = totals + static_cast<int64_t>(batch.before + j) * gridDim.y + s;
  if (left == 0 && threadIdx.x == 0) *out = 0.0;
  while (left > 1) {
    const uint32_t groups = (left + kReduceFan - 1) / kReduceFan;
    for (uint32_t g = threadIdx.x; g < groups; g += kThreads) {
      const uint32_t begin = g * kReduceFan;
      const uint32_t end = begin + kReduceFan < left ? begin + kReduceFan : left;
      double sum = from[begin];
#pragma unroll 8
      for (uint32_t i = begin + 1; i < end; ++i) sum = sum + from[i];
      to[g] = sum;
    }
    __syncthreads();
    double* const swap = from;
    from = to;
    to = swap;
    left = groups;
  }
  if (left == 1 && threadIdx.x == 0) *out = from[0];
}

__device__ __forceinline__ double continued(double total, double term, bool largest) {
  if (!largest) return total + term;
  return total >= term || total != total ? total : term;
}

// Block (j, s): totals[job][sum] continued over the terms in ascending order. With `pairs` inputs
// only sums of the upper triangle exist.
__global__ void __launch_bounds__(kThreads)
    serial_kernel(MS_PARAMETER(Batch) batch, const double* partials, int pairs, bool largest,
                  double* totals) {
  __shared__ double terms[kAtOnce];
  const int j = static_cast<int>(blockIdx.x), s = static_cast<int>(blockIdx.y);
  if (pairs > 0 && s / pairs > s % pairs) return;
  const double* from = partials + static_cast<int64_t>(s) * batch.tiles + batch.start(j);
  const uint32_t count = batch.ends()[j] - batch.start(j);
  double* const out = totals + static_cast<int64_t>(batch.before + j) * gridDim.y + s;
  double total = *out;
  for (uint32_t begin = 0; begin < count; begin += kAtOnce) {
    const uint32_t size = count - begin < kAtOnce ? count - begin : kAtOnce;
    for (uint32_t i = threadIdx.x; i < size; i += kThreads) terms[i] = from[begin + i];
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll 8
      for (uint32_t i = 0; i < size; ++i) total = continued(total, terms[i], largest);
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) *out = total;
}

}  // namespace

void tree_totals(const Batch& batch, int sums, double* partials, double* scratch, double* totals,
                 Stream stream) {
  MS_LAUNCH(tree_kernel, dim3(batch.jobs, sums), kThreads, stream.handle, batch, partials, scratch,
            totals);
}

void serial_totals(const Batch& batch, int sums, int pairs, bool largest, const double* partials,
                   double* totals, Stream stream) {
  MS_LAUNCH(serial_kernel, dim3(batch.jobs, sums), kThreads, stream.handle, batch, partials, pairs,
            largest, totals);
}

}  // namespace mergesafe::cuda
