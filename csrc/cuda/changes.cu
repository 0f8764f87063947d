// Counts of the elements that task vectors change, alone or with others.
#include "core/ram.h"
#include "cuda/launch.h"
#include "cuda/run.h"
#include "cuda/tiles.cuh"

namespace mergesafe::cuda {
namespace {

static_assert(kTile == 32 * kThreads, "a bit for each element of a thread");
constexpr unsigned kWarp = 0xFFFFFFFFu;

// Bit k: whether the task vector changes the element `k * kThreads + threadIdx.x` of the tile.
__device__ __forceinline__ unsigned changes_of(const Source& expert, const Job& job, int64_t start,
                                               float epsilon) {
  unsigned changes = 0;
#pragma unroll 4
  for (int k = 0; k < 32; ++k) {
    const int64_t at = start + k * kThreads + threadIdx.x;
    if (at < job.n && is_change(load_one(expert, at) - load_one(job.first, at), epsilon))
      changes |= 1u << k;
  }
  return changes;
}

// counts[2 i] += the elements that expert i alone changes, counts[2 i + 1] += those that it and
// others change. Sums of integers: their order does not matter.
__global__ void __launch_bounds__(kThreads)
    changes_kernel(MS_PARAMETER(Batch) batch, float epsilon, unsigned long long* counts) {
  for (uint32_t tile = blockIdx.x; tile < batch.tiles; tile += gridDim.x) {
    const int j = batch.find(tile);
    const Job& job = batch.job(j);
    const int64_t start = static_cast<int64_t>(tile - batch.start(j)) * kTile;
    unsigned any = 0, several = 0;
#pragma unroll 1
    for (int i = 0; i < batch.count; ++i) {
      const unsigned changes = changes_of(batch.expert(j, i).source, job, start, epsilon);
      several |= any & changes;
      any |= changes;
    }
#pragma unroll 1
    for (int i = 0; i < batch.count; ++i) {
      const unsigned changes = changes_of(batch.expert(j, i).source, job, start, epsilon);
      const unsigned alone = __reduce_add_sync(kWarp, __popc(changes & ~several));
      const unsigned shared = __reduce_add_sync(kWarp, __popc(changes & several));
      if (threadIdx.x % 32 == 0) {
        atomicAdd(&counts[2 * i], static_cast<unsigned long long>(alone));
        atomicAdd(&counts[2 * i + 1], static_cast<unsigned long long>(shared));
      }
    }
  }
}

}  // namespace

void changes_batch(const Batch& batch, float epsilon, unsigned long long* counts, Stream stream) {
  MS_LAUNCH(changes_kernel, grid_for(batch.tiles), kThreads, stream.handle, batch, epsilon, counts);
}

}  // namespace mergesafe::cuda
