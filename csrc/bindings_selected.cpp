// Masks that take more than a look at one element: by rank in a row (core/rank_mask.h), by the
// variance over experts (core/score.h).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
#include "cpu/run.h"
#include "gil.h"

namespace py = pybind11;

namespace mergesafe {
namespace {

uint64_t rank_masks(const Input& base, const std::vector<Input>& experts,
                    const std::vector<RankMask>& masks, int64_t columns, int64_t n, uint64_t offset,
                    const std::vector<Array>& keeps, bool zero_nonfinite, int threads) {
  elements_of(n), threads_of(threads);
  check_inputs(experts, n, 0, "the number of experts");
  expect_length("masks", masks.size(), experts.size(), "one per expert");
  expect_length("keeps", keeps.size(), experts.size(), "one per expert");
  expect_rows(columns, n);
  std::vector<uint8_t*> kept;
  for (const Array& each : keeps)
    kept.push_back(array_of<uint8_t>("keeps", each, n, "one per element"));
  const RankMaskJob job{
      checked("the base", base, n),     experts.data(), masks.data(),         kept.data(),
      static_cast<int>(experts.size()), columns,        offset_of(offset, n), zero_nonfinite};
  Kernel scope;
  return cpu::run_rank_masks(job, n, threads);
}

void masked_copy(const Input& base, const Input& expert, const Array& keep, const Output& out,
                 int64_t n, bool zero_nonfinite, int threads) {
  elements_of(n), threads_of(threads);
  const bool alike = base.dtype == expert.dtype && base.cast == expert.cast;
  const DType wanted = alike ? expert.dtype : DType::kF32;
  if (out.dtype != wanted)
    throw std::invalid_argument(
        "the output has another dtype than the copy, which has that of base "
        "and expert, or F32 where they or their casts differ");
  const MaskedCopy copy{checked("the base", base, n), checked("the expert", expert, n),
                        array_of<uint8_t>("keep", keep, n, "one per element"), checked(out, n),
                        zero_nonfinite};
  Kernel scope;
  cpu::run_masked_copy(copy, n, threads);
}

ScoreJob job_of(const Input& base, const std::vector<Input>& experts, int64_t n, uint32_t lo,
                const std::optional<Array>& scores, bool known, bool zero_nonfinite) {
  check_inputs(experts, n, 1, "the number of experts");
  ScoreJob job{};
  job.base = checked("the base", base, n);
  job.experts = experts.data();
  job.count = static_cast<int>(experts.size());
  job.lo = lo;
  if (scores) job.scores = array_of<float>("scores", *scores, n, "one per element");
  job.known = scores && known;
  job.zero_nonfinite = zero_nonfinite;
  return job;
}

std::pair<uint64_t, int64_t> score_histogram(const Input& base, const std::vector<Input>& experts,
                                             int64_t prefix, const Array& counts,
                                             const std::optional<Array>& scores, int64_t n,
                                             bool zero_nonfinite, int threads) {
  elements_of(n), threads_of(threads);
  const ScoreJob job = job_of(base, experts, n, 0, scores, prefix >= 0, zero_nonfinite);
  expect_between("prefix", prefix, -1, kHistogramBins - 1);
  int64_t* bins = array_of<int64_t>("counts", counts, kHistogramBins, "65536");
  int64_t nonzero = 0;
  Kernel scope;
  const uint64_t flags = cpu::run_score_histogram(job, prefix, n, threads, bins, &nonzero);
  return {flags, nonzero};
}

// The bin that holds the k-th largest of what was counted, and k within that bin.
std::pair<int64_t, int64_t> bin_of_rank(const Array& counts, int64_t k) {
  const int64_t* bins = array_of<const int64_t>("counts", counts, kHistogramBins, "65536");
  expect_between("k", k, 1, INT64_MAX);
  uint64_t rest = static_cast<uint64_t>(k);
  for (int64_t bin = kHistogramBins - 1; bin >= 0; --bin) {
    const uint64_t here = static_cast<uint64_t>(bins[bin]);
    if (rest <= here) return {bin, static_cast<int64_t>(rest)};
    rest -= here;
  }
  throw std::invalid_argument("counts has fewer elements than k");
}

std::pair<uint64_t, std::vector<double>> score_norms(const Input& base,
                                                     const std::vector<Input>& experts, uint32_t lo,
                                                     std::vector<double> totals,
                                                     const std::optional<Array>& scores, int64_t n,
                                                     bool zero_nonfinite, int threads) {
  elements_of(n), threads_of(threads);
  const ScoreJob job = job_of(base, experts, n, lo, scores, true, zero_nonfinite);
  expect_length("totals", totals.size(), experts.size(), "one per expert");
  Kernel scope;
  const uint64_t flags = cpu::run_score_norms(job, n, threads, totals.data());
  return {flags, std::move(totals)};
}

uint64_t merge_scored(const Input& base, const std::vector<Input>& experts, uint32_t lo,
                      const std::vector<float>& weights, const Output& out,
                      const std::optional<Array>& scores, int64_t n, bool zero_nonfinite,
                      int threads) {
  elements_of(n), threads_of(threads);
  ScoreJob job = job_of(base, experts, n, lo, scores, true, zero_nonfinite);
  expect_length("weights", weights.size(), experts.size(), "one per expert");
  job.weights = weights.data();
  job.out = checked(out, n);
  Kernel scope;
  return cpu::run_merge_scored(job, n, threads);
}

}  // namespace

void bind_selected(py::module_& m) {
  py::class_<RankMask>(m, "RankMask", py::module_local())
      .def(py::init<double, double, uint64_t>(), py::arg("low"), py::arg("step"), py::arg("key"));
  m.def("rank_masks", &rank_masks);
  m.def("masked_copy", &masked_copy);
  m.def("score_histogram", &score_histogram);
  m.def("bin_of_rank", &bin_of_rank);
  m.def("score_norms", &score_norms);
  m.def("merge_scored", &merge_scored);
}

}  // namespace mergesafe
