// The compiled tile functions of core/tile.h, by name.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.h"
#include "core/tile.h"
#include "cpu/run.h"
#include "cpu/scored.h"
#include "gil.h"
#include "tile_scores.h"

namespace py = pybind11;

namespace mergesafe {
namespace {

uint64_t tile_function(const std::string& name, const Input& base, const std::vector<Input>& inputs,
                       const std::vector<Array>& scores, const std::vector<float>& settings,
                       const Output& out, int64_t n, bool zero_nonfinite, int threads) {
  const int number = number_of(kTileShapes, "tile function", name);
  const TileShape& shape = kTileShapes[number];
  elements_of(n), threads_of(threads);
  check_taken(shape, inputs, n);
  expect_length("scores", scores.size(), shape.scores + shape.scores_each * inputs.size(),
                "as the function takes");
  expect_length("settings", settings.size(), shape.settings + shape.settings_each * inputs.size(),
                "as the function takes");
  std::vector<const float*> of_elements;
  for (const Array& each : scores)
    of_elements.push_back(array_of<const float>("scores", each, n, "one per element"));
  const TileJob job{checked("the base", base, n),
                    inputs.data(),
                    static_cast<int>(inputs.size()),
                    of_elements.data(),
                    static_cast<int>(scores.size()),
                    settings.data(),
                    static_cast<int>(settings.size()),
                    checked(out, n),
                    zero_nonfinite};
  Kernel scope;
  return cpu::run_tile(number, job, n, threads);
}

uint64_t tile_scores(const TileScores& wanted, const Input& base, const std::vector<Input>& inputs,
                     const std::vector<Array>& outs, int64_t n, bool zero_nonfinite, int threads) {
  elements_of(n), threads_of(threads);
  TileScoreJob job = wanted.job(base, inputs, n, zero_nonfinite);
  expect_length("outs", outs.size(), wanted.count(), "one per score");
  std::vector<TileScore> scores(job.scores, job.scores + job.score_count);
  for (size_t i = 0; i < outs.size(); ++i)
    scores[i].out = array_of<float>("outs", outs[i], n, "one per element");
  job.scores = scores.data();
  Kernel scope;
  return cpu::run_tile_scores(wanted.function(), job, n, threads);
}

// The function, of scores that it takes as they are found.
uint64_t scored_tile(const std::string& name, const TileScores& wanted, const Input& base,
                     const std::vector<Input>& inputs, const std::vector<float>& settings,
                     const Output& out, int64_t n, bool zero_nonfinite, int threads) {
  const int number = number_of(kTileShapes, "tile function", name);
  const TileShape& shape = kTileShapes[number];
  elements_of(n), threads_of(threads);
  const TileScoreJob scores = wanted.job(base, inputs, n, zero_nonfinite);
  check_taken(shape, inputs, n);
  expect_length("scores", wanted.count(), shape.scores + shape.scores_each * inputs.size(),
                "as the function takes");
  expect_length("settings", settings.size(), shape.settings + shape.settings_each * inputs.size(),
                "as the function takes");
  const TileJob job{checked("the base", base, n),
                    inputs.data(),
                    static_cast<int>(inputs.size()),
                    nullptr,
                    scores.score_count,
                    settings.data(),
                    static_cast<int>(settings.size()),
                    checked(out, n),
                    zero_nonfinite};
  Kernel scope;
  return cpu::run_scored_tile(number, job, wanted.function(), scores, n, threads);
}

}  // namespace

void bind_tile(py::module_& m) {
  std::vector<std::string> names, scores;
  for (const TileShape& each : kTileShapes) names.emplace_back(each.name);
  for (const TileScoreShape& each : kTileScores) scores.emplace_back(each.name);
  m.attr("tile_functions") = py::cast(names);
  m.attr("tile_score_functions") = py::cast(scores);
  py::class_<TileScores>(m, "TileScores", py::module_local())
      .def(py::init<const std::string&, int64_t, std::vector<std::vector<float>>,
                    const std::vector<float>&, const std::optional<Array>&, bool>(),
           py::arg("name"), py::arg("columns"), py::arg("settings"), py::arg("floors"),
           py::arg("rows") = py::none(), py::arg("rows_known") = false);
  m.def("tile_function", &tile_function);
  m.def("tile_scores", &tile_scores);
  m.def("scored_tile", &scored_tile);
}

}  // namespace mergesafe
