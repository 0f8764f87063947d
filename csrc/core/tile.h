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

// Where most scores do not count, a bound in float32 says which. It is less than a hundredth too
// small: tanh(v) is at most v, 2^f at most 1 + f for f from 0 to 1, and roundings add 2^-22 for
// every expert. Of more experts than kMostScreened its power of 2 could be too small for a float.
constexpr int kMostScreened = 80;
constexpr float kLeastScreened = 1e-30f;  // floors from which on no rounding underflows
constexpr float kScreenMargin = 1.01f;

// Of one expert: its bounds as bits; 1 / (high - low); a and b such that the
// whole number a share^2 + b, as the bits of a float, is the bound of exp(N (share^2 - 1)).
struct PcbScreen {
  int32_t least, most;
  float low, by, a, b;

  PcbScreen(PcbBounds bounds, int count)
      : least(static_cast<int32_t>(bits_of(bounds.low))),
        most(static_cast<int32_t>(bits_of(bounds.high))),
        low(bounds.low) {
    constexpr double kOne = 8388608.0;  // 2^23, which adds 1 to the exponent of a float
    const double powers = count * kLog2E * kOne, range = bounds.high - bounds.low;
    by = static_cast<float>(1.0 / range);
    a = static_cast<float>(powers);
    b = static_cast<float>(127.0 * kOne - powers);
  }
};

// Whether pcb_near() bounds scores from this floor on. Bounds of magnitudes lie apart and are
// finite but for odd inputs.
MS_FN bool pcb_screens(float floor, PcbBounds bounds, int count) {
  return floor >= kLeastScreened && count <= kMostScreened &&
         bounds.high - bounds.low >= kLeastScreened && bounds.high <= 3.4028235e38f;
}

// The bound of pcb_score(), negative where that is 0. Clamped as whole numbers, for which every
// instruction set has a minimum and a maximum.
MS_FN float pcb_near(float tau, float total, const PcbScreen& screen) {
  const int32_t magnitude = static_cast<int32_t>(bits_of(tau) & kAbsMask);
  const int32_t raised = magnitude < screen.least ? screen.least : magnitude;
  const int32_t size = raised > screen.most ? screen.most : raised;
  const float share = (float_of(static_cast<uint32_t>(size)) - screen.low) * screen.by;
  const int32_t power = static_cast<int32_t>(share * share * screen.a + screen.b);
  return total * tau * float_of(static_cast<uint32_t>(power));
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
