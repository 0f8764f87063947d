// merge_task_vectors: kernels for up to four experts, whose values stay in registers.
#pragma once

#include "core/chain.h"
#include "core/gradient.h"
#include "cuda/launch.h"
#include "cuda/run.h"
#include "cuda/tiles.cuh"

namespace mergesafe::cuda {

// What all elements of a job share, besides its experts.
struct Coefficients {
  const float* weights;
  AnyRule rule;
};

__device__ __forceinline__ Coefficients coefficients_of(const MergeCall& call, const Batch& batch,
                                                        int j) {
  const int row = batch.before + j;
  const float* weights = call.weights + static_cast<int64_t>(row) * batch.count;
  const float divisor = divisor_of(batch.count, call.normalize & (call.elect == Elect::kNone),
                                   [&](int i) { return weights[i]; });
  return {weights, {call.scales[row], divisor, call.elect, call.normalize}};
}

// The experts of one element, read again for every use: for any number of them, and for places
// where vectors do not fit.
struct ReadAgain {
  const Batch& batch;
  const float* weights;
  int j;
  int64_t pos;
  float base;

  __device__ __forceinline__ int count() const { return batch.count; }
  __device__ __forceinline__ float weight(int i) const { return weights[i]; }
  __device__ __forceinline__ float kept(int i) const {
    const Expert& e = batch.expert(j, i);
    const float delta = load_one(e.source, pos) - base;
    return kept_delta(keeps(e, delta, batch.job(j).offset + pos), delta, e.rescale);
  }
  __device__ __forceinline__ float first(int i) const { return kept(i) * weights[i]; }
  __device__ __forceinline__ float again(int i) const { return first(i); }
};

__device__ MS_OUTLINE inline void merge_one(const Batch& batch, int j, const Coefficients& c,
                                            int64_t pos) {
  const Job& job = batch.job(j);
  const float base = load_one(job.first, pos);
  const ReadAgain experts{batch, c.weights, j, pos, base};
  store_one(merge_element(c.rule, base, experts), job.out, job.out_dtype, pos);
}

// The same place, with the dtype known to the compiler where all is bfloat16 without a cast.
template <bool kPlain>
__device__ __forceinline__ Source known(const Source& s) {
  constexpr auto code = static_cast<uint8_t>(DType::kBF16);
  return kPlain ? Source{s.data, code, code} : s;
}

// The whole chain of a vector. keep: bits of random_bits, from bit 8 v on.
template <bool kPlain, int N, Elect kElect, bool kRandom, bool kDivide>
__device__ __forceinline__ void merge_vector(const Batch& batch, int j,
                                             const Chain<N, kElect, kRandom, kDivide>& chain,
                                             const uint32_t (&keep)[N], int v, int64_t pos) {
  const Job& job = batch.job(j);
  Raw raw[N + 1];
  raw[N] = fetch(known<kPlain>(job.first), pos);
#pragma unroll
  for (int i = 0; i < N; ++i) raw[i] = fetch(known<kPlain>(batch.expert(j, i).source), pos);
  float b[kVector], x[N][kVector], out[kVector];
  expand(raw[N], known<kPlain>(job.first), b);
#pragma unroll
  for (int i = 0; i < N; ++i) expand(raw[i], known<kPlain>(batch.expert(j, i).source), x[i]);
#pragma unroll
  for (int k = 0; k < kVector; ++k) {
    float row[N];
    uint32_t masks[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      row[i] = x[i][k];
      masks[i] = 1;
      if (kRandom) {
        const bool word = keep[i] >> (kVector * v + k) & 1u;
        masks[i] = chain.kept[i].hi == kByWord ? word : in_window(row[i] - b[k], chain.kept[i]);
      }
    }
    out[k] = chain(b[k], row, masks);
  }
  store(out, job.out, kPlain ? static_cast<uint8_t>(DType::kBF16) : job.out_dtype, pos);
}

// kPlain: all inputs and outputs are bfloat16. Blocks a processor: enough loads in flight, and no
// spills.
template <bool kPlain, int N, Elect kElect, bool kRandom, bool kDivide>
__global__ void __launch_bounds__(kThreads, kRandom ? 2 : (N < 4 ? 4 : 3))
    merge_kernel(MS_PARAMETER(Batch) batch, MS_PARAMETER(MergeCall) call) {
  Chain<N, kElect, kRandom, kDivide> chain;
  Coefficients c{};
  int current = -1;
  for (uint32_t tile = blockIdx.x; tile < batch.tiles; tile += gridDim.x) {
    const int j = batch.find(tile);
    const Job& job = batch.job(j);
    if (j != current) {
      current = j;
      c = coefficients_of(call, batch, j);
      chain.rule = {c.rule.scale, c.rule.divisor};
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const Expert& e = batch.expert(j, i);
        chain.rescale[i] = e.rescale;
        chain.weights[i] = c.weights[i];
        chain.kept[i] = e.kept;
      }
    }
    const int64_t start = static_cast<int64_t>(tile - batch.start(j)) * kTile;
    const bool spread = kRandom && job.random && job.vectors;
    uint32_t keep[N];
    if (spread) {
#pragma unroll
      for (int i = 0; i < N; ++i)
        keep[i] =
            chain.kept[i].hi == kByWord ? random_bits(batch.expert(j, i), job.offset + start) : 0;
    }
#pragma unroll 1
    for (int v = 0; v < kVectors; ++v) {
      const int64_t pos = start + (spread ? random_place(v) : place(v));
      if (job.vectors && pos + kVector <= job.n) {
        merge_vector<kPlain>(batch, j, chain, keep, v, pos);
      } else {
        for (int64_t p = pos; p < pos + kVector && p < job.n; ++p) merge_one(batch, j, c, p);
      }
    }
  }
}

template <bool kPlain, int N, Elect kElect, bool kRandom>
void launch_merge(const Batch& batch, const MergeCall& call, Stream stream) {
  const int grid = grid_for(batch.tiles);
  if (call.normalize)
    MS_LAUNCH((merge_kernel<kPlain, N, kElect, kRandom, true>), grid, kThreads, stream.handle,
              batch, call);
  else
    MS_LAUNCH((merge_kernel<kPlain, N, kElect, kRandom, false>), grid, kThreads, stream.handle,
              batch, call);
}

template <int N, Elect kElect>
void launch_merge(const Batch& batch, const MergeCall& call, Kind kind, Stream stream) {
  if (kind.random)
    launch_merge<false, N, kElect, true>(batch, call, stream);
  else if (kind.plain)
    launch_merge<true, N, kElect, false>(batch, call, stream);
  else
    launch_merge<false, N, kElect, false>(batch, call, stream);
}

template <Elect kElect>
void launch_merge(const Batch& batch, const MergeCall& call, Kind kind, Stream stream) {
  switch (batch.count) {
    case 1: return launch_merge<1, kElect>(batch, call, kind, stream);
    case 2: return launch_merge<2, kElect>(batch, call, kind, stream);
    case 3: return launch_merge<3, kElect>(batch, call, kind, stream);
    case 4: return launch_merge<4, kElect>(batch, call, kind, stream);
  }
}

}  // namespace mergesafe::cuda
