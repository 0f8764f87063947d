// Sums in their one order: lanes of a block, a tree of lanes, blocks.
#include "core/reduce.h"

#include <algorithm>
#include <cmath>

#include "cpu/run.h"
#include "data.h"

using namespace mergesafe;
using unit::Array;

namespace {

constexpr int64_t kLong = (8 << 17) + 4096 + 100;

// The sum of term(i) over a block, from its definition.
template <class Term>
double block_sum(int64_t begin, int64_t end, Term&& term) {
  double lanes[16] = {};
  for (int64_t i = begin; i < end; ++i) lanes[(i - begin) % 16] += term(i);
  for (int width : {8, 4, 2, 1})
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  return lanes[0];
}

template <class Term>
double serial_sum(int64_t n, Term&& term) {
  double total = 0.0;
  for (int64_t at = 0; at < n; at += 4096) total += block_sum(at, std::min(n, at + 4096), term);
  return total;
}

// 64 sums at a time, until one is left.
template <class Term>
double tree_sum(int64_t n, Term&& term) {
  std::vector<double> terms;
  for (int64_t at = 0; at < n; at += 4096)
    terms.push_back(block_sum(at, std::min(n, at + 4096), term));
  while (terms.size() > 1) {
    std::vector<double> next;
    for (size_t at = 0; at < terms.size(); at += 64) {
      double sum = terms[at];
      for (size_t i = at + 1; i < std::min(terms.size(), at + 64); ++i) sum += terms[i];
      next.push_back(sum);
    }
    terms = next;
  }
  return terms.empty() ? 0.0 : terms[0];
}

double wide(float value) { return static_cast<double>(value); }

}  // namespace

MS_CASE(lanes_are_added_as_a_tree) {
  double lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = i == 0 ? 1.0 : 0x1p-53;
  // The small ones meet each other first; one after the other would leave 1.
  CHECK_EQUAL(add_lanes(lanes), 1.0 + 14 * 0x1p-53);
}

MS_CASE(inner_products_in_their_order) {
  unit::every_isa([] {
    for (int64_t n : {0, 1, 15, 16, 17, 4095, 4096, 4097, 70 * 4096 + 33}) {
      const Array g = unit::array(DType::kBF16, n, 40), x = unit::array(DType::kBF16, n, 41),
                  y = unit::array(DType::kF32, n, 42);
      double found[2];
      cpu::run_inner_products(g.input(), {x.input(), y.input()}, n, 1, found);
      CHECK_EQUAL(found[0], tree_sum(n, [&](int64_t i) { return wide(g[i]) * wide(x[i]); }));
      CHECK_EQUAL(found[1], tree_sum(n, [&](int64_t i) { return wide(g[i]) * wide(y[i]); }));
    }
  });
}

MS_CASE(gram_and_norms_in_their_order) {
  unit::every_isa([] {
    for (int64_t n : {1, 17, 4096, 4097, 9000}) {
      const Array x = unit::array(DType::kF16, n, 43), y = unit::array(DType::kBF16, n, 44);
      double totals[4] = {};
      cpu::run_gram({x.input(), y.input()}, false, n, 1, totals);
      CHECK_EQUAL(totals[1], serial_sum(n, [&](int64_t i) { return wide(x[i]) * wide(y[i]); }));
      CHECK_EQUAL(totals[3], serial_sum(n, [&](int64_t i) { return wide(y[i]) * wide(y[i]); }));
      const TaskVector v{y.input(), 1.0f, 1.0f, bits_of(0.5f), kAbsMask, false, 0, 0};
      MergeJob job{};
      job.base = x.input(), job.vectors = &v, job.count = 1;
      double sums[2] = {}, most[2] = {};
      cpu::run_delta_norms(job, Norm::kL1, n, 1, sums);
      cpu::run_delta_norms(job, Norm::kLinf, n, 1, most);
      float largest = 0.0f;
      for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(y[i] - x[i]));
      const auto size = [&](int64_t i) { return wide(std::fabs(y[i] - x[i])); };
      CHECK_EQUAL(sums[0], serial_sum(n, size));
      CHECK_EQUAL(sums[1],
                  serial_sum(n, [&](int64_t i) { return size(i) >= 0.5 ? size(i) : 0.0; }));
      CHECK_EQUAL(most[0], wide(largest));
    }
  });
}

MS_CASE(sums_do_not_depend_on_threads_or_pieces) {
  const Array g = unit::array(DType::kBF16, kLong, 45), b = unit::array(DType::kBF16, kLong, 46),
              x = unit::array(DType::kBF16, kLong, 47), y = unit::array(DType::kF16, kLong, 48);
  const std::vector<Input> inputs = {b.input(), x.input(), y.input()};
  const TaskVector vectors[] = {{x.input(), 0.5f, 1.0f, 0, kAbsMask, false, 0, 0},
                                {y.input(), 0.7f, 1.5f, 0, kAbsMask, true, 1u << 31, 9}};
  const DeltaJob deltas{b.input(), inputs.data() + 1, 2, false};
  MergeJob merge{};
  merge.base = b.input(), merge.vectors = vectors, merge.count = 2;
  const GradientJob gradient{g.input(), b.input(), vectors, 2, 0, Elect::kSum, true};
  std::vector<double> first;
  std::vector<int64_t> signs;
  for (int threads = 1; threads <= 8; ++threads) {
    std::vector<double> found(9 + 4 + 9 + 3 + 3);
    std::vector<int64_t> counts(8);
    double* to = found.data();
    cpu::run_gram(inputs, false, kLong, threads, to);
    cpu::run_delta_norms(merge, Norm::kL2, kLong, threads, to + 9);
    cpu::run_compare(deltas, true, kLong, threads, to + 13, counts.data());
    cpu::run_inner_products(g.input(), inputs, kLong, threads, to + 22);
    cpu::run_merge_gradient(gradient, kLong, threads, to + 25);
    if (threads == 1) first = found, signs = counts;
    CHECK(found == first);
    CHECK(counts == signs);
  }
  for (int64_t piece : {4096, 5 * 4096, 1 << 18}) {
    double totals[9] = {};
    for (int64_t at = 0; at < kLong; at += piece) {
      std::vector<Input> parts = inputs;
      for (Input& each : parts) each.data = static_cast<const uint16_t*>(each.data) + at;
      cpu::run_gram(parts, false, std::min(piece, kLong - at), 1, totals);
    }
    for (int i = 0; i < 9; ++i) CHECK_EQUAL(totals[i], first[static_cast<size_t>(i)]);
  }
}

MS_CASE(lengths_that_are_no_numbers_are_refused) {
  CHECK_EQUAL(cpu::product(1 << 20, 1 << 20), int64_t{1} << 40);
  for (int64_t much : {int64_t{1} << 60, int64_t{1} << 62, INT64_MAX}) {
    CHECK_THROWS(std::bad_alloc, "", cpu::product(much, 2));
    CHECK_THROWS(std::bad_alloc, "", cpu::product(much, much));
  }
}
