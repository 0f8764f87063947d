// weighted_sum, for any number of inputs.
#include "cuda/launch.h"
#include "cuda/run.h"
#include "cuda/tiles.cuh"

namespace mergesafe::cuda {
namespace {

constexpr int kTogether = 4;  // inputs whose loads are in flight at once

// same: whether values that all inputs share are returned as they are.
__device__ __forceinline__ void sum_vector(const Batch& batch, int j, const float* weights,
                                           bool same, int64_t pos) {
  const Job& job = batch.job(j);
  float total[kVector], first[kVector];
  bool alike[kVector];
#pragma unroll 1
  for (int from = 0; from < batch.count; from += kTogether) {
    Raw raw[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
      if (from + i < batch.count) raw[i] = fetch(batch.expert(j, from + i).source, pos);
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (from + i < batch.count) {
        const float weight = weights[from + i];
        float x[kVector];
        expand(raw[i], batch.expert(j, from + i).source, x);
#pragma unroll
        for (int k = 0; k < kVector; ++k) {
          if (from + i == 0) {
            first[k] = x[k];
            alike[k] = same;
            total[k] = x[k] * weight;
          } else {
            alike[k] = alike[k] & same_bits(x[k], first[k]);
            total[k] = total[k] + x[k] * weight;
          }
        }
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kVector; ++k) total[k] = alike[k] ? first[k] : total[k];
  store(total, job.out, job.out_dtype, pos);
}

__device__ inline void sum_one(const Batch& batch, int j, const float* weights, bool same,
                               int64_t pos) {
  const float first = load_one(batch.expert(j, 0).source, pos);
  float total = first * weights[0];
  for (int i = 1; i < batch.count; ++i) {
    const float x = load_one(batch.expert(j, i).source, pos);
    total = total + x * weights[i];
    same = same & same_bits(x, first);
  }
  store_one(same ? first : total, batch.job(j).out, batch.job(j).out_dtype, pos);
}

__global__ void __launch_bounds__(kThreads)
    sum_kernel(MS_PARAMETER(Batch) batch, const float* weights) {
  for (uint32_t tile = blockIdx.x; tile < batch.tiles; tile += gridDim.x) {
    const int j = batch.find(tile);
    const Job& job = batch.job(j);
    const float* row = weights + static_cast<int64_t>(batch.before + j) * batch.count;
    const bool same = sums_to_one(row, batch.count);
    const int64_t start = static_cast<int64_t>(tile - batch.start(j)) * kTile;
#pragma unroll 1
    for (int v = 0; v < kVectors; ++v) {
      const int64_t pos = start + place(v);
      if (job.vectors && pos + kVector <= job.n) {
        sum_vector(batch, j, row, same, pos);
      } else {
        for (int64_t p = pos; p < pos + kVector && p < job.n; ++p) sum_one(batch, j, row, same, p);
      }
    }
  }
}

}  // namespace

void sum_batch(const Batch& batch, const float* weights, Stream stream) {
  MS_LAUNCH(sum_kernel, grid_for(batch.tiles), kThreads, stream.handle, batch, weights);
}

}  // namespace mergesafe::cuda
