// Scores by the compiled functions of core/tile.h, as Python asks for them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
#include "core/tile.h"

namespace mergesafe {

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

// Scores of one function: what each depends on, a number below which it need not be exact, and what
// is known of rows.
class TileScores {
 public:
  TileScores(const std::string& name, int64_t columns, std::vector<std::vector<float>> settings,
             const std::vector<float>& floors, const std::optional<Array>& rows, bool rows_known)
      : function_(number_of(kTileScores, "score", name)),
        columns_(columns),
        settings_(std::move(settings)),
        rows_(rows),
        rows_known_(rows_known) {
    expect_length("settings", settings_.size(), floors.size(), "one list per score");
    for (size_t i = 0; i < floors.size(); ++i) {
      expect_length("settings", settings_[i].size(), shape().settings, "as the score takes");
      scores_.push_back({settings_[i].data(), floors[i], nullptr});
    }
    if (rows && !shape().rows) throw std::invalid_argument("the score has no numbers of rows");
    if (rows_known && !rows) throw std::invalid_argument("no numbers of rows are known");
  }
  // Scores point to settings.
  TileScores(const TileScores&) = delete;
  TileScores& operator=(const TileScores&) = delete;

  int function() const { return function_; }
  size_t count() const { return scores_.size(); }

  // Of n elements; where the scores go is left to what takes them. Lives as long as this and
  // inputs.
  TileScoreJob job(const Input& base, const std::vector<Input>& inputs, int64_t n,
                   bool zero_nonfinite) const {
    check_taken(shape(), inputs, n);
    if (shape().rows) expect_rows(columns_, n);
    for (const TileScore& score : scores_) {  // settings begin with the number of an input
      if (shape().settings > 0 && !(score.settings[0] >= 0.0f && score.settings[0] < inputs.size()))
        throw std::invalid_argument("settings[0] is " + std::to_string(score.settings[0]) +
                                    "; expected the number of an input");
    }
    return {checked("the base", base, n),
            inputs.data(),
            static_cast<int>(inputs.size()),
            scores_.data(),
            static_cast<int>(scores_.size()),
            columns_,
            rows_ ? array_of<float>("rows", *rows_, n / columns_, "one per row") : nullptr,
            rows_known_,
            zero_nonfinite};
  }

 private:
  const TileScoreShape& shape() const { return kTileScores[function_]; }

  int function_;
  int64_t columns_;
  std::vector<std::vector<float>> settings_;
  std::vector<TileScore> scores_;
  std::optional<Array> rows_;
  bool rows_known_;
};

}  // namespace mergesafe
