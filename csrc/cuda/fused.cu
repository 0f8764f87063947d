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
        fused_vector<Fused>(batch, j, c, pos);
      } else {
        for (int64_t p = pos; p < pos + kVector && p < job.n; ++p) fused_one<Fused>(batch, j, c, p);
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
