// The kernels for one instruction set: compiled once per set, with MS_ISA (a C++ identifier),
// MS_ISA_NAME (its public name) and that set's compiler flags. No standard containers in here: the
// linker keeps one copy of a template for all sets.
#if defined(__FAST_MATH__)
#error "mergesafe promises exact bits: do not compile it with -ffast-math"
#endif

#include <cstdint>
#include <cstring>
#include <limits>
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
// GCC 12 warns of its own intrinsics' deliberately undefined operands.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "core/chain.h"
#include "core/element.h"
#include "core/gradient.h"
#include "core/philox.h"
#include "core/reduce.h"
#include "cpu/kernels.h"
// Everything static, and vectorised for the flags of this set.
#define XXH_INLINE_ALL
#include "third_party/xxhash.h"

namespace mergesafe::cpu::MS_ISA {
namespace {

#include "cpu/digest.inl"
#include "cpu/load.inl"
#include "cpu/masks.inl"
#include "cpu/merge.inl"
#include "cpu/reduce.inl"
#include "cpu/select.inl"

// These use the ones above.
#include "cpu/avx512_gradient.inl"
#include "cpu/compare.inl"
#include "cpu/gradient.inl"

}  // namespace

extern const Kernels kKernels;
const Kernels kKernels = {
    MS_ISA_NAME,     weighted_sum,   merge_task_vectors, magnitudes,   bracket,
    count_above_all, narrow,         histogram,          gram,         delta_norms,
    compare,         inner_products, merge_gradient,     add_low_rank, count_nonfinite,
    triad,           digest};

}  // namespace mergesafe::cpu::MS_ISA
