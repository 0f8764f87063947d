// The Python module mergesafe._native: takes addresses as integers and releases the GIL. It knows
// nothing of torch; shapes, dtypes and devices are checked by its callers in mergesafe/.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cfenv>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "checks.h"
#include "cpu/run.h"
#include "cpu/selection.h"

namespace py = pybind11;
using namespace mergesafe;

#if MERGESAFE_CUDA_COMPILED
namespace mergesafe::cuda {
void bind(py::module_& m);  // bindings_cuda.cpp
}
#endif

namespace {

// Runs without the GIL and in the default floating-point environment, which new threads inherit:
// torch.set_flush_denormal, or a library built with -ffast-math, must not change a merge.
class Kernel {
 public:
  Kernel() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~Kernel() { std::fesetenv(&saved_); }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

 private:
  py::gil_scoped_release release_;
  std::fenv_t saved_;
};

// (address, dtype, cast)
using PyInput = std::tuple<uintptr_t, int, int>;
// (input, weight, rescale, lo, hi, random, threshold, key)
using PyVector = std::tuple<PyInput, float, float, uint32_t, uint32_t, bool, uint32_t, uint64_t>;
using PyOutput = std::tuple<uintptr_t, int>;
// (address, number of values): what a call reads or writes besides inputs and output
using PyArray = std::pair<uintptr_t, size_t>;

Input input_of(const PyInput& p) {
  return {reinterpret_cast<const void*>(std::get<0>(p)), dtype_of(std::get<1>(p)),
          dtype_of(std::get<2>(p))};
}

std::vector<Input> inputs_of(const std::vector<PyInput>& list) {
  std::vector<Input> inputs;
  for (const PyInput& p : list) inputs.push_back(input_of(p));
  return inputs;
}

std::vector<TaskVector> vectors_of(const std::vector<PyVector>& list) {
  std::vector<TaskVector> vectors;
  for (const auto& [input, weight, rescale, lo, hi, random, threshold, key] : list)
    vectors.push_back({input_of(input), weight, rescale, lo, hi, random, threshold, key});
  return vectors;
}

Output output_of(const PyOutput& p) {
  return {reinterpret_cast<void*>(std::get<0>(p)), dtype_of(std::get<1>(p))};
}

uint64_t weighted_sum(const std::vector<PyInput>& list, const std::vector<float>& weights,
                      const PyOutput& out, int64_t n, bool zero_nonfinite, int threads) {
  const std::vector<Input> inputs = inputs_of(list);
  expect_between("the number of inputs", inputs.size(), 1, INT32_MAX);
  expect_length("weights", weights.size(), inputs.size(), "one per input");
  const SumJob job{inputs.data(), weights.data(), static_cast<int>(inputs.size()), output_of(out),
                   zero_nonfinite};
  elements_of(n), threads_of(threads);
  Kernel scope;
  return cpu::run_weighted_sum(job, n, threads);
}

uint64_t merge_task_vectors(const PyInput& base, const std::vector<PyVector>& list,
                            const PyOutput& out, int64_t n, uint64_t offset, int elect,
                            bool normalize, float divisor, float scale, bool zero_nonfinite,
                            int threads) {
  const std::vector<TaskVector> vectors = vectors_of(list);
  const MergeJob job{input_of(base), vectors.data(), static_cast<int>(vectors.size()),
                     output_of(out), offset,         elect_of(elect),
                     normalize,      divisor,        scale,
                     zero_nonfinite};
  elements_of(n), threads_of(threads);
  Kernel scope;
  return cpu::run_merge(job, n, threads);
}

using PyRanks = std::vector<std::pair<int, int64_t>>;

// Pairs (expert, k) as queries. Kernels read each expert once, so experts must not descend.
std::vector<RankQuery> queries_of(const PyRanks& ranks, int64_t experts, int64_t n) {
  std::vector<RankQuery> queries;
  int before = 0;
  for (const auto& [expert, k] : ranks) {
    expect_between("the expert of a rank", expert, before, experts - 1);
    expect_between("the rank k", k, 1, n);
    queries.push_back({before = expert, k});
  }
  return queries;
}

// cpu::Selection on numbers as they come from Python.
class PySelection {
 public:
  PySelection(int64_t n, const PyRanks& ranks, int64_t sample, uintptr_t storage, int64_t size,
              bool zero_nonfinite, int threads)
      : count_(ranks.size()),
        least_experts_(ranks.empty() ? 0 : ranks.back().first + 1),
        zero_nonfinite_(zero_nonfinite),
        selection_(elements_of(n), queries_of(ranks, INT32_MAX, n), sample_of(sample, n),
                   reinterpret_cast<uint32_t*>(storage), size, threads_of(threads)) {}

  void sample(const PyInput& base, const std::vector<PyInput>& list, int64_t count) {
    const std::vector<Input> experts = inputs_of(list);
    const DeltaJob job = job_of(base, experts, count);
    Kernel scope;
    selection_.sample(job, 0, count);
  }

  uint64_t add(const PyInput& base, const std::vector<PyInput>& list, int64_t count) {
    const std::vector<Input> experts = inputs_of(list);
    const DeltaJob job = job_of(base, experts, count);
    Kernel scope;
    return selection_.add(job, count);
  }

  // Answers by query, and the queries that have none.
  std::pair<std::vector<uint32_t>, std::vector<int>> finish() {
    std::vector<uint32_t> answers(count_);
    Kernel scope;
    const std::vector<int> missed = selection_.finish(answers.data());
    return {answers, missed};
  }

 private:
  static int64_t sample_of(int64_t sample, int64_t n) {
    expect_between("sample", sample, 0, n);
    return sample;
  }
  DeltaJob job_of(const PyInput& base, const std::vector<Input>& experts, int64_t count) const {
    expect_between("the number of experts", experts.size(), least_experts_, INT32_MAX);
    elements_of(count);
    return {input_of(base), experts.data(), static_cast<int>(experts.size()), zero_nonfinite_};
  }

  size_t count_;
  int64_t least_experts_;  // those that the ranks are about
  bool zero_nonfinite_;
  cpu::Selection selection_;
};

std::pair<uint64_t, std::vector<uint32_t>> kth_magnitude(const PyInput& base,
                                                         const std::vector<PyInput>& list,
                                                         const PyRanks& ranks, int64_t n,
                                                         bool zero_nonfinite, int threads) {
  const std::vector<Input> experts = inputs_of(list);
  const DeltaJob job{input_of(base), experts.data(), static_cast<int>(experts.size()),
                     zero_nonfinite};
  const std::vector<RankQuery> queries = queries_of(ranks, experts.size(), n);
  std::vector<uint32_t> answers(queries.size());
  elements_of(n), threads_of(threads);
  Kernel scope;
  const uint64_t flags = cpu::run_kth_magnitude(job, n, queries, threads, answers.data());
  return {flags, answers};
}

uint64_t magnitude_histogram(const PyInput& base, const std::vector<PyInput>& list,
                             const std::vector<int64_t>& prefixes, const PyArray& counts, int64_t n,
                             bool zero_nonfinite, int threads) {
  const std::vector<Input> experts = inputs_of(list);
  const DeltaJob job{input_of(base), experts.data(), static_cast<int>(experts.size()),
                     zero_nonfinite};
  if (!prefixes.empty())
    expect_length("prefixes", prefixes.size(), experts.size(), "one per expert");
  for (int64_t prefix : prefixes) expect_between("a prefix", prefix, 0, kHistogramBins - 1);
  expect_length("counts", counts.second, experts.size() * kHistogramBins, "65536 per expert");
  elements_of(n), threads_of(threads);
  Kernel scope;
  return cpu::run_histogram(job, prefixes.empty() ? nullptr : prefixes.data(), n, threads,
                            reinterpret_cast<int64_t*>(counts.first));
}

std::pair<uint64_t, std::vector<double>> gram(const std::vector<PyInput>& list,
                                              std::vector<double> totals, int64_t n,
                                              bool zero_nonfinite, int threads) {
  const std::vector<Input> inputs = inputs_of(list);
  expect_length("totals", totals.size(), inputs.size() * inputs.size(), "one per pair of inputs");
  elements_of(n), threads_of(threads);
  Kernel scope;
  const uint64_t flags = cpu::run_gram(inputs, zero_nonfinite, n, threads, totals.data());
  return {flags, totals};
}

std::pair<uint64_t, std::vector<double>> delta_norms(const PyInput& base,
                                                     const std::vector<PyVector>& list, int norm,
                                                     std::vector<double> totals, int64_t n,
                                                     uint64_t offset, bool zero_nonfinite,
                                                     int threads) {
  const std::vector<TaskVector> vectors = vectors_of(list);
  MergeJob job{};
  job.base = input_of(base);
  job.vectors = vectors.data();
  job.count = static_cast<int>(vectors.size());
  job.offset = offset;
  job.zero_nonfinite = zero_nonfinite;
  const Norm wanted = norm_of(norm);
  expect_length("totals", totals.size(), 2 * vectors.size(), "two per task vector");
  elements_of(n), threads_of(threads);
  Kernel scope;
  const uint64_t flags = cpu::run_delta_norms(job, wanted, n, threads, totals.data());
  return {flags, totals};
}

std::tuple<uint64_t, std::vector<double>, std::vector<int64_t>> compare(
    const PyInput& base, const std::vector<PyInput>& list, bool with_base,
    std::vector<double> totals, std::vector<int64_t> counts, int64_t n, bool zero_nonfinite,
    int threads) {
  const std::vector<Input> experts = inputs_of(list);
  const DeltaJob job{input_of(base), experts.data(), static_cast<int>(experts.size()),
                     zero_nonfinite};
  const size_t count = experts.size(), width = count + with_base;
  expect_length("totals", totals.size(), width * width, "one per pair of task vectors or base");
  expect_length("counts", counts.size(), 2 * count * count, "two per pair of experts");
  elements_of(n), threads_of(threads);
  Kernel scope;
  const uint64_t flags = cpu::run_compare(job, with_base, n, threads, totals.data(), counts.data());
  return {flags, totals, counts};
}

std::vector<double> inner_products(const PyInput& grad, const std::vector<PyInput>& list, int64_t n,
                                   int threads) {
  const std::vector<Input> inputs = inputs_of(list);
  std::vector<double> sums(inputs.size());
  const Input gradient = input_of(grad);
  elements_of(n), threads_of(threads);
  Kernel scope;
  cpu::run_inner_products(gradient, inputs, n, threads, sums.data());
  return sums;
}

std::vector<double> merge_gradient(const PyInput& grad, const PyInput& base,
                                   const std::vector<PyVector>& list, int64_t n, uint64_t offset,
                                   int elect, bool normalize, int threads) {
  const std::vector<TaskVector> vectors = vectors_of(list);
  const GradientJob job{
      input_of(grad), input_of(base),  vectors.data(), static_cast<int>(vectors.size()),
      offset,         elect_of(elect), normalize};
  std::vector<double> sums(vectors.size() + 1);
  elements_of(n), threads_of(threads);
  Kernel scope;
  cpu::run_merge_gradient(job, n, threads, sums.data());
  return sums;
}

void add_low_rank(const PyInput& w, uintptr_t a, uintptr_t b, int64_t rank, int64_t columns,
                  float scale, int64_t begin, int64_t end, int threads, uintptr_t out) {
  const Input weight = input_of(w);
  expect_between("rank", rank, 0, INT64_MAX);
  expect_between("columns", columns, 1, INT64_MAX);
  expect_between("begin", begin, 0, end);
  threads_of(threads);
  Kernel scope;
  cpu::run_add_low_rank(weight, reinterpret_cast<const float*>(a),
                        reinterpret_cast<const float*>(b), rank, columns, scale, begin, end,
                        threads, reinterpret_cast<float*>(out));
}

int64_t count_nonfinite(const PyInput& input, int64_t n) {
  const Input values = input_of(input);
  elements_of(n);
  Kernel scope;
  return cpu::current().count_nonfinite(values, n);
}

std::pair<uint64_t, uint64_t> digest(uintptr_t data, int64_t nbytes, uint64_t first_block) {
  expect_between("nbytes", nbytes, 0, INT64_MAX);
  uint64_t sum[2];
  py::gil_scoped_release release;
  cpu::current().digest(reinterpret_cast<const void*>(data), nbytes, first_block, sum);
  return {sum[0], sum[1]};
}

void triad(uintptr_t a, uintptr_t b, uintptr_t c, float s, int64_t n, int threads) {
  elements_of(n), threads_of(threads);
  Kernel scope;
  cpu::run_triad(reinterpret_cast<float*>(a), reinterpret_cast<const float*>(b),
                 reinterpret_cast<const float*>(c), s, n, threads);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Fused merge kernels on raw addresses; use mergesafe.ops.";
  m.attr("cuda_compiled") = static_cast<bool>(MERGESAFE_CUDA_COMPILED);
  m.attr("cuda_compiler") = MERGESAFE_CUDA_COMPILER;
  m.attr("compiler") = MERGESAFE_COMPILER;
  m.attr("histogram_bins") = kHistogramBins;
  m.attr("low_bits") = kLowBits;
  m.def("isa", [] { return std::string(cpu::current().name); });
  m.def("use_isa", &cpu::use);
  m.def("available_isas", &cpu::available);
  m.def("compiled_isas", &cpu::compiled);
  m.def("weighted_sum", &weighted_sum);
  m.def("merge_task_vectors", &merge_task_vectors);
  m.def("kth_magnitude", &kth_magnitude);
  m.def("magnitude_histogram", &magnitude_histogram);
  m.attr("selection_slack") = cpu::kSlack;
  py::class_<PySelection>(m, "Selection", py::module_local())
      .def(py::init<int64_t, const PyRanks&, int64_t, uintptr_t, int64_t, bool, int>())
      .def("sample", &PySelection::sample)
      .def("add", &PySelection::add)
      .def("finish", &PySelection::finish);
  m.def("gram", &gram);
  m.def("delta_norms", &delta_norms);
  m.def("compare", &compare);
  m.def("inner_products", &inner_products);
  m.def("merge_gradient", &merge_gradient);
  m.def("add_low_rank", &add_low_rank);
  m.def("count_nonfinite", &count_nonfinite);
  m.def("triad", &triad);
  m.attr("digest_block") = cpu::kDigestBlock;
  m.def("digest", &digest);
#if MERGESAFE_CUDA_COMPILED
  py::module_ device = m.def_submodule("cuda", "The same on CUDA devices.");
  cuda::bind(device);
#endif
}
