// Descriptions of many jobs, passed to a kernel by value: no memory is allocated or copied for
// them, nothing synchronises, and a CUDA graph can capture the launch.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/element.h"
#include "core/job.h"

namespace mergesafe::cuda {

// Kernel parameters hold 32,764 bytes since CUDA 12.1 and 4,096 before.
#if CUDART_VERSION >= 12010
constexpr int kBatchBytes = 30000;
#else
constexpr int kBatchBytes = 3800;
#endif

// One input: where, how its elements are stored, and what they are rounded to at load.
struct Source {
  const void* data;
  uint8_t dtype, cast;
};

// Marks, as the upper end of a window that holds nothing, that Philox words decide.
constexpr int32_t kByWord = -2;

struct Expert {
  Source source;
  uint64_t key;
  Window kept;
  float rescale;
  uint32_t threshold;
};

struct Job {
  Source first;  // the base, or for sums unused
  void* out;     // the output, or the gradient that comes in
  int64_t n;
  uint64_t offset;  // position of the first element within its tensor, for Philox
  uint8_t out_dtype;
  bool random;  // any expert keeps elements at random
  // Vectors fit: every pointer is a multiple of 16 bytes, and for random masks offset one of 64.
  bool vectors;
};

// Elements of a tile of the element-wise kernels (tiles.cuh); the reductions take kReduceBlock.
constexpr int kTile = 8192;

// Up to kBatchBytes of jobs, each with `count` experts, cut into tiles that are numbered
// throughout.
struct Batch {
  int32_t jobs, count;
  int32_t before;  // jobs of the call in earlier batches
  uint32_t tiles;
  int32_t experts_at;
  alignas(8) unsigned char bytes[kBatchBytes];

  MS_FN const Job& job(int j) const { return reinterpret_cast<const Job*>(bytes)[j]; }
  MS_FN const Expert& expert(int j, int i) const {
    return reinterpret_cast<const Expert*>(bytes + experts_at)[j * count + i];
  }
  MS_FN const uint32_t* ends() const {
    return reinterpret_cast<const uint32_t*>(bytes + experts_at +
                                             static_cast<int>(sizeof(Expert)) * jobs * count);
  }
  // The job that tile t belongs to, the first whose end lies beyond it.
  MS_FN int find(uint32_t t) const {
    int low = 0, high = jobs - 1;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (ends()[middle] > t)
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }
  MS_FN uint32_t start(int j) const { return j == 0 ? 0u : ends()[j - 1]; }

  // How many jobs of `count` experts fit.
  static constexpr int capacity(int count) {
    return kBatchBytes / static_cast<int>(sizeof(Job) + sizeof(Expert) * count + 4);
  }
};

// The most experts, or inputs, of one job.
constexpr int kMaxExperts = 60;

static_assert(sizeof(Batch) <= kBatchBytes + 64, "parameters have a limit");
static_assert(Batch::capacity(kMaxExperts) >= 1, "at least one job of many experts must fit");

}  // namespace mergesafe::cuda
