// The fused combinations of core/fused.h: vectors where they fit, else one element at a time.
#include "core/fused.h"
#include "cuda/launch.h"
#include "cuda/run.h"
#include "cuda/tiles.cuh"

namespace mergesafe::cuda {
namespace {

template <class Fused>
__device__ __forceinline__ void fused_vector(const Batch& batch, int j,
                                             const float (&c)[Fused::kCoefficients], int64_t pos) {
  const Job& job = batch.job(j);
  Raw raw[Fused::kInputs + 1];
  raw[Fused::kInputs] = fetch(job.first, pos);
#pragma unroll
  for (int i = 0; i < Fused::kInputs; ++i) raw[i] = fetch(batch.expert(j, i).source, pos);
  float b[kVector], x[Fused::kInputs][kVector];
  expand(raw[Fused::kInputs], job.first, b);
#pragma unroll
  for (int i = 0; i < Fused::kInputs; ++i) expand(raw[i], batch.expert(j, i).source, x[i]);
#pragma unroll
  for (int k = 0; k < kVector; ++k) {
    float row[Fused::kInputs];
#pragma unroll
    for (int i = 0; i < Fused::kInputs; ++i) row[i] = x[i][k];
    b[k] = Fused::element(b[k], row, c);
  }
  store(b, job.out, job.out_dtype, pos);
}

template <class Fused>
__device__ __forceinline__ void fused_one(const Batch& batch, int j,
                                          const float (&c)[Fused::kCoefficients], int64_t pos) {
  const Job& job = batch.job(j);
  float row[Fused::kInputs];
  for (int i = 0; i < Fused::kInputs; ++i) row[i] = load_one(batch.expert(j, i).source, pos);
  store_one(Fused::element(load_one(job.first, pos), row, c), job.out, job.out_dtype, pos);
}

// A fold over any number of inputs.
template <class Fused>
__device__ __forceinline__ void folded_vector(const Batch& batch, int j,
                                              const float (&c)[Fused::kCoefficients], int64_t pos) {
  const Job& job = batch.job(j);
  float b[kVector], x[kVector], state[kVector] = {};
  expand(fetch(job.first, pos), job.first, b);
  for (int i = 0; i < batch.count; ++i) {
    const auto& input = batch.expert(j, i).source;
    expand(fetch(input, pos), input, x);
#pragma unroll
    for (int k = 0; k < kVector; ++k)
      state[k] = i == 0 ? Fused::first(b[k], x[k]) : Fused::next(state[k], b[k], x[k]);
  }
#pragma unroll
  for (int k = 0; k < kVector; ++k) b[k] = Fused::last(state[k], b[k], c);
  store(b, job.out, job.out_dtype, pos);
}

template <class Fused>
__device__ __forceinline__ void folded_one(const Batch& batch, int j,
                                           const float (&c)[Fused::kCoefficients], int64_t pos) {
  const Job& job = batch.job(j);
  const float base = load_one(job.first, pos);
  float state = Fused::first(base, load_one(batch.expert(j, 0).source, pos));
  for (int i = 1; i < batch.count; ++i)
    state = Fused::next(state, base, load_one(batch.expert(j, i).source, pos));
  store_one(Fused::last(state, base, c), job.out, job.out_dtype, pos);
}

template <class Fused>
__device__ __forceinline__ void vector_of(const Batch& batch, int j,
                                          const float (&c)[Fused::kCoefficients], int64_t pos) {
  if constexpr (Fused::kInputs == kAnyInputs)
    folded_vector<Fused>(batch, j, c, pos);
  else
    fused_vector<Fused>(batch, j, c, pos);
}

template <class Fused>
__device__ __forceinline__ void one_of(const Batch& batch, int j,
                                       const float (&c)[Fused::kCoefficients], int64_t pos) {
  if constexpr (Fused::kInputs == kAnyInputs)
    folded_one<Fused>(batch, j, c, pos);
  else
    fused_one<Fused>(batch, j, c, pos);
}

// coefficients: [jobs][Fused::kCoefficients], on the device.
template <class Fused>
__global__ void __launch_bounds__(kThreads)
    fused_kernel(MS_PARAMETER(Batch) batch, const float* coefficients) {
  for (uint32_t tile = blockIdx.x; tile < batch.tiles; tile += gridDim.x) {
    const int j = batch.find(tile);
    const Job& job = batch.job(j);
    float c[Fused::kCoefficients];
    for (int i = 0; i < Fused::kCoefficients; ++i)
      c[i] = coefficients[static_cast<int64_t>(batch.before + j) * Fused::kCoefficients + i];
    const int64_t start = static_cast<int64_t>(tile - batch.start(j)) * kTile;
#pragma unroll 1
    for (int v = 0; v < kVectors; ++v) {
      const int64_t pos = start + place(v);
      if (job.vectors && pos + kVector <= job.n) {
        vector_of<Fused>(batch, j, c, pos);
      } else {
        for (int64_t p = pos; p < pos + kVector && p < job.n; ++p) one_of<Fused>(batch, j, c, p);
      }
    }
  }
}

template <class Fused>
void launch(const Batch& batch, const float* coefficients, Stream stream) {
  MS_LAUNCH((fused_kernel<Fused>), grid_for(batch.tiles), kThreads, stream.handle, batch,
            coefficients);
}

template <class... Fused>
void launch_any(FusedKernels<Fused...>, int kernel, const Batch& batch, const float* coefficients,
                Stream stream) {
  using Launch = void (*)(const Batch&, const float*, Stream);
  constexpr Launch launches[] = {launch<Fused>...};
  launches[kernel](batch, coefficients, stream);
}

}  // namespace

void fused_batch(int kernel, const Batch& batch, const float* coefficients, Stream stream) {
  launch_any(FusedList{}, kernel, batch, coefficients, stream);
}

}  // namespace mergesafe::cuda
