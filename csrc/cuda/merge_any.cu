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
  float b[kVector], d[kVector], total[kVector] = {}, by[kVector] = {};
  uint32_t flip[kVector];
  expand(fetch(job.first, pos), job.first, b);
  for (int i = 0; i < count; ++i) {
    weighted_vector(view, i, b, pos, d);
#pragma unroll
    for (int k = 0; k < kVector; ++k)
      total[k] = total[k] + (c.elect == Elect::kCount ? sign(d[k]) : d[k]);
  }
#pragma unroll
  for (int k = 0; k < kVector; ++k) {
    flip[k] = elected_flip(total[k]);
    total[k] = c.elect == Elect::kNone ? total[k] : 0.0f;
  }
  for (int i = 0; i < count && c.elect != Elect::kNone; ++i) {
    weighted_vector(view, i, b, pos, d);
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      const bool agreed = agrees(d[k], flip[k]);
      total[k] = total[k] + pick(agreed, d[k]);
      by[k] = by[k] + pick(agreed, c.weights[i]);
    }
  }
#pragma unroll
  for (int k = 0; k < kVector; ++k) {
    const float divisor = (by[k] != 0.0f) & c.normalize ? by[k] : 1.0f;
    b[k] = finish(b[k], total[k], c.elect == Elect::kNone ? c.divisor : divisor, c.scale);
  }
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
