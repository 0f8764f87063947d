// Scores that are taken block by block as they are found, so that they stay in a cache: to write
// all scores of a tile and to read them again would take as long as the inputs do.
#pragma once

#include <cstdint>
#include <functional>

#include "cpu/kernels.h"

namespace mergesafe::cpu {

// Takes the scores of elements [begin, begin + n), by the number of the score, on one of the
// threads.
using TakeScores =
    std::function<Flags(int thread, int64_t begin, int64_t n, const float* const* scores)>;

// `function`: its number in kTileScores; where scores of the job should go is not looked at. Blocks
// are whole rows, where rows matter.
Flags run_scored(int function, const TileScoreJob& job, int64_t n, int threads,
                 const TakeScores& take);

// What a tile function (its number in kTileShapes) makes of elements and of their scores.
Flags run_scored_tile(int function, const TileJob& job, int score_function,
                      const TileScoreJob& scores, int64_t n, int threads);

}  // namespace mergesafe::cpu
