// A stand-in for <cuda_runtime.h> that runs kernels on the host, for tests on machines without a
// GPU: every thread of a block is a fiber, barriers and warp exchanges switch between fibers, and
// vector accesses check their alignment. It covers what csrc/cuda uses, and is slow.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>

#define CUDART_VERSION 13000
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define MS_PARAMETER(type) const type&

struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulate {

struct Index {
  unsigned x, y, z;
};
extern Index thread_index, block_index, block_size, grid_size;

// Runs `body` once for every thread of every block; returns when all are done.
void launch(dim3 grid, unsigned threads, const std::function<void()>& body);
void wait_for_block();
// Passes eight bytes to the other threads of the warp; from[32] are theirs.
void exchange(uint64_t value, uint64_t (&from)[32]);
// How many kernels have run.
int64_t launches();

template <class T>
const T& aligned(const T* from) {
  if (reinterpret_cast<uintptr_t>(from) % sizeof(T) != 0) {
    std::fprintf(stderr, "emulate: misaligned access of %zu bytes\n", sizeof(T));
    std::abort();
  }
  return *from;
}

template <class T>
uint64_t to_word(T value) {
  static_assert(sizeof(T) <= 8, "a warp exchanges at most eight bytes");
  uint64_t word = 0;
  __builtin_memcpy(&word, &value, sizeof(T));
  return word;
}

template <class T>
T of_word(uint64_t word) {
  T value;
  __builtin_memcpy(&value, &word, sizeof(T));
  return value;
}

}  // namespace emulate

#define threadIdx (::emulate::thread_index)
#define blockIdx (::emulate::block_index)
#define blockDim (::emulate::block_size)
#define gridDim (::emulate::grid_size)

#define MS_LAUNCH(kernel, grid, threads, stream, ...)                       \
  do {                                                                      \
    (void)(stream);                                                         \
    ::emulate::launch(dim3(grid), threads, [&] { (kernel)(__VA_ARGS__); }); \
  } while (false)

template <class T>
T __ldcs(const T* from) {
  return emulate::aligned(from);
}

inline void __syncthreads() { emulate::wait_for_block(); }

template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta, int width) {
  uint64_t all[32];
  emulate::exchange(emulate::to_word(value), all);
  const unsigned lane = threadIdx.x % 32;
  const unsigned from = lane % width + delta < static_cast<unsigned>(width) ? lane + delta : lane;
  return emulate::of_word<T>(all[from]);
}

inline unsigned __match_any_sync(unsigned, int value) {
  uint64_t all[32];
  emulate::exchange(emulate::to_word(value), all);
  unsigned peers = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (all[lane] == emulate::to_word(value)) peers |= 1u << lane;
  return peers;
}

inline unsigned __reduce_add_sync(unsigned, unsigned value) {
  uint64_t all[32];
  emulate::exchange(value, all);
  unsigned sum = 0;
  for (int lane = 0; lane < 32; ++lane) sum += static_cast<unsigned>(all[lane]);
  return sum;
}

inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __popc(unsigned value) { return __builtin_popcount(value); }

template <class T>
T atomicAdd(T* to, T value) {
  const T old = *to;
  *to = old + value;
  return old;
}
template <class T>
T atomicMin(T* to, T value) {
  const T old = *to;
  *to = value < old ? value : old;
  return old;
}
template <class T>
T atomicMax(T* to, T value) {
  const T old = *to;
  *to = value > old ? value : old;
  return old;
}
template <class T>
T max(T a, T b) {
  return a > b ? a : b;
}
using std::fabs;
using std::floor;
using std::sqrt;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
struct cudaFuncAttributes {};

inline const char* cudaGetErrorName(cudaError_t) { return "cudaSuccess"; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) {
  return *version = CUDART_VERSION, cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
// Few processors, so that grids stride.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = 1, cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel) {
  return cudaSuccess;
}
