// merge_task_vectors for any number of experts and every election: vectors whose inputs are read
// twice, the second time from the first-level cache.
#include "cuda/merge.cuh"

namespace mergesafe::cuda {
namespace {

struct View {
  const Batch& batch;
  const Coefficients& c;
  int j;
  int v;
  uint64_t first;  // index of the tile's first element within its tensor
};

// d of expert i for a vector at pos.
__device__ __forceinline__ void weighted_vector(const View& view, int i, const float (&b)[kVector],
                                                int64_t pos, float (&d)[kVector]) {
  const Expert& e = view.batch.expert(view.j, i);
  const float weight = view.c.weights[i];
  float x[kVector];
  expand(fetch(e.source, pos), e.source, x);
  const uint32_t bits = e.kept.hi == kByWord ? random_bits(e, view.first) >> (kVector * view.v) : 0;
#pragma unroll
  for (int k = 0; k < kVector; ++k) {
    const float delta = x[k] - b[k];
    d[k] = weighted(keeps_bit(e, delta, bits >> k), delta, e.rescale, weight);
  }
}

__device__ __forceinline__ void merge_vector(const View& view, int64_t pos) {
  const Job& job = view.batch.job(view.j);
  const Coefficients& c = view.c;
  const int count = view.batch.count;
  float b[kVector], d[kVector], total[kVector] = {}, by[kVector];
  expand(fetch(job.first, pos), job.first, b);
#pragma unroll
  for (int k = 0; k < kVector; ++k) by[k] = c.rule.divisor;
  for (int i = 0; i < count; ++i) {
    weighted_vector(view, i, b, pos, d);
#pragma unroll
    for (int k = 0; k < kVector; ++k) total[k] = vote(c.rule, total[k], d[k]);
  }
  if (c.rule.elect != Elect::kNone) {
    uint32_t flip[kVector];
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      flip[k] = elected_flip(total[k]);
      total[k] = 0.0f;
      by[k] = 0.0f;
    }
    for (int i = 0; i < count; ++i) {
      weighted_vector(view, i, b, pos, d);
#pragma unroll
      for (int k = 0; k < kVector; ++k) agree(d[k], c.weights[i], flip[k], total[k], by[k]);
    }
  }
#pragma unroll
  for (int k = 0; k < kVector; ++k) b[k] = merged(c.rule, b[k], total[k], by[k]);
  store(b, job.out, job.out_dtype, pos);
}

__global__ void __launch_bounds__(kThreads)
    merge_any_kernel(MS_PARAMETER(Batch) batch, MS_PARAMETER(MergeCall) call) {
  for (uint32_t tile = blockIdx.x; tile < batch.tiles; tile += gridDim.x) {
    const int j = batch.find(tile);
    const Job& job = batch.job(j);
    const Coefficients c = coefficients_of(call, batch, j);
    const int64_t start = static_cast<int64_t>(tile - batch.start(j)) * kTile;
#pragma unroll 1
    for (int v = 0; v < kVectors; ++v) {
      const View view{batch, c, j, v, job.offset + start};
      const int64_t pos = start + (job.random && job.vectors ? random_place(v) : place(v));
      if (job.vectors && pos + kVector <= job.n) {
        merge_vector(view, pos);
      } else {
        for (int64_t p = pos; p < pos + kVector && p < job.n; ++p) merge_one(batch, j, c, p);
      }
    }
  }
}

}  // namespace

void merge_any(const Batch& batch, const MergeCall& call, Stream stream) {
  MS_LAUNCH(merge_any_kernel, grid_for(batch.tiles), kThreads, stream.handle, batch, call);
}

}  // namespace mergesafe::cuda
