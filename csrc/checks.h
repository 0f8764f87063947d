// What the binding checks before any kernel reads: lists of one call fit each other, and numbers
// that stand for types, ranks and sizes are in range. Kernels trust them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "core/job.h"

namespace mergesafe {

// ValueError unless a list has as many values as there must be, `of` what.
inline void expect_length(const char* list, size_t given, size_t wanted, const char* of) {
  if (given == wanted) return;
  throw pybind11::value_error(std::string(list) + " has " + std::to_string(given) +
                              " values; expected " + std::to_string(wanted) + ", " + of);
}

// ValueError unless low <= value <= high.
inline void expect_between(const char* name, int64_t value, int64_t low, int64_t high) {
  if (low <= value && value <= high) return;
  throw pybind11::value_error(std::string(name) + " is " + std::to_string(value) +
                              "; expected a number in [" + std::to_string(low) + ", " +
                              std::to_string(high) + "]");
}

inline int64_t elements_of(int64_t n) {
  expect_between("n", n, 0, INT64_MAX);
  return n;
}

inline int threads_of(int threads) {
  expect_between("threads", threads, 1, INT32_MAX);
  return threads;
}

inline DType dtype_of(int code) {
  expect_between("dtype", code, 0, static_cast<int>(DType::kF32));
  return static_cast<DType>(code);
}

inline Elect elect_of(int code) {
  expect_between("elect", code, 0, static_cast<int>(Elect::kCount));
  return static_cast<Elect>(code);
}

inline Norm norm_of(int code) {
  expect_between("norm", code, 0, static_cast<int>(Norm::kLinf));
  return static_cast<Norm>(code);
}

}  // namespace mergesafe
