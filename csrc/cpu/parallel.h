// Splits [0, n) among threads in whole reduction blocks. Threads are started per call: merges are
// long compared with a start, and a process may fork between calls.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include "core/reduce.h"

namespace mergesafe::cpu {

// Fewer elements than this per thread are not worth a thread.
constexpr int64_t kMinPerThread = 1 << 17;

inline int threads_for(int64_t n, int requested) {
  return static_cast<int>(std::clamp<int64_t>(n / kMinPerThread, 1, std::max(1, requested)));
}

// Calls body(thread, begin, end) for contiguous ranges that cover [0, n); rethrows an exception.
template <class Body>
void parallel_for(int64_t n, int threads, Body&& body) {
  const int64_t blocks = (n + kReduceBlock - 1) / kReduceBlock;
  // blocks * t / threads, of numbers that may be too large to multiply.
  const auto cut = [&](int t) {
    const int64_t first = blocks / threads * t + blocks % threads * t / threads;
    return std::min(n, first * kReduceBlock);
  };
  if (threads <= 1) {
    body(0, int64_t{0}, n);
    return;
  }
  std::vector<std::exception_ptr> errors(threads);
  std::vector<std::thread> pool;
  pool.reserve(threads);
  const auto run = [&](int t) {
    try {
      body(t, cut(t), cut(t + 1));
    } catch (...) {
      errors[t] = std::current_exception();
    }
  };
  int started = 1;
  try {
    for (; started < threads; ++started) pool.emplace_back(run, started);
  } catch (...) {
    // No thread to be had, or no memory for one (a limit of the container, say): this one does the
    // rest. Whatever it was, threads that run must be waited for.
  }
  run(0);
  for (int t = started; t < threads; ++t) run(t);
  for (std::thread& thread : pool) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace mergesafe::cpu
