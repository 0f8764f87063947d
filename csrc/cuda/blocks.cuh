// How the reductions share work: four threads take a block of 4096 elements, four lanes each
// (core/reduce.h), and leave its float64 sums in partials[sum][block]; a second kernel adds those.
#pragma once

#include "core/philox.h"
#include "core/reduce.h"
#include "cuda/access.cuh"
#include "cuda/launch.h"

namespace mergesafe::cuda {

constexpr int kReduceThreads = 128;
constexpr int kEach = 4;  // lanes of a thread, and elements that it reads at once
constexpr int kTeam = kReduceLanes / kEach;
constexpr int kRows = 2;  // rows of lanes whose loads are in flight together
constexpr int kStep = 4 * kReduceLanes;
constexpr int kBlocksPerLaunch = kReduceThreads / kTeam;
static_assert(kStep == kPhiloxGroup, "a step takes the four words of whole Philox counters");

// Four elements as stored.
struct Quad {
  uint2 a, b;  // b for 32-bit elements only, else not even set: see Raw
};

__device__ __forceinline__ Quad fetch_quad(const Source& s, int64_t pos) {
  Quad quad;
  if (s.dtype == static_cast<uint8_t>(DType::kF32)) {
    const uint4 all =
        __ldcs(reinterpret_cast<const uint4*>(static_cast<const uint32_t*>(s.data) + pos));
    quad.a = make_uint2(all.x, all.y);
    quad.b = make_uint2(all.z, all.w);
  } else {
    quad.a = __ldcs(reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(s.data) + pos));
  }
  return quad;
}

__device__ __forceinline__ void expand(const Quad& quad, const Source& s, float (&x)[kEach]) {
  if (s.dtype == static_cast<uint8_t>(DType::kBF16)) {
    x[0] = float_of(quad.a.x << 16);
    x[1] = float_of(quad.a.x & 0xFFFF0000u);
    x[2] = float_of(quad.a.y << 16);
    x[3] = float_of(quad.a.y & 0xFFFF0000u);
  } else if (s.dtype == static_cast<uint8_t>(DType::kF16)) {
    x[0] = to_float(F16{static_cast<uint16_t>(quad.a.x)});
    x[1] = to_float(F16{static_cast<uint16_t>(quad.a.x >> 16)});
    x[2] = to_float(F16{static_cast<uint16_t>(quad.a.y)});
    x[3] = to_float(F16{static_cast<uint16_t>(quad.a.y >> 16)});
  } else {
    x[0] = float_of(quad.a.x);
    x[1] = float_of(quad.a.y);
    x[2] = float_of(quad.b.x);
    x[3] = float_of(quad.b.y);
  }
  if (s.cast != s.dtype) {
#pragma unroll
    for (int c = 0; c < kEach; ++c) x[c] = cast_at_load(x[c], s.cast);
  }
}

// Four elements of a row that may end before them; zeros for what is missing, which add nothing to
// any sum: lanes begin at +0 and are never -0. Not inlined: few rows need it.
__device__ MS_OUTLINE inline float4 load_partly(const Source& s, int64_t pos, int64_t end) {
  float4 row;
  row.x = pos < end ? load_one(s, pos) : 0.0f;
  row.y = pos + 1 < end ? load_one(s, pos + 1) : 0.0f;
  row.z = pos + 2 < end ? load_one(s, pos + 2) : 0.0f;
  row.w = pos + 3 < end ? load_one(s, pos + 3) : 0.0f;
  return row;
}

// The rows of one input at pos, pos + kReduceLanes, ...: whole, or with elements up to `end`.
struct Rows {
  Quad quads[kRows];

  __device__ __forceinline__ void fetch(const Source& s, int64_t pos) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) quads[r] = fetch_quad(s, pos + r * kReduceLanes);
  }
  __device__ __forceinline__ void fetch_partly(const Source& s, int64_t pos, int64_t end) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float4 row = load_partly(s, pos + r * kReduceLanes, end);
      quads[r].a = make_uint2(bits_of(row.x), bits_of(row.y));
      quads[r].b = make_uint2(bits_of(row.z), bits_of(row.w));
    }
  }
  // After fetch_partly the values are float32, whatever is stored.
  __device__ __forceinline__ void expand(int r, const Source& s, bool whole,
                                         float (&x)[kEach]) const {
    if (whole) {
      cuda::expand(quads[r], s, x);
    } else {
      x[0] = float_of(quads[r].a.x);
      x[1] = float_of(quads[r].a.y);
      x[2] = float_of(quads[r].b.x);
      x[3] = float_of(quads[r].b.y);
    }
  }
};

// The lanes of a team, four in each of its threads, as one sum in the team's first thread.
__device__ __forceinline__ double add_team(const double (&lanes)[kEach]) {
  double sums[kEach];
#pragma unroll
  for (int c = 0; c < kEach; ++c) sums[c] = lanes[c];
#pragma unroll
  for (int width = kTeam / 2; width > 0; width /= 2)
#pragma unroll
    for (int c = 0; c < kEach; ++c)
      sums[c] = sums[c] + __shfl_down_sync(0xFFFFFFFFu, sums[c], width, kTeam);
#pragma unroll
  for (int width = kEach / 2; width > 0; width /= 2)
#pragma unroll
    for (int c = 0; c < width; ++c) sums[c] = sums[c] + sums[c + width];
  return sums[0];
}

// The block of 4096 elements that this thread's team works on. Threads without one stay until the
// end, because teams of a warp add their lanes together.
struct Team {
  uint32_t block;  // within the batch
  int member;
  bool busy;
  int j;
  int64_t begin, end;  // its elements, within job j

  __device__ explicit Team(const Batch& batch) {
    block = blockIdx.x * kBlocksPerLaunch + threadIdx.x / kTeam;
    member = static_cast<int>(threadIdx.x % kTeam);
    busy = block < batch.tiles;
    j = busy ? batch.find(block) : 0;
    begin = busy ? static_cast<int64_t>(block - batch.start(j)) * kReduceBlock : 0;
    const int64_t rest = batch.job(j).n;
    end = !busy ? 0 : (begin + kReduceBlock < rest ? begin + kReduceBlock : rest);
  }
};

}  // namespace mergesafe::cuda
