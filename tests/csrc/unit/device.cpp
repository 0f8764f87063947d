// The host's side of the kernels on devices: how jobs are packed and launched, and what is refused.
// Built where csrc/emulate stands in for a device.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>

#include "core/reduce.h"
#include "cpu/run.h"
#include "cuda/run.h"
#include "data.h"

using namespace mergesafe;
using cuda::Batch;
using cuda::Expert;
using cuda::Job;
using cuda::JobList;
using unit::Array;
using Wrong = std::invalid_argument;

namespace {

constexpr cuda::Stream kStream{0, nullptr};

struct Jobs {
  JobList list;
  std::vector<Array> firsts, inputs, outs;

  Jobs(int count, const std::vector<int64_t>& sizes, DType dtype = DType::kBF16) {
    list.count = count;
    uint64_t seed = 70;
    for (int64_t n : sizes) {
      firsts.push_back(unit::array(dtype, n, ++seed));
      outs.emplace_back(dtype, n);
      for (int i = 0; i < count; ++i) inputs.push_back(unit::array(dtype, n, ++seed));
    }
    const auto code = static_cast<int>(dtype);
    for (size_t j = 0; j < sizes.size(); ++j) {
      list.first.push_back(address(firsts[j]));
      list.out.push_back(address(outs[j]));
      list.first_dtype.push_back(code);
      list.out_dtype.push_back(code);
      list.n.push_back(sizes[j]);
      list.offset.push_back(0);
    }
    for (Array& each : inputs) {
      list.inputs.push_back(address(each));
      list.dtypes.push_back(code);
    }
    list.validate();
    list.check_arrays();
  }
  static uint64_t address(Array& array) { return reinterpret_cast<uint64_t>(array.data()); }
  size_t jobs() const { return list.n.size(); }
  std::vector<Input> inputs_of(size_t j) const {
    std::vector<Input> all;
    for (size_t i = 0; i < static_cast<size_t>(list.count); ++i)
      all.push_back(inputs[j * static_cast<size_t>(list.count) + i].input());
    return all;
  }
};

std::vector<float> weights_of(const Jobs& jobs) {
  std::vector<float> weights;
  for (size_t i = 0; i < jobs.inputs.size(); ++i)
    weights.push_back(0.25f * static_cast<float>(i % 7));
  return weights;
}

template <class T>
void place(Batch& batch, size_t at, const std::vector<T>& values) {
  std::memcpy(batch.bytes + at, values.data(), values.size() * sizeof(T));
}

}  // namespace

MS_CASE(a_batch_finds_the_job_of_a_tile) {
  Batch batch{};
  batch.jobs = 4, batch.count = 1;
  batch.experts_at = 4 * sizeof(Job);
  place(batch, 4 * sizeof(Job) + 4 * sizeof(Expert), std::vector<uint32_t>{2, 2, 5, 0x7FFFFFFFu});
  for (uint32_t tile : {0u, 1u}) CHECK_EQUAL(batch.find(tile), 0);
  for (uint32_t tile : {2u, 3u, 4u}) CHECK_EQUAL(batch.find(tile), 2);  // job 1 has none
  for (uint32_t tile : {5u, 0x7FFFFFFEu}) CHECK_EQUAL(batch.find(tile), 3);
  CHECK_EQUAL(batch.start(0), 0u);
  CHECK_EQUAL(batch.start(3), 5u);
}

MS_CASE(batches_fit_the_parameters_of_a_kernel) {
  CHECK(sizeof(Batch) <= 32764);
  for (int count = 1; count <= cuda::kMaxExperts; ++count) {
    const int jobs = Batch::capacity(count);
    CHECK(jobs >= 1);
    const size_t each = sizeof(Job) + sizeof(Expert) * static_cast<size_t>(count) + 4;
    CHECK(static_cast<size_t>(jobs) * each <= sizeof(Batch::bytes));
    CHECK(static_cast<size_t>(jobs + 1) * each > sizeof(Batch::bytes));
  }
}

MS_CASE(as_many_launches_as_batches) {
  for (int count : {1, 4, 5, 60}) {
    const int fit = Batch::capacity(count);
    for (int jobs : {1, fit, fit + 1, 2 * fit + 1}) {
      if (jobs > 1000) continue;
      Jobs made(count, std::vector<int64_t>(static_cast<size_t>(jobs), 3));
      const std::vector<float> weights = weights_of(made);
      const int64_t before = emulate::launches();
      run_sums(made.list, weights.data(), kStream);
      CHECK_EQUAL(emulate::launches() - before, (jobs + fit - 1) / fit);
    }
  }
}

MS_CASE(sums_of_jobs_are_those_of_the_processor) {
  for (DType dtype : unit::kTypes) {
    for (int count : {1, 3, 60}) {
      Jobs made(count, {0, 1, 8191, 8192, 8193, 0, 100, 20000}, dtype);
      const std::vector<float> weights = weights_of(made);
      run_sums(made.list, weights.data(), kStream);
      for (size_t j = 0; j < made.jobs(); ++j) {
        const std::vector<Input> inputs = made.inputs_of(j);
        const int64_t n = made.list.n[j];
        Array out(dtype, n);
        const float* row = weights.data() + j * inputs.size();
        cpu::run_weighted_sum({inputs.data(), row, count, out.output(), false}, n, 1);
        CHECK(out.narrow == made.outs[j].narrow && out.wide == made.outs[j].wide);
      }
    }
  }
}

MS_CASE(ranks_and_products_of_jobs_are_those_of_the_processor) {
  Jobs made(2, {1, 5000, 70000, 8193});
  std::vector<double> workspace(
      static_cast<size_t>(cuda::reduction_workspace(made.list, made.list.count)));
  std::vector<double> totals(8), wanted(2);
  // The outputs stand for gradients.
  for (size_t j = 0; j < made.jobs(); ++j) made.outs[j] = made.firsts[j];
  for (size_t j = 0; j < made.jobs(); ++j) made.list.out[j] = Jobs::address(made.outs[j]);
  run_inner_products(made.list, workspace.data(), totals.data(), kStream);
  for (size_t j = 0; j < made.jobs(); ++j)
    for (int64_t k : {int64_t{1}, made.list.n[j]})
      made.list.key.push_back(static_cast<uint64_t>(k));
  std::vector<uint64_t> room(static_cast<size_t>(cuda::rank_workspace(made.list)) / 8 + 1);
  std::vector<uint32_t> answers(8), expected(2);
  run_ranks(made.list, room.data(), answers.data(), kStream);
  for (size_t j = 0; j < made.jobs(); ++j) {
    const std::vector<Input> inputs = made.inputs_of(j);
    const int64_t n = made.list.n[j];
    cpu::run_inner_products(made.outs[j].input(), inputs, n, 1, wanted.data());
    cpu::run_kth_magnitude({made.firsts[j].input(), inputs.data(), 2, false}, n, {{0, 1}, {1, n}},
                           1, expected.data());
    for (size_t i : {0, 1}) {
      CHECK_EQUAL(totals[2 * j + i], wanted[i]);
      CHECK_EQUAL(answers[2 * j + i], expected[i]);
    }
  }
}

MS_CASE(jobs_that_cannot_be) {
  const auto refused = [](const char* text, auto&& change) {
    Jobs made(2, {10, 20});
    change(made.list);
    CHECK_THROWS(Wrong, text, (made.list.validate(), made.list.check_arrays()));
  };
  refused("'first' has 1 values; expected 2", [](JobList& l) { l.first.pop_back(); });
  refused("'inputs' has 3 values; expected 4", [](JobList& l) { l.inputs.pop_back(); });
  refused("jobs have 0 experts", [](JobList& l) { l.count = 0; });
  refused("jobs have 61 experts", [](JobList& l) { l.count = 61; });
  refused("a job has -1 elements", [](JobList& l) { l.n[1] = -1; });
  refused("a job has 4398046511095 elements", [](JobList& l) { l.n[1] = (int64_t{1} << 42) - 9; });
  refused("a job has 9223372036854775807 elements", [](JobList& l) { l.n[0] = INT64_MAX; });
  refused("offset is", [](JobList& l) { l.offset[0] = UINT64_MAX - 3; });
  refused("the first array of a job is 0", [](JobList& l) { l.first[0] = 0; });
  refused("the output of a job is 0", [](JobList& l) { l.out[1] = 0; });
  refused("an input of a job is 0", [](JobList& l) { l.inputs[3] = 0; });
  refused("expected a multiple of 2", [](JobList& l) { l.inputs[2] += 1; });
  refused("expected a multiple of 4", [](JobList& l) {
    l.out_dtype[0] = 2;
    l.out[0] += 2;
  });
  refused("dtype is 3", [](JobList& l) { l.dtypes[0] = 3; });
  Jobs made(1, {10});
  made.list.n[0] = int64_t{1} << 42;  // the most; nothing lies there
  made.list.check_arrays();
  CHECK_EQUAL(cuda::reduction_workspace(made.list, 3600), (int64_t{1} << 31) * 3600);
}
