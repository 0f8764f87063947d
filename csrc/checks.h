// What the binding checks before any kernel reads: lists of one call fit each other, numbers that
// stand for types, ranks and sizes are in range, and memory that a call names can exist. Kernels
// trust them. Knows nothing of Python, to which std::invalid_argument is a ValueError.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/job.h"

namespace mergesafe {

// Elements of one call, and its inputs: so much that no memory holds more, and so little that no
// sum, product or size made of them overflows.
constexpr int64_t kMostElements = INT64_MAX / 4;
constexpr int64_t kMostInputs = 1 << 14;

// ValueError unless a list has as many values as there must be, `of` what.
inline void expect_length(const char* list, size_t given, size_t wanted, const char* of) {
  if (given == wanted) return;
  throw std::invalid_argument(std::string(list) + " has " + std::to_string(given) +
                              " values; expected " + std::to_string(wanted) + ", " + of);
}

// ValueError unless low <= value <= high.
inline void expect_between(const char* name, int64_t value, int64_t low, int64_t high) {
  if (low <= value && value <= high) return;
  throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) +
                              "; expected a number in [" + std::to_string(low) + ", " +
                              std::to_string(high) + "]");
}

// ValueError unless `count` values of `size` bytes can lie at an address: it is not 0, a multiple
// of `size`, and they end before the addresses of programs do, which have 63 bits at most. Whether
// they do lie there nobody can say.
inline void expect_memory(const char* name, uint64_t address, int64_t count, int64_t size) {
  if (count == 0) return;
  const auto wrong = [&](const std::string& expected) {
    throw std::invalid_argument("the address of " + std::string(name) + " is " +
                                std::to_string(address) + "; expected " + expected);
  };
  if (address == 0) wrong("that of " + std::to_string(count) + " values");
  if (address % static_cast<uint64_t>(size) != 0) wrong("a multiple of " + std::to_string(size));
  const uint64_t room = address < INT64_MAX ? INT64_MAX - address : 0;
  if (static_cast<uint64_t>(count) > room / static_cast<uint64_t>(size))
    wrong("one after which " + std::to_string(count) + " values of " + std::to_string(size) +
          " bytes can lie");
}

inline int64_t elements_of(int64_t n) {
  expect_between("n", n, 0, kMostElements);
  return n;
}

// ValueError unless n elements are whole rows of so many.
inline void expect_rows(int64_t columns, int64_t n) {
  expect_between("columns", columns, 1, INT32_MAX);
  if (n % columns == 0) return;
  throw std::invalid_argument("n is " + std::to_string(n) + "; expected whole rows of " +
                              std::to_string(columns));
}

// The position within its tensor of the first of n elements.
inline uint64_t offset_of(uint64_t offset, int64_t n) {
  if (offset > static_cast<uint64_t>(INT64_MAX - n))
    throw std::invalid_argument("offset is " + std::to_string(offset) + "; expected at most " +
                                std::to_string(INT64_MAX - n) + " before " + std::to_string(n) +
                                " elements");
  return offset;
}

inline int threads_of(int threads) {
  expect_between("threads", threads, 1, INT32_MAX);
  return threads;
}

inline DType dtype_of(int code) {
  expect_between("dtype", code, 0, static_cast<int>(DType::kF32));
  return static_cast<DType>(code);
}

// Bytes of an element.
inline int64_t size_of(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

inline Elect elect_of(int code) {
  expect_between("elect", code, 0, static_cast<int>(Elect::kCount));
  return static_cast<Elect>(code);
}

inline Norm norm_of(int code) {
  expect_between("norm", code, 0, static_cast<int>(Norm::kLinf));
  return static_cast<Norm>(code);
}

}  // namespace mergesafe
