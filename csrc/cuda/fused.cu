// The fused combinations of core/fused.h: vectors where they fit, else one element at a time.
#include "core/fused.h"
#include "cuda/launch.h"
#include "cuda/run.h"
#include "cuda/tiles.cuh"

namespace mergesafe::cuda {
namespace {

// The coefficients of a job lie at `given`: those of all inputs, then those of every input.
template <class Fused>
__device__ __forceinline__ void fused_vector(const Batch& batch, int j, const float* given,
                                             int64_t pos) {
  const Job& job = batch.job(j);
  const FixedElement<Fused> element(given);
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
    b[k] = element(b[k], row);
  }
  store(b, job.out, job.out_dtype, pos);
}

template <class Fused>
__device__ __forceinline__ void fused_one(const Batch& batch, int j, const float* given,
                                          int64_t pos) {
  const Job& job = batch.job(j);
  const FixedElement<Fused> element(given);
  float row[Fused::kInputs];
  for (int i = 0; i < Fused::kInputs; ++i) row[i] = load_one(batch.expert(j, i).source, pos);
  store_one(element(load_one(job.first, pos), row), job.out, job.out_dtype, pos);
}

// Calls step(i, x) with a vector of every tensor of every input.
template <int kTensors, class Step>
__device__ __forceinline__ void over_inputs(const Batch& batch, int j, int64_t pos, Step&& step) {
  const int inputs = batch.count / kTensors;
  for (int i = 0; i < inputs; ++i) {
    float x[kTensors][kVector];
#pragma unroll
    for (int t = 0; t < kTensors; ++t) {
      const auto& input = batch.expert(j, t * inputs + i).source;
      expand(fetch(input, pos), input, x[t]);
    }
    step(i, x);
  }
}

// A fold over any number of inputs; a second sweep reads them from the first-level cache.
template <class Fold>
__device__ __forceinline__ void folded_vector(const Batch& batch, int j, const float* given,
                                              int64_t pos) {
  const Job& job = batch.job(j);
  float b[kVector], state[kVector][Fold::kStates] = {};
  expand(fetch(job.first, pos), job.first, b);
  constexpr int kTensors = Fold::kTensors;
  over_inputs<kTensors>(batch, j, pos, [&](int i, const float (&x)[kTensors][kVector]) {
    const InputCoefficients<Fold> c(given, i);
#pragma unroll
    for (int k = 0; k < kVector; ++k) take_next<Fold>(state[k], b[k], &x[0][k], kVector, c.values);
  });
  if constexpr (Fold::kSweeps == 2) {
    over_inputs<kTensors>(batch, j, pos, [&](int i, const float (&x)[kTensors][kVector]) {
      const InputCoefficients<Fold> c(given, i);
#pragma unroll
      for (int k = 0; k < kVector; ++k) Fold::again(state[k], b[k], x[0][k], c.values);
    });
  }
  const SharedCoefficients<Fold> shared(given);
#pragma unroll
  for (int k = 0; k < kVector; ++k) b[k] = Fold::last(state[k], b[k], shared.values);
  store(b, job.out, job.out_dtype, pos);
}

template <class Fold>
__device__ __forceinline__ void folded_one(const Batch& batch, int j, const float* given,
                                           int64_t pos) {
  const Job& job = batch.job(j);
  const float base = load_one(job.first, pos);
  float state[Fold::kStates] = {};
  const int inputs = batch.count / Fold::kTensors;
  for (int i = 0; i < inputs; ++i) {
    const InputCoefficients<Fold> c(given, i);
    float x[Fold::kTensors];
    for (int t = 0; t < Fold::kTensors; ++t)
      x[t] = load_one(batch.expert(j, t * inputs + i).source, pos);
    take_next<Fold>(state, base, x, 1, c.values);
  }
  if constexpr (Fold::kSweeps == 2) {
    for (int i = 0; i < batch.count; ++i) {
      const InputCoefficients<Fold> c(given, i);
      Fold::again(state, base, load_one(batch.expert(j, i).source, pos), c.values);
    }
  }
  const SharedCoefficients<Fold> shared(given);
  store_one(Fold::last(state, base, shared.values), job.out, job.out_dtype, pos);
}

template <class Fused>
__device__ __forceinline__ void vector_of(const Batch& batch, int j, const float* given,
                                          int64_t pos) {
  if constexpr (Fused::kInputs == kAnyInputs)
    folded_vector<Fused>(batch, j, given, pos);
  else
    fused_vector<Fused>(batch, j, given, pos);
}

template <class Fused>
__device__ __forceinline__ void one_of(const Batch& batch, int j, const float* given, int64_t pos) {
  if constexpr (Fused::kInputs == kAnyInputs)
    folded_one<Fused>(batch, j, given, pos);
  else
    fused_one<Fused>(batch, j, given, pos);
}

// coefficients: [jobs][FusedList::coefficients()], on the device.
template <class Fused>
__global__ void __launch_bounds__(kThreads)
    fused_kernel(MS_PARAMETER(Batch) batch, const float* coefficients) {
  const int64_t each = Fused::kCoefficients + Fused::kEach * int64_t{batch.count / Fused::kTensors};
  for (uint32_t tile = blockIdx.x; tile < batch.tiles; tile += gridDim.x) {
    const int j = batch.find(tile);
    const Job& job = batch.job(j);
    const float* given = coefficients + (batch.before + j) * each;
    const int64_t start = static_cast<int64_t>(tile - batch.start(j)) * kTile;
#pragma unroll 1
    for (int v = 0; v < kVectors; ++v) {
      const int64_t pos = start + place(v);
      if (job.vectors && pos + kVector <= job.n) {
        vector_of<Fused>(batch, j, given, pos);
      } else {
        for (int64_t p = pos; p < pos + kVector && p < job.n; ++p)
          one_of<Fused>(batch, j, given, p);
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
