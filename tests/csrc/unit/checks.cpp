// What the binding refuses, to the last number that it takes.
#include "checks.h"

#include "unit.h"

using namespace mergesafe;
using Wrong = std::invalid_argument;

MS_CASE(memory_that_cannot_be) {
  expect_memory("x", 0, 0, 4);  // nothing may lie nowhere
  expect_memory("x", 4096, 1 << 20, 4);
  expect_memory("x", INT64_MAX - 7, 1, 4);
  CHECK_THROWS(Wrong, "the address of x is 0; expected that of 1 values",
               expect_memory("x", 0, 1, 4));
  CHECK_THROWS(Wrong, "is 4098; expected a multiple of 4", expect_memory("x", 4098, 1, 4));
  CHECK_THROWS(Wrong, "is 4097; expected a multiple of 2", expect_memory("x", 4097, 1, 2));
  CHECK_THROWS(Wrong, "after which 2 values of 4 bytes", expect_memory("x", INT64_MAX - 7, 2, 4));
  CHECK_THROWS(Wrong, "after which", expect_memory("x", 1 << 16, INT64_MAX, 4));
  CHECK_THROWS(Wrong, "after which", expect_memory("x", 1 << 16, INT64_MAX, 2));
  CHECK_THROWS(Wrong, "after which 1 values", expect_memory("x", UINT64_MAX - 7, 1, 4));
  expect_memory("x", 1, INT64_MAX - 1, 1);
}

MS_CASE(numbers_out_of_range) {
  CHECK_EQUAL(elements_of(0), 0);
  CHECK_EQUAL(elements_of(INT64_MAX / 4), INT64_MAX / 4);
  CHECK_THROWS(Wrong, "n is -1", elements_of(-1));
  CHECK_THROWS(Wrong, "n is", elements_of(INT64_MAX / 4 + 1));
  CHECK_THROWS(Wrong, "n is -9223372036854775808", elements_of(INT64_MIN));
  CHECK_EQUAL(offset_of(INT64_MAX - 5, 5), uint64_t{INT64_MAX - 5});
  CHECK_THROWS(Wrong, "offset is", offset_of(INT64_MAX - 5, 6));
  CHECK_THROWS(Wrong, "offset is 18446744073709551615", offset_of(UINT64_MAX, 0));
  CHECK_THROWS(Wrong, "threads is 0", threads_of(0));
  CHECK_THROWS(Wrong, "threads is -2147483648", threads_of(INT32_MIN));
  for (int code : {-1, 3, INT32_MAX, INT32_MIN}) {
    CHECK_THROWS(Wrong, "dtype is", dtype_of(code));
    CHECK_THROWS(Wrong, "elect is", elect_of(code));
    CHECK_THROWS(Wrong, "norm is", norm_of(code));
  }
  CHECK_THROWS(Wrong, "list has 1 values; expected 2, of them",
               expect_length("list", 1, 2, "of them"));
}
