// Launches, devices, errors.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>

namespace mergesafe::cuda {

// A launch as a macro, so that a host build can run kernels without a GPU (csrc/emulate).
#if defined(__CUDACC__)
// A large parameter that stays in constant memory: no thread copies it.
#define MS_PARAMETER(type) const __grid_constant__ type
#define MS_LAUNCH(kernel, grid, threads, stream, ...)  \
  do {                                                 \
    kernel<<<grid, threads, 0, stream>>>(__VA_ARGS__); \
    ::mergesafe::cuda::check(cudaGetLastError());      \
  } while (false)
#endif

// A call of the CUDA runtime that failed.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void check(cudaError_t code);

// Makes a device current, and the former one again at the end.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int former_ = -1, device_ = -1;
};

// Blocks for `work` pieces: enough to fill the current device several times over.
int grid_for(int64_t work);

}  // namespace mergesafe::cuda
