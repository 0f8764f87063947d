// The Python module mergesafe._native: takes arguments.h's structs of addresses, and releases the
// GIL. It knows nothing of torch; shapes and devices are checked by its callers in mergesafe/, and
// that memory of the given length lies at an address is theirs to know.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "arguments.h"
#include "core/element.h"
#include "cpu/run.h"
#include "cpu/selection.h"
#include "gil.h"
#include "tile_scores.h"

namespace py = pybind11;
using namespace mergesafe;

#if defined(MERGESAFE_SANITIZE)
#include "../tests/csrc/probe.h"
#endif

#if MERGESAFE_CUDA_COMPILED
namespace mergesafe::cuda {
void bind(py::module_& m);  // bindings_cuda.cpp
}
#endif

namespace {

// Raised with every change of _native.pyi, and with INTERFACE in mergesafe/native.py, which refuses
// to load a module of another number: one that was compiled before `git pull`, for example.
constexpr int kInterface = 2;

uint64_t weighted_sum(const std::vector<Input>& inputs, const std::vector<float>& weights,
                      const Output& out, int64_t n, bool zero_nonfinite, int threads) {
  elements_of(n), threads_of(threads);
  check_inputs(inputs, n, 1);
  expect_length("weights", weights.size(), inputs.size(), "one per input");
  const SumJob job{inputs.data(), weights.data(), static_cast<int>(inputs.size()), checked(out, n),
                   zero_nonfinite};
  Kernel scope;
  return cpu::run_weighted_sum(job, n, threads);
}

uint64_t merge_task_vectors(const Input& base, const std::vector<TaskVector>& vectors,
                            const Output& out, int64_t n, uint64_t offset, int elect,
                            bool normalize, float scale, bool zero_nonfinite, int threads) {
  elements_of(n), threads_of(threads);
  check_vectors(vectors, n);
  const int count = static_cast<int>(vectors.size());
  const MergeJob job{checked("the base", base, n),
                     vectors.data(),
                     count,
                     checked(out, n),
                     offset_of(offset, n),
                     elect_of(elect),
                     normalize,
                     divisor_of(count, normalize, [&](int i) { return vectors[i].weight; }),
                     scale,
                     zero_nonfinite};
  Kernel scope;
  return cpu::run_merge(job, n, threads);
}

uint64_t fused(const std::string& kernel, const Input& base, const std::vector<Input>& inputs,
               const std::vector<float>& coefficients, const Output& out, int64_t n,
               bool zero_nonfinite, int threads) {
  elements_of(n), threads_of(threads);
  const int number = fused_of(kernel);
  check_fused_inputs(number, inputs.size());
  check_inputs(inputs, n);
  const int count = static_cast<int>(inputs.size());
  expect_length("coefficients", coefficients.size(), FusedList::coefficients(number, count),
                "as the kernel takes");
  const FusedJob job{checked("the base", base, n), inputs.data(),   count,
                     coefficients.data(),          checked(out, n), zero_nonfinite};
  Kernel scope;
  return cpu::run_fused(number, job, n, threads);
}

// A base and experts of n elements.
DeltaJob deltas_of(const Input& base, const std::vector<Input>& experts, int64_t n,
                   bool zero_nonfinite, int64_t least = 0) {
  check_inputs(experts, n, least, "the number of experts");
  return {checked("the base", base, n), experts.data(), static_cast<int>(experts.size()),
          zero_nonfinite};
}

using PyRanks = std::vector<std::pair<int, int64_t>>;

// Pairs (expert, k) as queries. Kernels read each expert once, so experts must not descend.
std::vector<RankQuery> queries_of(const PyRanks& ranks, int64_t experts, int64_t n) {
  expect_between("the number of ranks", ranks.size(), 0, INT32_MAX);
  std::vector<RankQuery> queries;
  queries.reserve(ranks.size());
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
        adding_(threads_of(threads), 0),
        selection_(elements_of(n), queries_of(ranks, kMostInputs, n), sample_of(sample, n),
                   storage_of(storage, size), size, threads_of(threads)) {}

  void sample(const Input& base, const std::vector<Input>& experts, int64_t count) {
    const DeltaJob job =
        deltas_of(base, experts, elements_of(count), zero_nonfinite_, least_experts_);
    Alone alone(whole());
    Kernel scope;
    selection_.sample(job, 0, count);
  }

  uint64_t add(const Input& base, const std::vector<Input>& experts, int64_t count) {
    const DeltaJob job =
        deltas_of(base, experts, elements_of(count), zero_nonfinite_, least_experts_);
    Alone alone(whole());
    Kernel scope;
    return selection_.add(job, count);
  }

  // Of scores in float32, whose own magnitudes count.
  void add_scores(const std::vector<Array>& scores, int64_t count) {
    elements_of(count);
    expect_between("the number of scores", scores.size(), least_experts_, kMostInputs);
    std::vector<Input> inputs;
    for (const Array& each : scores)
      inputs.push_back({array_of<const float>("scores", each, count, "one per element"),
                        DType::kF32, DType::kF32});
    const DeltaJob job{{nullptr, DType::kF32, DType::kF32},
                       inputs.data(),
                       static_cast<int>(inputs.size()),
                       zero_nonfinite_};
    Alone alone(whole());
    Kernel scope;
    selection_.add(job, count);
  }

  // Of scores that a function finds of a base and inputs.
  uint64_t add_scored(const TileScores& wanted, const Input& base, const std::vector<Input>& inputs,
                      int64_t count) {
    const TileScoreJob job = wanted.job(base, inputs, elements_of(count), zero_nonfinite_);
    expect_between("the number of scores", wanted.count(), least_experts_, kMostInputs);
    Alone alone(whole());
    Kernel scope;
    return selection_.add_scored(wanted.function(), job, count);
  }

  // By one of several threads, each with a number of its own.
  uint64_t add_alone(const Input& base, const std::vector<Input>& experts, int64_t count,
                     int thread) {
    const DeltaJob job =
        deltas_of(base, experts, elements_of(count), zero_nonfinite_, least_experts_);
    expect_between("thread", thread, 0, static_cast<int64_t>(adding_.size()) - 1);
    if (busy_) throw std::runtime_error("a selection is used by two threads at a time");
    Alone alone(adding_[thread]);
    Kernel scope;
    return selection_.add_alone(job, count, thread);
  }

  std::vector<uint32_t> least() {
    Alone alone(whole());
    Kernel scope;
    return selection_.least();
  }

  // Answers by query, and the queries that have none.
  std::pair<std::vector<uint32_t>, std::vector<int>> finish() {
    std::vector<uint32_t> answers(count_);
    Alone alone(whole());
    Kernel scope;
    std::vector<int> missed = selection_.finish(answers.data());
    return {std::move(answers), std::move(missed)};
  }

 private:
  // What is about the whole selection meets no thread that adds to it.
  char& whole() {
    for (char each : adding_)
      if (each) throw std::runtime_error("a selection is used by two threads at a time");
    return busy_;
  }

  // Calls release Python's lock, so two threads could work on one selection. Made and ended with
  // the lock, which is what makes `busy` safe.
  struct Alone {
    explicit Alone(char& busy) : busy_(busy) {
      if (busy) throw std::runtime_error("a selection is used by two threads at a time");
      busy = 1;
    }
    ~Alone() { busy_ = 0; }
    Alone(const Alone&) = delete;
    Alone& operator=(const Alone&) = delete;
    char& busy_;
  };

  static int64_t sample_of(int64_t sample, int64_t n) {
    expect_between("sample", sample, 0, n);
    return sample;
  }
  static uint32_t* storage_of(uintptr_t storage, int64_t size) {
    expect_between("size", size, 0, kMostElements);
    expect_memory("the storage", storage, size, sizeof(uint32_t));
    return reinterpret_cast<uint32_t*>(storage);
  }

  size_t count_;
  int64_t least_experts_;  // those that the ranks are about
  bool zero_nonfinite_;
  char busy_ = 0;
  std::vector<char> adding_;  // by thread
  cpu::Selection selection_;
};

std::pair<uint64_t, std::vector<uint32_t>> kth_magnitude(const Input& base,
                                                         const std::vector<Input>& experts,
                                                         const PyRanks& ranks, int64_t n,
                                                         bool zero_nonfinite, int threads) {
  elements_of(n), threads_of(threads);
  const DeltaJob job = deltas_of(base, experts, n, zero_nonfinite);
  const std::vector<RankQuery> queries = queries_of(ranks, experts.size(), n);
  std::vector<uint32_t> answers(queries.size());
  Kernel scope;
  const uint64_t flags = cpu::run_kth_magnitude(job, n, queries, threads, answers.data());
  return {flags, std::move(answers)};
}

uint64_t magnitude_histogram(const Input& base, const std::vector<Input>& experts,
                             const std::vector<int64_t>& prefixes, const Array& counts, int64_t n,
                             bool zero_nonfinite, int threads) {
  elements_of(n), threads_of(threads);
  const DeltaJob job = deltas_of(base, experts, n, zero_nonfinite);
  if (!prefixes.empty())
    expect_length("prefixes", prefixes.size(), experts.size(), "one per expert");
  for (int64_t prefix : prefixes) expect_between("a prefix", prefix, 0, kHistogramBins - 1);
  int64_t* bins =
      array_of<int64_t>("counts", counts, experts.size() * kHistogramBins, "65536 per expert");
  Kernel scope;
  return cpu::run_histogram(job, prefixes.empty() ? nullptr : prefixes.data(), n, threads, bins);
}

std::pair<uint64_t, std::vector<double>> gram(const std::vector<Input>& inputs,
                                              std::vector<double> totals, int64_t n,
                                              bool zero_nonfinite, int threads) {
  elements_of(n), threads_of(threads);
  check_inputs(inputs, n);
  expect_length("totals", totals.size(), inputs.size() * inputs.size(), "one per pair of inputs");
  Kernel scope;
  const uint64_t flags = cpu::run_gram(inputs, zero_nonfinite, n, threads, totals.data());
  return {flags, std::move(totals)};
}

std::pair<uint64_t, std::vector<double>> delta_norms(const Input& base,
                                                     const std::vector<TaskVector>& vectors,
                                                     int norm, std::vector<double> totals,
                                                     int64_t n, uint64_t offset,
                                                     bool zero_nonfinite, int threads) {
  elements_of(n), threads_of(threads);
  check_vectors(vectors, n);
  MergeJob job{};
  job.base = checked("the base", base, n);
  job.vectors = vectors.data();
  job.count = static_cast<int>(vectors.size());
  job.offset = offset_of(offset, n);
  job.zero_nonfinite = zero_nonfinite;
  const Norm wanted = norm_of(norm);
  expect_length("totals", totals.size(), 2 * vectors.size(), "two per task vector");
  Kernel scope;
  const uint64_t flags = cpu::run_delta_norms(job, wanted, n, threads, totals.data());
  return {flags, std::move(totals)};
}

std::pair<uint64_t, std::vector<double>> delta_gram(const Input& base,
                                                    const std::vector<Input>& experts,
                                                    std::vector<double> totals, int64_t n,
                                                    bool zero_nonfinite, int threads) {
  elements_of(n), threads_of(threads);
  const DeltaJob job = deltas_of(base, experts, n, zero_nonfinite);
  expect_length("totals", totals.size(), experts.size() * experts.size(),
                "one per pair of experts");
  Kernel scope;
  const uint64_t flags = cpu::run_delta_gram(job, n, threads, totals.data());
  return {flags, std::move(totals)};
}

uint64_t stock_rows(const Input& base, const std::vector<Input>& experts, int64_t columns,
                    const Output& out, int64_t n, bool zero_nonfinite, int threads) {
  elements_of(n), threads_of(threads);
  const DeltaJob deltas = deltas_of(base, experts, n, zero_nonfinite, 2);
  expect_rows(columns, n);
  const StockJob job{deltas.base, deltas.experts,  deltas.count,
                     columns,     checked(out, n), zero_nonfinite};
  Kernel scope;
  return cpu::run_stock_rows(job, n, threads);
}

std::tuple<uint64_t, std::vector<double>, std::vector<int64_t>> compare(
    const Input& base, const std::vector<Input>& experts, bool with_base,
    std::vector<double> totals, std::vector<int64_t> counts, int64_t n, bool zero_nonfinite,
    int threads) {
  elements_of(n), threads_of(threads);
  const DeltaJob job = deltas_of(base, experts, n, zero_nonfinite);
  const size_t count = experts.size(), width = count + with_base;
  expect_length("totals", totals.size(), width * width, "one per pair of task vectors or base");
  expect_length("counts", counts.size(), 2 * count * count, "two per pair of experts");
  Kernel scope;
  const uint64_t flags = cpu::run_compare(job, with_base, n, threads, totals.data(), counts.data());
  return {flags, std::move(totals), std::move(counts)};
}

std::pair<uint64_t, std::vector<int64_t>> count_changes(const Input& base,
                                                        const std::vector<Input>& experts,
                                                        float epsilon, std::vector<int64_t> totals,
                                                        int64_t n, bool zero_nonfinite,
                                                        int threads) {
  elements_of(n), threads_of(threads);
  const DeltaJob job = deltas_of(base, experts, n, zero_nonfinite);
  expect_length("totals", totals.size(), 2 * experts.size(), "two per expert");
  Kernel scope;
  const uint64_t flags = cpu::run_count_changes(job, epsilon, n, threads, totals.data());
  return {flags, std::move(totals)};
}

std::vector<double> inner_products(const Input& grad, const std::vector<Input>& inputs, int64_t n,
                                   int threads) {
  elements_of(n), threads_of(threads);
  check_inputs(inputs, n);
  checked("the gradient", grad, n);
  std::vector<double> sums(inputs.size());
  Kernel scope;
  cpu::run_inner_products(grad, inputs, n, threads, sums.data());
  return sums;
}

std::vector<double> merge_gradient(const Input& grad, const Input& base,
                                   const std::vector<TaskVector>& vectors, int64_t n,
                                   uint64_t offset, int elect, bool normalize, int threads) {
  elements_of(n), threads_of(threads);
  check_vectors(vectors, n);
  for (const TaskVector& vector : vectors)
    if (vector.keep != nullptr) throw std::invalid_argument("there is no gradient with keep");
  const GradientJob job{checked("the gradient", grad, n),
                        checked("the base", base, n),
                        vectors.data(),
                        static_cast<int>(vectors.size()),
                        offset_of(offset, n),
                        elect_of(elect),
                        normalize};
  std::vector<double> sums(vectors.size() + 1);
  Kernel scope;
  cpu::run_merge_gradient(job, n, threads, sums.data());
  return sums;
}

// Elements [begin, end) of a matrix with `columns` columns, which begin at the addresses of w and
// out; at a are `rank` rows of them, at b `rank` values for each row up to the last that is wanted.
void add_low_rank(const Input& w, uintptr_t a, uintptr_t b, int64_t rank, int64_t columns,
                  float scale, int64_t begin, int64_t end, int threads, uintptr_t out) {
  threads_of(threads);
  expect_between("rank", rank, 0, kMostElements);
  expect_between("columns", columns, 1, kMostElements / std::max<int64_t>(1, rank));
  expect_between("end", end, 0, kMostElements);
  expect_between("begin", begin, 0, end);
  const int64_t n = end - begin, rows = end == 0 ? 0 : (end - 1) / columns + 1;
  expect_between("the number of rows", rows, 0, kMostElements / std::max<int64_t>(1, rank));
  checked("the weight", w, n);
  expect_memory("a", a, n > 0 ? rank * columns : 0, sizeof(float));
  expect_memory("b", b, n > 0 ? rank * rows : 0, sizeof(float));
  expect_memory("the output", out, n, sizeof(float));
  Kernel scope;
  cpu::run_add_low_rank(w, reinterpret_cast<const float*>(a), reinterpret_cast<const float*>(b),
                        rank, columns, scale, begin, end, threads, reinterpret_cast<float*>(out));
}

int64_t count_nonfinite(const Input& input, int64_t n) {
  checked("the input", input, elements_of(n));
  Kernel scope;
  return cpu::current().count_nonfinite(input, n);
}

std::pair<uint64_t, uint64_t> digest(uintptr_t data, int64_t nbytes, uint64_t first_block) {
  expect_between("nbytes", nbytes, 0, kMostElements);
  expect_memory("the data", data, nbytes, 1);
  uint64_t sum[2];
  WithoutGil released;
  cpu::current().digest(reinterpret_cast<const void*>(data), nbytes, first_block, sum);
  return {sum[0], sum[1]};
}

void triad(uintptr_t a, uintptr_t b, uintptr_t c, float s, int64_t n, int threads) {
  elements_of(n), threads_of(threads);
  for (uintptr_t each : {a, b, c}) expect_memory("a vector", each, n, sizeof(float));
  Kernel scope;
  cpu::run_triad(reinterpret_cast<float*>(a), reinterpret_cast<const float*>(b),
                 reinterpret_cast<const float*>(c), s, n, threads);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() =
      "Fused merge kernels on raw addresses; use mergesafe.ops. Lengths, types, ranges and the "
      "alignment of addresses are checked (ValueError, TypeError). That memory of this length lies "
      "at an address, and that no other thread writes to it, only the caller can know.";
  m.attr("interface") = kInterface;
  m.attr("cuda_compiled") = static_cast<bool>(MERGESAFE_CUDA_COMPILED);
  m.attr("cuda_compiler") = MERGESAFE_CUDA_COMPILER;
  m.attr("compiler") = MERGESAFE_COMPILER;
  bind_arguments(m);
  m.attr("tiny_divisor") = kTinyDivisor;
  m.attr("histogram_bins") = kHistogramBins;
  m.attr("low_bits") = kLowBits;
  m.def("isa", [] { return std::string(cpu::current().name); });
  m.def("use_isa", &cpu::use);
  m.def("available_isas", &cpu::available);
  m.def("compiled_isas", &cpu::compiled);
  m.def("weighted_sum", &weighted_sum);
  m.def("merge_task_vectors", &merge_task_vectors);
  m.def("fused", &fused);
  m.def("kth_magnitude", &kth_magnitude);
  m.def("magnitude_histogram", &magnitude_histogram);
  m.attr("selection_slack") = cpu::kSlack;
  py::class_<PySelection>(m, "Selection", py::module_local())
      .def(py::init<int64_t, const PyRanks&, int64_t, uintptr_t, int64_t, bool, int>())
      .def("sample", &PySelection::sample)
      .def("add", &PySelection::add)
      .def("add_scores", &PySelection::add_scores)
      .def("add_scored", &PySelection::add_scored)
      .def("add_alone", &PySelection::add_alone)
      .def("least", &PySelection::least)
      .def("finish", &PySelection::finish);
  m.def("gram", &gram);
  m.def("delta_norms", &delta_norms);
  m.def("delta_gram", &delta_gram);
  m.def("stock_rows", &stock_rows);
  m.def("compare", &compare);
  m.def("count_changes", &count_changes);
  m.def("inner_products", &inner_products);
  m.def("merge_gradient", &merge_gradient);
  m.def("add_low_rank", &add_low_rank);
  bind_selected(m);
  bind_tile(m);
  m.def("count_nonfinite", &count_nonfinite);
  m.def("triad", &triad);
  m.attr("digest_block") = cpu::kDigestBlock;
  m.def("digest", &digest);
#if defined(MERGESAFE_SANITIZE)
  m.attr("sanitize") = MERGESAFE_SANITIZE;
  m.def("probe", &probe, py::call_guard<WithoutGil>());
#endif
#if MERGESAFE_CUDA_COMPILED
  py::module_ device = m.def_submodule("cuda", "The same on CUDA devices.");
  cuda::bind(device);
#endif
}
