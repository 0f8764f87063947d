// The compiled tile functions of core/tile.h, by name.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.h"
#include "core/tile.h"
#include "cpu/run.h"
#include "gil.h"

namespace py = pybind11;

namespace mergesafe {
namespace {

// The number of a function in a table of shapes.
template <class Shape, size_t N>
int number_of(const Shape (&shapes)[N], const std::string& what, const std::string& name) {
  std::string known;
  for (size_t i = 0; i < N; ++i) {
    if (name == shapes[i].name) return static_cast<int>(i);
    known += std::string(known.empty() ? "" : ", ") + shapes[i].name;
  }
  throw std::invalid_argument("there is no compiled " + what + " '" + name + "'; expected one of " +
                              known);
}

template <class Shape>
void check_taken(const Shape& shape, const std::vector<Input>& inputs, int64_t n) {
  check_inputs(inputs, n, 1);
  if (shape.inputs > 0)
    expect_length("inputs", inputs.size(), shape.inputs, "as the function takes");
}

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

uint64_t tile_scores(const std::string& name, const Input& base, const std::vector<Input>& inputs,
                     int64_t columns, const std::vector<std::vector<float>>& settings,
                     const std::vector<float>& floors, const std::vector<Array>& outs,
                     const std::optional<Array>& rows, bool rows_known, int64_t n,
                     bool zero_nonfinite, int threads) {
  const int number = number_of(kTileScores, "score", name);
  const TileScoreShape& shape = kTileScores[number];
  elements_of(n), threads_of(threads);
  check_taken(shape, inputs, n);
  expect_length("floors", floors.size(), outs.size(), "one per score");
  expect_length("settings", settings.size(), outs.size(), "one list per score");
  if (shape.rows) expect_rows(columns, n);
  std::vector<TileScore> scores;
  for (size_t i = 0; i < outs.size(); ++i) {
    const std::vector<float>& each = settings[i];
    expect_length("settings", each.size(), shape.settings, "as the score takes");
    if (name == "pcb_score" && !(each[0] >= 0.0f && each[0] < inputs.size()))
      throw std::invalid_argument("settings[0] is " + std::to_string(each[0]) +
                                  "; expected the number of an input");
    scores.push_back(
        {each.data(), floors[i], array_of<float>("outs", outs[i], n, "one per element")});
  }
  if (rows && !shape.rows) throw std::invalid_argument("the score has no numbers of rows");
  if (rows_known && !rows) throw std::invalid_argument("no numbers of rows are known");
  const TileScoreJob job{
      checked("the base", base, n),
      inputs.data(),
      static_cast<int>(inputs.size()),
      scores.data(),
      static_cast<int>(scores.size()),
      columns,
      rows ? array_of<float>("rows", *rows, n / columns, "one per row") : nullptr,
      rows_known,
      zero_nonfinite};
  Kernel scope;
  return cpu::run_tile_scores(number, job, n, threads);
}

}  // namespace

void bind_tile(py::module_& m) {
  std::vector<std::string> names, scores;
  for (const TileShape& each : kTileShapes) names.emplace_back(each.name);
  for (const TileScoreShape& each : kTileScores) scores.emplace_back(each.name);
  m.attr("tile_functions") = py::cast(names);
  m.attr("tile_score_functions") = py::cast(scores);
  m.def("tile_function", &tile_function);
  m.def("tile_scores", &tile_scores);
}

}  // namespace mergesafe
