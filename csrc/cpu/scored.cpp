#include "cpu/scored.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/selection.h"

namespace mergesafe::cpu {
namespace {

// Elements of a block, or one row that is longer: scores of a few experts fit a second-level cache.
constexpr int64_t kBlock = 8192;
constexpr int64_t kLineFloats = 16;  // of a cache line

Input after(Input input, int64_t count) {
  const int64_t size = input.dtype == DType::kF32 ? 4 : 2;
  input.data = static_cast<const char*>(input.data) + count * size;
  return input;
}

Output after(Output output, int64_t count) {
  const int64_t size = output.dtype == DType::kF32 ? 4 : 2;
  output.data = static_cast<char*>(output.data) + count * size;
  return output;
}

std::vector<Input> after(const Input* inputs, int count, int64_t elements) {
  std::vector<Input> moved;
  for (int i = 0; i < count; ++i) moved.push_back(after(inputs[i], elements));
  return moved;
}

// The room of one thread for the scores of a block, each on cache lines of its own.
class Room {
 public:
  Room(int scores, int64_t block)
      : each_((block + kLineFloats - 1) / kLineFloats * kLineFloats),
        memory_(new float[scores * each_ + kLineFloats]) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    const uintptr_t line = kLineFloats * sizeof(float);
    first_ = memory_.get() + (line - address % line) % line / sizeof(float);
  }
  float* of(int score) const { return first_ + score * each_; }

 private:
  int64_t each_;
  std::unique_ptr<float[]> memory_;
  float* first_;
};

}  // namespace

Flags run_scored(int function, const TileScoreJob& job, int64_t n, int threads,
                 const TakeScores& take) {
  const auto find = current().tiles.scores[function];
  const int64_t unit = kTileScores[function].rows ? job.columns : 1, units = n / unit;
  const int64_t block = std::max<int64_t>(1, kBlock / unit) * unit;
  const int used =
      static_cast<int>(std::clamp<int64_t>(units, 1, std::max(1, threads_for(n, threads))));
  std::vector<Flags> flags(used, 0);
  const auto cut = [&](int64_t t) { return (units / used * t + units % used * t / used) * unit; };
  parallel_for(used * kReduceBlock, used, [&](int t, int64_t, int64_t) {
    const Room room(job.score_count, std::min(block, n));
    std::vector<TileScore> scores(job.scores, job.scores + job.score_count);
    std::vector<const float*> found;
    for (int s = 0; s < job.score_count; ++s) found.push_back(scores[s].out = room.of(s));
    const int64_t end = cut(t + 1);
    for (int64_t pos = cut(t); pos < end; pos += block) {
      const int64_t count = std::min(block, end - pos);
      const std::vector<Input> inputs = after(job.inputs, job.count, pos);
      TileScoreJob part = job;
      part.base = after(job.base, pos);
      part.inputs = inputs.data();
      part.scores = scores.data();
      if (job.rows != nullptr) part.rows = job.rows + pos / unit;
      flags[t] |= find(part, 0, count);
      flags[t] |= take(t, pos, count, found.data());
    }
  });
  Flags all = 0;
  for (Flags each : flags) all |= each;
  return all;
}

Flags run_scored_tile(int function, const TileJob& job, int score_function,
                      const TileScoreJob& scores, int64_t n, int threads) {
  const auto make = current().tiles.functions[function];
  const auto take = [&](int, int64_t begin, int64_t count, const float* const* found) {
    const std::vector<Input> inputs = after(job.inputs, job.count, begin);
    TileJob part = job;
    part.base = after(job.base, begin);
    part.inputs = inputs.data();
    part.scores = found;
    part.out = after(job.out, begin);
    return make(part, 0, count);
  };
  return run_scored(score_function, scores, n, threads, take);
}

Flags Selection::add_scored(int function, const TileScoreJob& scores, int64_t count) {
  if (!ready_) set_brackets();
  const std::vector<int> rooms = emptiest_rooms();
  const auto take = [&](int t, int64_t, int64_t n, const float* const* found) {
    std::vector<Input> inputs;
    for (int s = 0; s < scores.score_count; ++s)
      inputs.push_back({found[s], DType::kF32, DType::kF32});
    const DeltaJob job{{nullptr, DType::kF32, DType::kF32},
                       inputs.data(),
                       scores.score_count,
                       scores.zero_nonfinite};
    return bracketed(job, 0, n, rooms[t]);
  };
  return run_scored(function, scores, count, threads_, take);
}

}  // namespace mergesafe::cpu
