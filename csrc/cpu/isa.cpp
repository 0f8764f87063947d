// The kernels for one instruction set: compiled once per set, with MS_ISA (a C++ identifier),
// MS_ISA_NAME (its public name) and that set's compiler flags. No standard containers in here: the
// linker keeps one copy of a template for all sets.
#if defined(__FAST_MATH__)
#error "mergesafe promises exact bits: do not compile it with -ffast-math"
#endif

#include "cpu/changes.inl"
#include "cpu/compare.inl"
#include "cpu/digest.inl"
#include "cpu/fused.inl"
#include "cpu/gradient.inl"
#include "cpu/kernels.h"
#include "cpu/merge.inl"
#include "cpu/products.inl"
#include "cpu/ranks.inl"
#include "cpu/reduce.inl"
#include "cpu/score.inl"
#include "cpu/select.inl"
#include "cpu/stock.inl"
#include "cpu/tile.inl"

namespace mergesafe::cpu::MS_ISA {

extern const Kernels kKernels;
const Kernels kKernels = {MS_ISA_NAME,
                          weighted_sum,
                          merge_task_vectors,
                          fused_table(FusedList{}),
                          magnitudes,
                          bracket,
                          count_above_all,
                          narrow,
                          histogram,
                          gram,
                          delta_norms,
                          delta_gram,
                          compare,
                          count_changes,
                          inner_products,
                          merge_gradient,
                          add_low_rank,
                          rank_masks,
                          masked_copy,
                          score_histogram,
                          score_norms,
                          merge_scored,
                          stock_rows,
                          kTileTable,
                          count_nonfinite,
                          triad,
                          digest};

}  // namespace mergesafe::cpu::MS_ISA
