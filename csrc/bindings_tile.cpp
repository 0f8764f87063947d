// The compiled tile functions of core/tile.h, by name.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
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

int function_of(const std::string& name) {
  std::string known;
  for (int i = 0; i < kTileFunctions; ++i) {
    if (name == kTileShapes[i].name) return i;
    known += std::string(known.empty() ? "" : ", ") + kTileShapes[i].name;
  }
  throw std::invalid_argument("there is no compiled tile function '" + name +
                              "'; expected one of " + known);
}

uint64_t tile_function(const std::string& name, const Input& base, const std::vector<Input>& inputs,
                       const std::vector<Array>& scores, int64_t columns,
                       const std::vector<float>& settings, const Output& out, int64_t n,
                       bool zero_nonfinite, int threads) {
  const int number = function_of(name);
  const TileShape& shape = kTileShapes[number];
  elements_of(n), threads_of(threads);
  check_inputs(inputs, n, 1);
  if (shape.inputs > 0)
    expect_length("inputs", inputs.size(), shape.inputs, "as the function takes");
  expect_length("scores", scores.size(), shape.scores + shape.scores_each * inputs.size(),
                "as the function takes");
  expect_length("settings", settings.size(), shape.settings + shape.settings_each * inputs.size(),
                "as the function takes");
  if (shape.rows) expect_rows(columns, n);
  if (name == "pcb_score" && !(settings[0] >= 0.0f && settings[0] < inputs.size()))
    throw std::invalid_argument("settings[0] is " + std::to_string(settings[0]) +
                                "; expected the number of an input");
  std::vector<const float*> of_elements;
  for (const Array& each : scores)
    of_elements.push_back(array_of<const float>("scores", each, n, "one per element"));
  const TileJob job{checked("the base", base, n),
                    inputs.data(),
                    static_cast<int>(inputs.size()),
                    of_elements.data(),
                    static_cast<int>(scores.size()),
                    columns,
                    settings.data(),
                    static_cast<int>(settings.size()),
                    checked(out, n),
                    zero_nonfinite};
  Kernel scope;
  return cpu::run_tile(number, job, n, threads);
}

}  // namespace

void bind_tile(py::module_& m) {
  std::vector<std::string> names;
  for (const TileShape& each : kTileShapes) names.emplace_back(each.name);
  m.attr("tile_functions") = py::cast(names);
  m.def("tile_function", &tile_function);
}

}  // namespace mergesafe
