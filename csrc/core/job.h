// Plain descriptions of work, passed by value. No ownership, no torch.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace mergesafe {

// A contiguous input. `cast` is the type its values are rounded to at load (the recipe's dtype).
struct Input {
  const void* data;
  DType dtype;
  DType cast;
};

struct Output {
  void* data;
  DType dtype;
};

enum class Elect : int { kNone = 0, kSum = 1, kCount = 2 };

// Which elements of a task vector survive and what they are multiplied with.
struct TaskVector {
  Input input;
  float weight;
  float rescale;
  uint32_t lo;  // keep lo <= magnitude bits <= hi
  uint32_t hi;
  bool random;  // keep where the Philox word < threshold, instead of the window
  uint32_t threshold;
  uint64_t key;
  const uint8_t* keep;  // of `kept` elements: 0 where it has the value of the base; or null
  int64_t kept;
};

struct MergeJob {
  Input base;
  const TaskVector* vectors;
  int count;
  Output out;
  uint64_t offset;  // index of the first element within its tensor, for Philox
  Elect elect;
  bool normalize;
  float divisor;  // without election: the sum of all weights, or 1
  float scale;
  bool zero_nonfinite;
};

// The backward pass of a MergeJob: sums over elements of a gradient with what it depends on.
struct GradientJob {
  Input grad;
  Input base;
  const TaskVector* vectors;
  int count;
  uint64_t offset;  // as in MergeJob
  Elect elect;
  bool normalize;
};

struct SumJob {
  const Input* inputs;
  const float* weights;
  int count;
  Output out;
  bool zero_nonfinite;
};

// One of the combinations of core/fused.h, with as many inputs and coefficients as it takes: those
// of all inputs, then those of every input.
struct FusedJob {
  Input base;
  const Input* inputs;
  int count;
  const float* coefficients;
  Output out;
  bool zero_nonfinite;
};

struct DeltaJob {
  Input base;
  const Input* experts;
  int count;
  bool zero_nonfinite;
};

enum class Norm : int { kL1 = 0, kL2 = 1, kLinf = 2 };

// One request for the bits of the k-th largest |delta| of an expert, k counted from 1.
struct RankQuery {
  int expert;
  int64_t k;
};

}  // namespace mergesafe
