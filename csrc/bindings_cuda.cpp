// The submodule mergesafe._native.cuda: everything takes a device, a stream of it as torch names
// it, and arrays on the device.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "arguments.h"
#include "core/select.h"
#include "cuda/launch.h"
#include "cuda/run.h"
#include "gil.h"

namespace py = pybind11;

namespace mergesafe::cuda {
namespace {

Stream stream_of(int device, uintptr_t handle) {
  return {device, reinterpret_cast<cudaStream_t>(handle)};
}

size_t values(const JobList& jobs, int each) { return static_cast<size_t>(jobs.jobs()) * each; }

const float* weights_of(const JobList& jobs, const Array& weights) {
  return array_of<const float>("weights", weights, values(jobs, jobs.count),
                               "one per input of every job");
}

// Where `sums` sums of every job go, and the workspace that they need.
struct Reduction {
  double* workspace;
  double* totals;

  Reduction(const JobList& jobs, int sums, const Array& workspace, const Array& totals)
      : workspace(array_of<double>("workspace", workspace, reduction_workspace(jobs, sums),
                                   "as reduction_workspace says")),
        totals(array_of<double>("totals", totals, values(jobs, sums), "the sums of every job")) {}
};

void expect_one(const JobList& jobs) { expect_between("the number of jobs", jobs.jobs(), 1, 1); }

}  // namespace

void bind(py::module_& m) {
  m.attr("max_experts") = kMaxExperts;
  using Free = py::call_guard<WithoutGil>;
  py::register_local_exception<Error>(m, "CudaError", PyExc_RuntimeError);
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
        jobs.check_arrays();
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
        const size_t all = static_cast<size_t>(jobs.jobs()) * jobs.count;
        expect_length("ranks", ranks.size(), all, "one per expert of every job");
        for (size_t at = 0; at < all; ++at)
          expect_between("the rank k", static_cast<int64_t>(ranks[at]), 1, jobs.n[at / jobs.count]);
        jobs.key = std::move(ranks);
        jobs.validate();
      });
#if defined(MERGESAFE_EMULATE)
  m.def("launches", &emulate::launches);
#endif
  m.def("problem_of", &problem_of, Free());
  m.def(
      "run_nothing",
      [](int64_t work, int device, uintptr_t stream) {
        elements_of(work);
        run_nothing(work, stream_of(device, stream));
      },
      Free());
  m.def("reduction_workspace", &reduction_workspace);
  m.def("rank_workspace", &rank_workspace);
  m.def(
      "sums",
      [](const JobList& jobs, const Array& weights, int device, uintptr_t stream) {
        run_sums(jobs, weights_of(jobs, weights), stream_of(device, stream));
      },
      Free());
  m.def(
      "merges",
      [](const JobList& jobs, const Array& weights, const Array& scales, int elect, bool normalize,
         int device, uintptr_t stream) {
        const float* factors = array_of<const float>("scales", scales, jobs.jobs(), "one per job");
        run_merges(jobs, {weights_of(jobs, weights), factors, elect_of(elect), normalize},
                   stream_of(device, stream));
      },
      Free());
  m.def(
      "fused",
      [](const std::string& kernel, const JobList& jobs, const Array& coefficients, int device,
         uintptr_t stream) {
        const int number = fused_of(kernel);
        check_fused_inputs(number, static_cast<size_t>(jobs.count));
        run_fused(number, jobs,
                  array_of<const float>("coefficients", coefficients,
                                        values(jobs, FusedList::coefficients(number, jobs.count)),
                                        "as the kernel takes for every job"),
                  stream_of(device, stream));
      },
      Free());
  m.def(
      "inner_products",
      [](const JobList& jobs, const Array& workspace, const Array& totals, int device,
         uintptr_t stream) {
        const Reduction to(jobs, jobs.count, workspace, totals);
        run_inner_products(jobs, to.workspace, to.totals, stream_of(device, stream));
      },
      Free());
  m.def(
      "merge_gradients",
      [](const JobList& jobs, const Array& weights, int elect, bool normalize,
         const Array& workspace, const Array& totals, int device, uintptr_t stream) {
        const Reduction to(jobs, jobs.count + 1, workspace, totals);
        run_merge_gradients(jobs, {weights_of(jobs, weights), nullptr, elect_of(elect), normalize},
                            to.workspace, to.totals, stream_of(device, stream));
      },
      Free());
  m.def(
      "gram",
      [](const JobList& jobs, const Array& workspace, const Array& totals, int device,
         uintptr_t stream) {
        expect_one(jobs);
        const Reduction to(jobs, jobs.count * jobs.count, workspace, totals);
        run_gram(jobs, to.workspace, to.totals, stream_of(device, stream));
      },
      Free());
  m.def(
      "norms",
      [](const JobList& jobs, int norm, const Array& workspace, const Array& totals, int device,
         uintptr_t stream) {
        const Reduction to(jobs, 2 * jobs.count, workspace, totals);
        run_norms(jobs, norm_of(norm), to.workspace, to.totals, stream_of(device, stream));
      },
      Free());
  m.def(
      "ranks",
      [](const JobList& jobs, const Array& workspace, const Array& answers, int device,
         uintptr_t stream) {
        expect_length("ranks", jobs.key.size(), values(jobs, jobs.count), "see ask_ranks");
        // Bytes, for what begins with a RankBins.
        expect_memory("workspace", workspace.address, workspace.values / alignof(RankBins),
                      alignof(RankBins));
        run_ranks(jobs,
                  array_of<char>("workspace", workspace, rank_workspace(jobs),
                                 "the bytes that rank_workspace says"),
                  array_of<uint32_t>("answers", answers, values(jobs, jobs.count),
                                     "one per rank of every job"),
                  stream_of(device, stream));
      },
      Free());
  m.def(
      "histogram",
      [](const JobList& jobs, const Array& prefixes, const Array& counts, int device,
         uintptr_t stream) {
        expect_one(jobs);
        const size_t given = prefixes.address == 0 ? 0 : jobs.count;
        run_histogram(
            jobs, array_of<const int64_t>("prefixes", prefixes, given, "one per expert or none"),
            array_of<unsigned long long>(
                "counts", counts, values(jobs, jobs.count * kHistogramBins), "65536 per expert"),
            stream_of(device, stream));
      },
      Free());
  m.def(
      "changes",
      [](const JobList& jobs, float epsilon, const Array& counts, int device, uintptr_t stream) {
        expect_one(jobs);
        run_changes(jobs, epsilon,
                    array_of<unsigned long long>("counts", counts, values(jobs, 2 * jobs.count),
                                                 "two per expert"),
                    stream_of(device, stream));
      },
      Free());
}

}  // namespace mergesafe::cuda
