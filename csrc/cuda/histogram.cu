// Radix histogram of magnitudes, for tensors that are streamed in tiles.
#include "core/select.h"
#include "cuda/launch.h"
#include "cuda/run.h"
#include "cuda/tiles.cuh"

namespace mergesafe::cuda {
namespace {

constexpr int kNoBin = -1;

// Adds one to a bin for every thread of the warp; threads with the same bin add together, because
// magnitudes crowd in few bins.
__device__ __forceinline__ void count(int bin, unsigned long long* bins) {
  const unsigned peers = __match_any_sync(0xFFFFFFFFu, bin);
  const int first = __ffs(static_cast<int>(peers)) - 1;
  if (bin != kNoBin && static_cast<int>(threadIdx.x) % 32 == first)
    atomicAdd(&bins[bin], static_cast<unsigned long long>(__popc(peers)));
}

// blockIdx.y is the expert. Every thread takes one element at a time and stays for all of a tile,
// so that warps are whole.
__global__ void __launch_bounds__(kThreads)
    histogram_kernel(MS_PARAMETER(Batch) batch, const int64_t* prefixes,
                     unsigned long long* counts) {
  const int i = static_cast<int>(blockIdx.y);
  unsigned long long* const bins = counts + static_cast<int64_t>(i) * kHistogramBins;
  for (uint32_t tile = blockIdx.x; tile < batch.tiles; tile += gridDim.x) {
    const int j = batch.find(tile);
    const Job& job = batch.job(j);
    const int64_t start = static_cast<int64_t>(tile - batch.start(j)) * kTile;
    for (int at = threadIdx.x; at < kTile; at += kThreads) {
      int bin = kNoBin;
      if (start + at < job.n) {
        const uint32_t bits = magnitude_bits(load_one(batch.expert(j, i).source, start + at) -
                                             load_one(job.first, start + at));
        const int high = static_cast<int>(bits >> kLowBits);
        if (prefixes == nullptr)
          bin = high;
        else if (high == prefixes[i])
          bin = static_cast<int>(bits & ((1u << kLowBits) - 1u));
      }
      count(bin, bins);
    }
  }
}

}  // namespace

void histogram_batch(const Batch& batch, const int64_t* prefixes, unsigned long long* counts,
                     Stream stream) {
  MS_LAUNCH(histogram_kernel, dim3(grid_for(batch.tiles), batch.count), kThreads, stream.handle,
            batch, prefixes, counts);
}

}  // namespace mergesafe::cuda
