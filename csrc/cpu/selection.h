// Exact selection of the k-th largest |delta| of a tensor that comes in pieces; see core/select.h
// for the idea. A tensor in memory is one piece.
#pragma once

#include <cstdint>
#include <vector>

#include "core/select.h"
#include "cpu/kernels.h"

namespace mergesafe::cpu {

// Kernels write whole registers beyond what they collect.
constexpr int64_t kSlack = 64;

class Selection {
 public:
  // For each query, in ascending order of expert, the k-th largest of n elements. `storage` holds
  // `size` values and outlives this; every query has an equal share of it, first for its sample and
  // then for what it collects. `sample` elements will be sampled, 2 * sample + kSlack per query
  // must fit.
  Selection(int64_t n, std::vector<RankQuery> queries, int64_t sample, uint32_t* storage,
            int64_t size, int threads);

  // Adds a run of neighbours, elements [begin, begin + count) of the job, to the sample. Callers
  // scatter runs over the tensor. Neighbours are alike: how much runs differ from each other says
  // how far the sample can be wrong.
  void sample(const DeltaJob& job, int64_t begin, int64_t count);
  // Counts and collects the next `count` elements; the sample is complete.
  Flags add(const DeltaJob& job, int64_t count);
  // The same of scores that a function (its number in kTileScores) finds of the next elements.
  Flags add_scored(int function, const TileScoreJob& scores, int64_t count);
  // As add(), by one of several threads that add at a time, each with a number of its own below
  // `threads`; after least().
  Flags add_alone(const DeltaJob& job, int64_t count, int thread);
  // The sample is complete. For each query the least value that can be its answer, if the sample
  // does not mislead: smaller ones are not looked at, and may be given as any other of them.
  std::vector<uint32_t> least();
  // The answers; returns the queries that have none, because the sample misled or the storage did
  // not suffice.
  std::vector<int> finish(uint32_t* answers);

 private:
  uint32_t* share_of(int query) const { return storage_ + query * share_; }
  void set_brackets();
  std::vector<int> emptiest_rooms() const;
  // Counts and collects elements [begin, end) of the job in one thread's room.
  Flags bracketed(const DeltaJob& job, int64_t begin, int64_t end, int room);

  int64_t n_;
  std::vector<RankQuery> queries_;
  int64_t wanted_;
  uint32_t* storage_;
  int64_t share_;
  int threads_;
  std::vector<int64_t> run_ends_;
  bool ready_ = false;
  std::vector<Bracket> brackets_;
  std::vector<BracketCounts> counts_;  // [thread][query]
  std::vector<Collected> collected_;
};

}  // namespace mergesafe::cpu
