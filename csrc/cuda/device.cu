// The device: errors, the current device, whether this build has code for it.
#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "cuda/launch.h"
#include "cuda/run.h"

namespace mergesafe::cuda {
namespace {

// Does nothing; its attributes show whether this build has code for a device. Also the pattern that
// every kernel here follows: parameters by value, a grid that strides over the work, no allocation,
// no synchronisation; the launch goes through MS_LAUNCH on the caller's stream, which checks it.
__global__ void nothing_kernel(int64_t work) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < work;
       at += step) {
    // one element, or one vector of elements, per turn
  }
}

constexpr int kNothingThreads = 256;
// A kernel's parameters may be as large as a Batch since then.
constexpr int kLeastDriver = kBatchBytes > 4096 ? 12010 : 0;

}  // namespace

void run_nothing(int64_t work, Stream stream) {
  OnDevice device(stream.device);
  MS_LAUNCH(nothing_kernel, grid_for((work + kNothingThreads - 1) / kNothingThreads),
            kNothingThreads, stream.handle, work);
}

void check(cudaError_t code) {
  if (code != cudaSuccess)
    throw Error(std::string(cudaGetErrorName(code)) + ": " + cudaGetErrorString(code));
}

OnDevice::OnDevice(int device) : device_(device) {
  check(cudaGetDevice(&former_));
  if (former_ != device_) check(cudaSetDevice(device_));
}

OnDevice::~OnDevice() {
  if (former_ != device_) cudaSetDevice(former_);
}

int grid_for(int64_t work) {
  constexpr int64_t kBlocksPerProcessor = 16;
  int device = 0, processors = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  return static_cast<int>(std::clamp<int64_t>(work, 1, processors * kBlocksPerProcessor));
}

std::string problem_of(int device) {
  int count = 0, driver = 0;
  try {
    check(cudaGetDeviceCount(&count));
    if (device >= count) return "there is no device " + std::to_string(device);
    check(cudaDriverGetVersion(&driver));
    if (driver < kLeastDriver)
      return "the driver supports CUDA " + std::to_string(driver / 1000) + "." +
             std::to_string(driver % 1000 / 10) + ", but these kernels' parameters need 12.1";
    OnDevice current(device);
    cudaFuncAttributes attributes;
    check(cudaFuncGetAttributes(&attributes, nothing_kernel));
  } catch (const Error& error) {
    cudaGetLastError();  // reported: later calls must not find it
    return error.what();
  }
  return "";
}

}  // namespace mergesafe::cuda
