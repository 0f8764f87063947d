// Tile functions of methods that are compiled, too: what each is given, and the names by which
// methods ask for them (COMPILED in methods/combinations.py). The order of operations is that of
// the functions in methods/definitions.
#pragma once

#include <cstdint>

#include "core/elementary.h"
#include "core/job.h"
#include "core/macros.h"

namespace mergesafe {

struct TileJob {
  Input base;
  const Input* inputs;
  int count;
  const float* const* scores;  // of each element, that the function asked for
  int score_count;
  const float* settings;
  int setting_count;
  Output out;
  bool zero_nonfinite;
};

// How many inputs, scores and settings a function takes; those of `each` come once per input.
struct TileShape {
  const char* name;
  int inputs;  // 0: any number
  int scores, scores_each;
  int settings, settings_each;
};

constexpr TileShape kTileShapes[] = {
    {"arcee_fused", 1, 1, 0, 1, 0},
    {"pcb_balanced", 0, 0, 1, 1, 5},
};
constexpr int kTileFunctions = sizeof kTileShapes / sizeof kTileShapes[0];

// One score of each element. What is below `floor` may come out as any smaller value of at least 0.
struct TileScore {
  const float* settings;
  float floor;
  float* out;
};

// Several scores of the same function, which share what they read and what they have in common.
struct TileScoreJob {
  Input base;
  const Input* inputs;
  int count;
  const TileScore* scores;
  int score_count;
  int64_t columns;
  float* rows;      // what a function finds for each row, or null
  bool rows_known;  // whether it is there already
  bool zero_nonfinite;
};

struct TileScoreShape {
  const char* name;
  bool rows;     // whether elements of a row belong together; `rows` has one number for each
  int inputs;    // 0: any number
  int settings;  // of every score
};

constexpr TileScoreShape kTileScores[] = {
    {"arcee_importance", true, 1, 0},
    {"pcb_score", false, 0, 3},
};
constexpr int kTileScoreFunctions = sizeof kTileScores / sizeof kTileScores[0];

// --- Arcee Fusion (https://github.com/arcee-ai/mergekit)
// ------------------------------------------

constexpr double kTinyShare = 1e-8;  // added to every probability

// Not less, so that NaN is taken over.
MS_FN float arcee_fused(float base, float x, float importance, float threshold) {
  const float moved = base + (x - base);
  return importance < threshold ? base : moved;
}

// --- PCB-Merging (https://arxiv.org/abs/2410.02396) ----------------------------------------------

// Bounds of the magnitudes of one expert's task vector.
struct PcbBounds {
  float low, high;
};

constexpr float kLeastPcbShare = 1e-12f;  // smaller sums of shares divide by this instead

MS_FN float clamped(float magnitude, PcbBounds bounds) {
  const float raised = magnitude < bounds.low ? bounds.low : magnitude;
  return raised > bounds.high ? bounds.high : raised;
}

// `total`: the sum of all `count` task vectors; tau is that of one expert.
MS_FN float pcb_score(float tau, double total, PcbBounds bounds, int count) {
  const double across = tanh_of(total * static_cast<double>(tau));
  const double low = bounds.low, range = static_cast<double>(bounds.high) - low;
  const double above = static_cast<double>(clamped(std::fabs(tau), bounds)) - low;
  const double share = range > 0.0 ? above / range : 0.0;
  const double within = exp_of((share * share - 1.0) * static_cast<double>(count));
  const double both = within * across;
  return static_cast<float>(both < 0.0 ? 0.0 : both);
}

// Where most scores do not count, a bound in float32 says which. Of up to kMostScreened experts it
// is less than a hundredth too small: tanh(v) is at most v and at most 1, the polynomial is within
// 0.1 % of the power of 2, and roundings add 2^-22 for every expert.
constexpr int kMostScreened = 1000;
constexpr float kLeastScreened = 1e-30f;  // floors from which on no rounding underflows
constexpr float kScreenMargin = 1.01f;

// The bound of pcb_score(), negative where that is 0. `by`: 1 / (high - low), 0 where that is none.
MS_FN float pcb_near(float tau, float total, PcbBounds bounds, float by, float count) {
  const float product = total * tau;
  const float across = product > 1.0f ? 1.0f : product;
  const float share = (clamped(std::fabs(tau), bounds) - bounds.low) * by;
  const float exponent = (share * share - 1.0f) * count * 1.44269504f;
  const float power = exponent < -126.0f ? -126.0f : exponent;
  constexpr float kToWhole = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  const float rounded = power + kToWhole;
  const float rest = power - (rounded - kToWhole);
  const float root = 1.0f + rest * (0.69314718f + rest * (0.24022651f + rest * 0.0555041f));
  const float whole = float_of((bits_of(rounded) + 127u) << 23);
  return across * (root * whole);
}

// The share of an expert in an element, from its score and the least and spread of those that
// count.
MS_FN float pcb_share(float score, float least, float spread) {
  const float above = score - least;
  const float positive = above < 0.0f ? 0.0f : above;
  return spread > 0.0f ? positive / spread : 0.0f;
}

MS_FN float pcb_change(float tau, PcbBounds bounds) {
  const float size = clamped(std::fabs(tau), bounds);
  const float moved = float_of((bits_of(size) & kAbsMask) | (bits_of(tau) & ~kAbsMask));
  return moved * (tau == 0.0f ? 0.0f : 1.0f);
}

MS_FN float pcb_merged(float base, float total, float shares, float factor) {
  const float divisor = shares < kLeastPcbShare ? kLeastPcbShare : shares;
  const float change = factor * (total / divisor);
  const float moved = base + change;
  return change == 0.0f ? base : moved;
}

}  // namespace mergesafe
