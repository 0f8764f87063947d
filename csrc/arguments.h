// What Python hands over, as typed structs, and the checked way from them to what kernels take.
// An Input, an Output and a TaskVector are those of core/job.h; Python says addresses as integers.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "checks.h"
#include "core/fused.h"
#include "core/job.h"

namespace mergesafe {

// What a call reads or writes besides inputs and output.
struct Array {
  uintptr_t address;
  size_t values;
};

inline Input make_input(uintptr_t address, int dtype, int cast) {
  return {reinterpret_cast<const void*>(address), dtype_of(dtype), dtype_of(cast)};
}

inline Output make_output(uintptr_t address, int dtype) {
  return {reinterpret_cast<void*>(address), dtype_of(dtype)};
}

inline TaskVector make_vector(const Input& input, float weight, float rescale, uint32_t lo,
                              uint32_t hi, bool random, uint32_t threshold, uint64_t key,
                              const std::optional<Array>& keep) {
  const Array bytes = keep.value_or(Array{0, 0});
  return {input,
          weight,
          rescale,
          lo,
          hi,
          random,
          threshold,
          key,
          reinterpret_cast<const uint8_t*>(bytes.address),
          static_cast<int64_t>(bytes.values)};
}

// One of the arrays of n elements that a call works on.
inline const Input& checked(const char* name, const Input& input, int64_t n) {
  expect_memory(name, reinterpret_cast<uintptr_t>(input.data), n, size_of(input.dtype));
  return input;
}

inline const Output& checked(const Output& output, int64_t n) {
  expect_memory("the output", reinterpret_cast<uintptr_t>(output.data), n, size_of(output.dtype));
  return output;
}

inline void check_inputs(const std::vector<Input>& inputs, int64_t n, int64_t least = 0,
                         const char* number = "the number of inputs") {
  expect_between(number, inputs.size(), least, kMostInputs);
  for (const Input& input : inputs) checked("an input", input, n);
}

inline void check_vectors(const std::vector<TaskVector>& vectors, int64_t n) {
  expect_between("the number of task vectors", vectors.size(), 0, kMostInputs);
  for (const TaskVector& vector : vectors) {
    checked("an expert", vector.input, n);
    if (vector.keep != nullptr) expect_length("keep", vector.kept, n, "one per element");
  }
}

// The array, which must have `wanted` values, `of` what.
template <class T>
T* array_of(const char* name, const Array& array, size_t wanted, const char* of) {
  expect_length(name, array.values, wanted, of);
  expect_memory(name, array.address, static_cast<int64_t>(wanted), sizeof(T));
  return reinterpret_cast<T*>(array.address);
}

// Throws where the fused combination of this number does not take `count` inputs.
inline void check_fused_inputs(int number, size_t count) {
  const int takes = FusedList::kInputs[number];
  if (takes != kAnyInputs) expect_length("inputs", count, takes, "as the kernel takes");
  if (count < 1) throw std::invalid_argument("inputs has 0 values; expected at least 1");
  if (count % FusedList::kTensors[number] != 0)
    throw std::invalid_argument("inputs has " + std::to_string(count) +
                                " values; expected two for every input");
}

// The number of a fused combination in FusedList; ValueError for a name that is not in it.
inline int fused_of(const std::string& name) {
  std::string known;
  for (int i = 0; i < FusedList::kCount; ++i) {
    if (name == FusedList::kNames[i]) return i;
    known += std::string(known.empty() ? "" : ", ") + FusedList::kNames[i];
  }
  throw std::invalid_argument("there is no fused kernel '" + name + "'; expected one of " + known);
}

void bind_arguments(pybind11::module_& m);  // bindings_arguments.cpp
void bind_selected(pybind11::module_& m);   // bindings_selected.cpp
void bind_tile(pybind11::module_& m);       // bindings_tile.cpp

}  // namespace mergesafe
