// The k-th largest magnitude against a sort: ties, NaN, sizes around every edge, threads, pieces.
#include "cpu/selection.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/element.h"
#include "core/reduce.h"
#include "cpu/run.h"
#include "data.h"

using namespace mergesafe;
using unit::Array;
using unit::Random;

namespace {

// Magnitudes in descending order.
std::vector<uint32_t> sorted(const Array& base, const Array& x, int64_t n) {
  std::vector<uint32_t> all;
  for (int64_t i = 0; i < n; ++i) {
    const float delta = x[i] - base[i];
    all.push_back(std::isnan(delta) ? kNaNMagnitude : bits_of(std::fabs(delta)));
  }
  std::sort(all.begin(), all.end(), std::greater<uint32_t>());
  return all;
}

std::vector<int64_t> ranks_of(int64_t n) {
  std::vector<int64_t> ranks = {1, 2, n / 10, n / 3, n / 2, n - n / 50, n - 1, n};
  ranks.erase(std::remove_if(ranks.begin(), ranks.end(), [&](int64_t k) { return k < 1 || k > n; }),
              ranks.end());
  return ranks;
}

void check(const Array& base, const Array& x, int64_t n, int threads = 1) {
  const std::vector<uint32_t> wanted = sorted(base, x, n);
  const Input expert = x.input();
  std::vector<RankQuery> queries;
  for (int64_t k : ranks_of(n)) queries.push_back({0, k});
  std::vector<uint32_t> found(queries.size());
  cpu::run_kth_magnitude({base.input(), &expert, 1, false}, n, queries, threads, found.data());
  for (size_t q = 0; q < queries.size(); ++q)
    CHECK_EQUAL(found[q], wanted[static_cast<size_t>(queries[q].k - 1)]);
}

Array constant(DType dtype, int64_t n, uint32_t bits) {
  Array made(dtype, n);
  for (int64_t i = 0; i < n; ++i) made.set(i, bits);
  return made;
}

// In ascending order: samples of neighbours mislead.
Array ascending(int64_t n) {
  Array made(DType::kF32, n);
  for (int64_t i = 0; i < n; ++i) made.set(i, bits_of(static_cast<float>(i) * 1e-6f));
  return made;
}

}  // namespace

MS_CASE(ranks_of_all_sizes) {
  unit::every_isa([] {
    for (int64_t n : {1, 2, 3, 31, 32, 33, 1023, 1024, 1025, 4097, 65535, 65536, 65537, 70001})
      check(unit::array(DType::kBF16, n, 50), unit::array(DType::kBF16, n, 51), n);
  });
}

MS_CASE(ranks_of_all_types) {
  unit::every_isa([] {
    const int64_t n = 66000;
    for (DType type : unit::kTypes)
      for (DType other : unit::kTypes)
        check(unit::array(type, n, 52), unit::array(other, n, 53, true), n);
  });
}

MS_CASE(ranks_among_ties) {
  for (int64_t n : {100, 1 << 16, 200000}) {
    const Array zeros = constant(DType::kF32, n, 0), ones = constant(DType::kF32, n, 0x3F800000u);
    check(zeros, zeros, n);
    check(zeros, ones, n);
    check(zeros, constant(DType::kF32, n, 0x7FC00000u), n);
    check(zeros, constant(DType::kF32, n, 0x7F800000u), n);
    Array two = ones, few = ones;
    for (int64_t i = 0; i < n; i += 2) two.set(i, 0x40000000u);
    for (int64_t i = 0; i < n; i += 997) few.set(i, i % 2 == 0 ? 0x7F800000u : 0x7FC00000u);
    check(zeros, two, n);
    check(zeros, few, n);
    check(zeros, ascending(n), n);
  }
}

MS_CASE(ranks_with_any_threads) {
  const int64_t n = (8 << 17) + 1234;
  const Array base = unit::array(DType::kBF16, n, 54), x = unit::array(DType::kBF16, n, 55);
  for (int threads : {1, 2, 3, 8}) check(base, x, n, threads);
}

MS_CASE(ranks_of_several_experts) {
  const int64_t n = 90000;
  const Array base = unit::array(DType::kF16, n, 56), x = unit::array(DType::kF16, n, 57),
              y = unit::array(DType::kF32, n, 58);
  const Input experts[] = {x.input(), y.input()};
  const std::vector<RankQuery> queries = {{0, 5}, {0, n / 2}, {1, 1}, {1, n}, {1, n}};
  std::vector<uint32_t> found(queries.size());
  cpu::run_kth_magnitude({base.input(), experts, 2, false}, n, queries, 2, found.data());
  for (size_t q = 0; q < queries.size(); ++q)
    CHECK_EQUAL(found[q], sorted(base, queries[q].expert == 0 ? x : y,
                                 n)[static_cast<size_t>(queries[q].k - 1)]);
}

MS_CASE(no_rank_is_no_answer) {
  const Array base = unit::array(DType::kBF16, 10, 59);
  const Input expert = base.input();
  for (int64_t n : {0, 10})
    CHECK_EQUAL(cpu::run_kth_magnitude({base.input(), &expert, 1, false}, n, {}, 1, nullptr), 0u);
}

// A selection over pieces, with a sample or without one.
void check_pieces(int64_t n, int64_t piece, int64_t runs, int64_t size, bool all_found) {
  const Array base = constant(DType::kF32, n, 0), x = unit::array(DType::kF32, n, 60);
  const std::vector<uint32_t> wanted = sorted(base, x, n);
  const std::vector<RankQuery> queries = {{0, 1}, {0, std::max<int64_t>(1, n / 5)}, {0, n}};
  std::vector<uint32_t> storage(static_cast<size_t>(size)), found(3);
  cpu::Selection selection(n, queries, runs * 32, storage.data(), size, 2);
  const auto job = [&](int64_t at, Input& expert) {
    expert = x.input();
    expert.data = x.wide.data() + at;
    Input from = base.input();
    from.data = base.wide.data() + at;
    return DeltaJob{from, &expert, 1, false};
  };
  Input expert;
  for (int64_t r = 0; r < runs; ++r) selection.sample(job(n / runs * r, expert), 0, 32);
  for (int64_t at = 0; at < n; at += piece) selection.add(job(at, expert), std::min(piece, n - at));
  const std::vector<int> missed = selection.finish(found.data());
  CHECK(!all_found || missed.empty());
  for (int q = 0; q < 3; ++q)
    if (std::find(missed.begin(), missed.end(), q) == missed.end())
      CHECK_EQUAL(found[static_cast<size_t>(q)],
                  wanted[static_cast<size_t>(queries[static_cast<size_t>(q)].k - 1)]);
}

MS_CASE(selections_in_pieces) {
  for (int64_t piece : {4096, 100000, 1 << 20}) {
    check_pieces(400000, piece, 256, 3 * 400000, true);
    check_pieces(400000, piece, 256, 3 * 2 * (256 * 32 + 64), false);  // hardly any room
    check_pieces(400000, piece, 0, 6 * 200000, false);                 // no sample
  }
  check_pieces(3, 1, 0, 6 * 200, true);
}

MS_CASE(selections_refuse_what_does_not_fit) {
  std::vector<uint32_t> storage(1000);
  const auto made = [&](int64_t sample, int64_t size, int threads) {
    cpu::Selection(INT64_MAX / 4, {{0, 1}}, sample, storage.data(), size, threads);
  };
  made(0, 128, 1);
  CHECK_THROWS(std::length_error, "too small", made(0, 127, 1));
  CHECK_THROWS(std::length_error, "too small", made(0, 1000, 8));
  CHECK_THROWS(std::length_error, "too small", made(469, 1000, 1));
  CHECK_THROWS(std::length_error, "too small", made(INT64_MAX / 4, 1000, 1));
  CHECK_THROWS(std::length_error, "too small", made(0, 1000, INT32_MAX));
}

MS_CASE(an_empty_run_is_no_sample) {
  const Array base = constant(DType::kF32, 100, 0), x = unit::array(DType::kF32, 100, 61);
  const Input expert = x.input();
  const DeltaJob job{base.input(), &expert, 1, false};
  std::vector<uint32_t> storage(1000), found(1);
  cpu::Selection selection(100, {{0, 7}}, 64, storage.data(), 1000, 1);
  selection.sample(job, 0, 0);
  selection.add(job, 100);
  CHECK(selection.finish(found.data()).empty());
  CHECK_EQUAL(found[0], sorted(base, x, 100)[6]);
  CHECK_THROWS(std::length_error, "complete", selection.sample(job, 0, 1));
}

MS_CASE(a_selection_of_nothing_only_looks) {
  Array x = constant(DType::kF32, 100, 0);
  const Input expert = x.input();
  uint32_t storage[200];
  cpu::Selection selection(100, {}, 0, storage, 200, 1);
  CHECK_EQUAL(selection.add({x.input(), &expert, 1, false}, 100), 0u);
  CHECK(selection.finish(nullptr).empty());
}

MS_CASE(every_failed_allocation_of_a_selection_is_an_exception) {
  const int64_t n = (3 << 17) + 5;
  const Array base = unit::array(DType::kF32, n, 62), x = unit::array(DType::kF32, n, 63);
  const Input expert = x.input();
  const uint32_t wanted = sorted(base, x, n)[static_cast<size_t>(n / 7 - 1)];
  const std::vector<RankQuery> queries = {{0, n / 7}};
  const DeltaJob job{base.input(), &expert, 1, false};
  const int64_t before = unit::allocations();
  uint32_t found = 0;
  cpu::run_kth_magnitude(job, n, queries, 3, &found);
  const int64_t all = unit::allocations() - before;
  int64_t failures = 0;
  for (int64_t number = 0; number < all; ++number) {
    unit::fail_allocation(number);
    try {
      cpu::run_kth_magnitude(job, n, queries, 3, &found);
      CHECK_EQUAL(found, wanted);  // it went without
    } catch (const std::bad_alloc&) {
      ++failures;
    }
    unit::fail_allocation(-1);
  }
  CHECK(failures > 10);
  cpu::run_kth_magnitude(job, n, queries, 3, &found);
  CHECK_EQUAL(found, wanted);
}

MS_CASE(histograms_count_all) {
  const int64_t n = (2 << 17) + 3;
  const Array base = constant(DType::kF32, n, 0), x = unit::array(DType::kF32, n, 64, true);
  const Input expert = x.input();
  const DeltaJob job{base.input(), &expert, 1, false};
  std::vector<uint32_t> all = sorted(base, x, n);
  for (int threads : {1, 3}) {
    std::vector<int64_t> high(kHistogramBins), low(kHistogramBins), wanted(kHistogramBins),
        within(kHistogramBins);
    const int64_t prefix = all[1000] >> kLowBits;
    for (uint32_t bits : all) {
      ++wanted[bits >> kLowBits];
      if (bits >> kLowBits == prefix) ++within[bits & 0x7FFFu];
    }
    cpu::run_histogram(job, nullptr, n, threads, high.data());
    cpu::run_histogram(job, &prefix, n, threads, low.data());
    CHECK(high == wanted);
    CHECK(low == within);
  }
}
