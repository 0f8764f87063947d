// The Python module mergesafe._native: takes addresses as integers and releases the GIL. It knows
// nothing of torch; shapes, dtypes and devices are checked by its callers in mergesafe/.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cfenv>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/run.h"
#include "cpu/selection.h"
#if MERGESAFE_CUDA_COMPILED
#include "cuda/launch.h"
#include "cuda/run.h"
#endif

namespace py = pybind11;
using namespace mergesafe;

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

Input input_of(const PyInput& p) {
  return {reinterpret_cast<const void*>(std::get<0>(p)), static_cast<DType>(std::get<1>(p)),
          static_cast<DType>(std::get<2>(p))};
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
  return {reinterpret_cast<void*>(std::get<0>(p)), static_cast<DType>(std::get<1>(p))};
}

uint64_t weighted_sum(const std::vector<PyInput>& list, const std::vector<float>& weights,
                      const PyOutput& out, int64_t n, bool zero_nonfinite, int threads) {
  const std::vector<Input> inputs = inputs_of(list);
  const SumJob job{inputs.data(), weights.data(), static_cast<int>(inputs.size()), output_of(out),
                   zero_nonfinite};
  Kernel scope;
  return cpu::run_weighted_sum(job, n, threads);
}

uint64_t merge_task_vectors(const PyInput& base, const std::vector<PyVector>& list,
                            const PyOutput& out, int64_t n, uint64_t offset, int elect,
                            bool normalize, float divisor, float scale, bool zero_nonfinite,
                            int threads) {
  const std::vector<TaskVector> vectors = vectors_of(list);
  const MergeJob job{input_of(base), vectors.data(), static_cast<int>(vectors.size()),
                     output_of(out), offset,         static_cast<Elect>(elect),
                     normalize,      divisor,        scale,
                     zero_nonfinite};
  Kernel scope;
  return cpu::run_merge(job, n, threads);
}

// cpu::Selection on numbers as they come from Python.
class PySelection {
 public:
  PySelection(int64_t n, const std::vector<std::pair<int, int64_t>>& ranks, int64_t sample,
              uintptr_t storage, int64_t size, bool zero_nonfinite, int threads)
      : count_(ranks.size()),
        zero_nonfinite_(zero_nonfinite),
        selection_(n, queries_of(ranks), sample, reinterpret_cast<uint32_t*>(storage), size,
                   threads) {}

  void sample(const PyInput& base, const std::vector<PyInput>& list, int64_t count) {
    const std::vector<Input> experts = inputs_of(list);
    Kernel scope;
    selection_.sample(job_of(base, experts), 0, count);
  }

  uint64_t add(const PyInput& base, const std::vector<PyInput>& list, int64_t count) {
    const std::vector<Input> experts = inputs_of(list);
    Kernel scope;
    return selection_.add(job_of(base, experts), count);
  }

  // Answers by query, and the queries that have none.
  std::pair<std::vector<uint32_t>, std::vector<int>> finish() {
    std::vector<uint32_t> answers(count_);
    Kernel scope;
    const std::vector<int> missed = selection_.finish(answers.data());
    return {answers, missed};
  }

  static std::vector<RankQuery> queries_of(const std::vector<std::pair<int, int64_t>>& ranks) {
    std::vector<RankQuery> queries;
    for (const auto& [expert, k] : ranks) queries.push_back({expert, k});
    return queries;
  }

 private:
  DeltaJob job_of(const PyInput& base, const std::vector<Input>& experts) const {
    return {input_of(base), experts.data(), static_cast<int>(experts.size()), zero_nonfinite_};
  }

  size_t count_;
  bool zero_nonfinite_;
  cpu::Selection selection_;
};

std::pair<uint64_t, std::vector<uint32_t>> kth_magnitude(
    const PyInput& base, const std::vector<PyInput>& list,
    const std::vector<std::pair<int, int64_t>>& ranks, int64_t n, bool zero_nonfinite,
    int threads) {
  const std::vector<Input> experts = inputs_of(list);
  const DeltaJob job{input_of(base), experts.data(), static_cast<int>(experts.size()),
                     zero_nonfinite};
  const std::vector<RankQuery> queries = PySelection::queries_of(ranks);
  std::vector<uint32_t> answers(queries.size());
  Kernel scope;
  const uint64_t flags = cpu::run_kth_magnitude(job, n, queries, threads, answers.data());
  return {flags, answers};
}

uint64_t magnitude_histogram(const PyInput& base, const std::vector<PyInput>& list,
                             const std::vector<int64_t>& prefixes, uintptr_t counts, int64_t n,
                             bool zero_nonfinite, int threads) {
  const std::vector<Input> experts = inputs_of(list);
  const DeltaJob job{input_of(base), experts.data(), static_cast<int>(experts.size()),
                     zero_nonfinite};
  Kernel scope;
  return cpu::run_histogram(job, prefixes.empty() ? nullptr : prefixes.data(), n, threads,
                            reinterpret_cast<int64_t*>(counts));
}

std::pair<uint64_t, std::vector<double>> gram(const std::vector<PyInput>& list,
                                              std::vector<double> totals, int64_t n,
                                              bool zero_nonfinite, int threads) {
  const std::vector<Input> inputs = inputs_of(list);
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
  Kernel scope;
  const uint64_t flags =
      cpu::run_delta_norms(job, static_cast<Norm>(norm), n, threads, totals.data());
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
  if (totals.size() != width * width || counts.size() != 2 * count * count)
    throw py::value_error("totals and counts do not fit the number of experts");
  Kernel scope;
  const uint64_t flags = cpu::run_compare(job, with_base, n, threads, totals.data(), counts.data());
  return {flags, totals, counts};
}

std::vector<double> inner_products(const PyInput& grad, const std::vector<PyInput>& list, int64_t n,
                                   int threads) {
  const std::vector<Input> inputs = inputs_of(list);
  std::vector<double> sums(inputs.size());
  Kernel scope;
  cpu::run_inner_products(input_of(grad), inputs, n, threads, sums.data());
  return sums;
}

std::vector<double> merge_gradient(const PyInput& grad, const PyInput& base,
                                   const std::vector<PyVector>& list, int64_t n, uint64_t offset,
                                   int elect, bool normalize, int threads) {
  const std::vector<TaskVector> vectors = vectors_of(list);
  const GradientJob job{input_of(grad), input_of(base),
                        vectors.data(), static_cast<int>(vectors.size()),
                        offset,         static_cast<Elect>(elect),
                        normalize};
  std::vector<double> sums(vectors.size() + 1);
  Kernel scope;
  cpu::run_merge_gradient(job, n, threads, sums.data());
  return sums;
}

void add_low_rank(const PyInput& w, uintptr_t a, uintptr_t b, int64_t rank, int64_t columns,
                  float scale, int64_t begin, int64_t end, int threads, uintptr_t out) {
  Kernel scope;
  cpu::run_add_low_rank(input_of(w), reinterpret_cast<const float*>(a),
                        reinterpret_cast<const float*>(b), rank, columns, scale, begin, end,
                        threads, reinterpret_cast<float*>(out));
}

int64_t count_nonfinite(const PyInput& input, int64_t n) {
  Kernel scope;
  return cpu::current().count_nonfinite(input_of(input), n);
}

std::pair<uint64_t, uint64_t> digest(uintptr_t data, int64_t nbytes, uint64_t first_block) {
  uint64_t sum[2];
  py::gil_scoped_release release;
  cpu::current().digest(reinterpret_cast<const void*>(data), nbytes, first_block, sum);
  return {sum[0], sum[1]};
}

void triad(uintptr_t a, uintptr_t b, uintptr_t c, float s, int64_t n, int threads) {
  Kernel scope;
  cpu::run_triad(reinterpret_cast<float*>(a), reinterpret_cast<const float*>(b),
                 reinterpret_cast<const float*>(c), s, n, threads);
}

#if MERGESAFE_CUDA_COMPILED
// Everything below takes a device, a stream of it as torch names it, and addresses on the device.
cuda::Stream stream_of(int device, uintptr_t handle) {
  return {device, reinterpret_cast<cudaStream_t>(handle)};
}

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

cuda::MergeCall merge_call(uintptr_t weights, uintptr_t scales, int elect, bool normalize) {
  return {at<const float>(weights), at<const float>(scales), static_cast<Elect>(elect), normalize};
}

void bind_cuda(py::module_& m) {
  using cuda::JobList;
  m.attr("max_experts") = cuda::kMaxExperts;
  using Free = py::call_guard<py::gil_scoped_release>;
  py::register_local_exception<cuda::Error>(m, "CudaError", PyExc_RuntimeError);
  py::class_<JobList>(m, "Jobs", py::module_local())
      .def(py::init([](int count, std::vector<uint64_t> first, std::vector<int> first_dtype,
                       std::vector<uint64_t> out, std::vector<int> out_dtype,
                       std::vector<int64_t> n, std::vector<uint64_t> offset,
                       std::vector<uint64_t> inputs, std::vector<int> dtypes) {
        JobList jobs;
        jobs.count = count;
        jobs.first = std::move(first);
        jobs.first_dtype = std::move(first_dtype);
        jobs.out = std::move(out);
        jobs.out_dtype = std::move(out_dtype);
        jobs.n = std::move(n);
        jobs.offset = std::move(offset);
        jobs.inputs = std::move(inputs);
        jobs.dtypes = std::move(dtypes);
        jobs.validate();
        return jobs;
      }))
      .def("sparsify",
           [](JobList& jobs, std::vector<uint32_t> lo, std::vector<uint32_t> hi,
              std::vector<bool> random, std::vector<uint32_t> threshold, std::vector<uint64_t> key,
              std::vector<float> rescale) {
             jobs.lo = std::move(lo);
             jobs.hi = std::move(hi);
             jobs.random = std::move(random);
             jobs.threshold = std::move(threshold);
             jobs.key = std::move(key);
             jobs.rescale = std::move(rescale);
             jobs.validate();
           })
      .def("ask_ranks", [](JobList& jobs, std::vector<uint64_t> ranks) {
        jobs.key = std::move(ranks);
        jobs.validate();
      });
#if defined(MERGESAFE_EMULATE)
  m.def("launches", &emulate::launches);
#endif
  m.def("problem_of", &cuda::problem_of, Free());
  m.def(
      "run_nothing",
      [](int64_t work, int device, uintptr_t stream) {
        cuda::run_nothing(work, stream_of(device, stream));
      },
      Free());
  m.def("reduction_workspace", &cuda::reduction_workspace);
  m.def("rank_workspace", &cuda::rank_workspace);
  m.def(
      "sums",
      [](const JobList& jobs, uintptr_t weights, int device, uintptr_t stream) {
        cuda::run_sums(jobs, at<const float>(weights), stream_of(device, stream));
      },
      Free());
  m.def(
      "merges",
      [](const JobList& jobs, uintptr_t weights, uintptr_t scales, int elect, bool normalize,
         int device, uintptr_t stream) {
        cuda::run_merges(jobs, merge_call(weights, scales, elect, normalize),
                         stream_of(device, stream));
      },
      Free());
  m.def(
      "inner_products",
      [](const JobList& jobs, uintptr_t workspace, uintptr_t totals, int device, uintptr_t stream) {
        cuda::run_inner_products(jobs, at<double>(workspace), at<double>(totals),
                                 stream_of(device, stream));
      },
      Free());
  m.def(
      "merge_gradients",
      [](const JobList& jobs, uintptr_t weights, int elect, bool normalize, uintptr_t workspace,
         uintptr_t totals, int device, uintptr_t stream) {
        cuda::run_merge_gradients(jobs, merge_call(weights, 0, elect, normalize),
                                  at<double>(workspace), at<double>(totals),
                                  stream_of(device, stream));
      },
      Free());
  m.def(
      "gram",
      [](const JobList& jobs, uintptr_t workspace, uintptr_t totals, int device, uintptr_t stream) {
        cuda::run_gram(jobs, at<double>(workspace), at<double>(totals), stream_of(device, stream));
      },
      Free());
  m.def(
      "norms",
      [](const JobList& jobs, int norm, uintptr_t workspace, uintptr_t totals, int device,
         uintptr_t stream) {
        cuda::run_norms(jobs, static_cast<Norm>(norm), at<double>(workspace), at<double>(totals),
                        stream_of(device, stream));
      },
      Free());
  m.def(
      "ranks",
      [](const JobList& jobs, uintptr_t workspace, uintptr_t answers, int device,
         uintptr_t stream) {
        cuda::run_ranks(jobs, at<void>(workspace), at<uint32_t>(answers),
                        stream_of(device, stream));
      },
      Free());
  m.def(
      "histogram",
      [](const JobList& jobs, uintptr_t prefixes, uintptr_t counts, int device, uintptr_t stream) {
        cuda::run_histogram(jobs, at<const int64_t>(prefixes), at<unsigned long long>(counts),
                            stream_of(device, stream));
      },
      Free());
}
#endif

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
      .def(py::init<int64_t, const std::vector<std::pair<int, int64_t>>&, int64_t, uintptr_t,
                    int64_t, bool, int>())
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
  bind_cuda(device);
#endif
}
