// How the element-wise kernels share work: a grid strides over tiles; in a tile each thread takes
// four vectors of eight elements.
#pragma once

#include "core/philox.h"
#include "cuda/access.cuh"

namespace mergesafe::cuda {

constexpr int kThreads = 256;
constexpr int kVectors = 4;
static_assert(kTile == kThreads * kVectors * kVector, "a block takes a tile");

// The vector v of this thread within its tile, with neighbours side by side.
__device__ __forceinline__ int place(int v) { return (v * kThreads + threadIdx.x) * kVector; }

// The same for random masks: the four words of eight Philox counters, which mask elements 16 apart
// (core/philox.h), belong to one thread.
__device__ __forceinline__ int random_place(int v) {
  return static_cast<int>(threadIdx.x) / 2 * kPhiloxGroup + v * kPhiloxLanes +
         static_cast<int>(threadIdx.x) % 2 * kVector;
}

// Bit 8 v + k: is element k of this thread's vector v kept? `first` is the index, within its
// tensor, of the tile's first element, a multiple of 64.
__device__ __forceinline__ uint32_t random_bits(const Expert& e, uint64_t first) {
  const uint64_t group = (first + random_place(0)) / kPhiloxGroup;
  uint32_t bits = 0;
#pragma unroll 1
  for (int k = 0; k < kVector; ++k) {
    uint32_t w[4];
    philox(group * kPhiloxLanes + threadIdx.x % 2 * kVector + k, e.key, w[0], w[1], w[2], w[3]);
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
      bits |= static_cast<uint32_t>(w[v] < e.threshold) << (kVector * v + k);
  }
  return bits;
}

// The Philox word of one element. Not inlined: where it is used speed does not matter, size does.
__device__ MS_OUTLINE inline uint32_t word_of(uint64_t key, uint64_t element) {
  uint32_t w[4];
  philox(element / kPhiloxGroup * kPhiloxLanes + element % kPhiloxLanes, key, w[0], w[1], w[2],
         w[3]);
  const int word = static_cast<int>(element / kPhiloxLanes % 4);
  return word < 2 ? (word == 0 ? w[0] : w[1]) : (word == 2 ? w[2] : w[3]);
}

// Is one element kept? For places that the above does not serve.
__device__ __forceinline__ bool keeps(const Expert& e, float delta, uint64_t element) {
  if (e.kept.hi != kByWord) return in_window(delta, e.kept);
  return word_of(e.key, element) < e.threshold;
}

// The same where the bit of a random mask is known.
__device__ __forceinline__ bool keeps_bit(const Expert& e, float delta, uint32_t bit) {
  return e.kept.hi == kByWord ? (bit & 1u) != 0 : in_window(delta, e.kept);
}

}  // namespace mergesafe::cuda
