// Counts of the elements that task vectors change, alone or with others. Once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/ram.h"
#include "cpu/compare.inl"
#include "cpu/kernels.h"

namespace mergesafe::cpu::MS_ISA {
namespace {

// changes[j] = 1 where the task vector changes the element; by[j] counts to 2 those that do.
inline void mark_changes(const float* d, float epsilon, int n, uint8_t* __restrict__ changes,
                         uint8_t* __restrict__ by) {
  for (int j = 0; j < n; ++j) changes[j] = static_cast<uint8_t>(is_change(d[j], epsilon));
  for (int j = 0; j < n; ++j) {
    const uint8_t sum = static_cast<uint8_t>(by[j] + changes[j]);
    by[j] = sum < 2 ? sum : 2;
  }
}

// counts[0] += the changes that are the only one, counts[1] += the others.
inline void count_changes_of(const uint8_t* changes, const uint8_t* by, int n, int64_t* counts) {
  constexpr int kRun = 128;  // short enough for sums of bytes
  for (int begin = 0; begin < n; begin += kRun) {
    const int end = begin + kRun < n ? begin + kRun : n;
    uint8_t alone = 0, all = 0;
    for (int j = begin; j < end; ++j) {
      alone = static_cast<uint8_t>(alone + (changes[j] & (by[j] == 1)));
      all = static_cast<uint8_t>(all + changes[j]);
    }
    counts[0] += alone;
    counts[1] += all - alone;
  }
}

Flags count_changes(const DeltaJob& job, float epsilon, int64_t begin, int64_t end,
                    int64_t* counts) {
  // A byte of an element for each expert and for all.
  const int64_t rows = job.count + int64_t{1}, bytes = (rows + 3) / 4;
  float* base = thread_scratch((rows + bytes) * kChunk);
  float* deltas = base + kChunk;
  uint8_t* by = reinterpret_cast<uint8_t*>(base + rows * kChunk);
  uint8_t* changes = by + kChunk;
  const int direct = directly(job);
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    flags |= take_deltas(job, direct, pos, n, base, deltas);
    std::memset(by, 0, n);
    for (int i = 0; i < job.count; ++i)
      mark_changes(deltas + i * kChunk, epsilon, n, changes + i * kChunk, by);
    for (int i = 0; i < job.count; ++i)
      count_changes_of(changes + i * kChunk, by, n, counts + 2 * i);
  }
  return flags;
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
