// Scores of elements by the variance of the task vectors, and what is made of the selected ones:
// see core/score.h. Once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/reduce.h"
#include "core/score.h"
#include "core/select.h"
#include "cpu/kernels.h"
#include "cpu/lanes.inl"
#include "cpu/load.inl"
#include "cpu/select.inl"

namespace mergesafe::cpu::MS_ISA {
namespace {

// Task vectors lie kChunk apart.
template <int N>
void score_rows(const float* deltas, int count, int n, float* __restrict__ out) {
  for (int j = 0; j < n; ++j)
    out[j] = score_of(N > 0 ? N : count, [&](int i) { return deltas[i * kChunk + j]; });
}

inline void scores_of(const float* deltas, int count, int n, float* out) {
  switch (count) {
    case 1: return score_rows<1>(deltas, count, n, out);
    case 2: return score_rows<2>(deltas, count, n, out);
    case 3: return score_rows<3>(deltas, count, n, out);
    case 4: return score_rows<4>(deltas, count, n, out);
    default: return score_rows<0>(deltas, count, n, out);
  }
}

// One chunk of a job in scratch.
struct ScoredChunk {
  float *base, *out, *room;
  float* deltas;
  const float* score;

  static int64_t floats(int count) { return (count + int64_t{3}) * kChunk; }
  explicit ScoredChunk(float* scratch)
      : base(scratch), out(base + kChunk), room(out + kChunk), deltas(room + kChunk), score(room) {}

  // Loads n task vectors, without scores.
  Flags load_deltas(const ScoreJob& job, int64_t pos, int n) {
    Flags flags = flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    for (int i = 0; i < job.count; ++i) {
      float* d = deltas + i * kChunk;
      flags |= flag(i + 1, load(job.experts[i], pos, n, job.zero_nonfinite, d));
      for (int j = 0; j < n; ++j) d[j] = d[j] - base[j];
    }
    return flags;
  }

  // Finds the scores of what has been loaded, or where they are. What selects all asks for none.
  void find_scores(const ScoreJob& job, int64_t pos, int n, bool select) {
    score = job.scores != nullptr ? job.scores + pos : room;
    if (select && job.lo == 0) {
      score = room;
      for (int j = 0; j < n; ++j) room[j] = 0.0f;  // scalar loop: memset
    } else if (!job.known) {
      scores_of(deltas, job.count, n, job.scores != nullptr ? job.scores + pos : room);
    }
  }
};

Flags score_histogram(const ScoreJob& job, int64_t prefix, int64_t begin, int64_t end,
                      int64_t* counts, int64_t* nonzero) {
  ScoredChunk chunk(thread_scratch(ScoredChunk::floats(job.count)));
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    if (!job.known) flags |= chunk.load_deltas(job, pos, n);
    chunk.find_scores(job, pos, n, false);
    const float* score = chunk.score;
    int32_t zeros = 0;
    for (int j = 0; j < n; ++j) zeros += magnitude_bits(score[j]) == 0;
    *nonzero += n - zeros;
    uint32_t* bits = reinterpret_cast<uint32_t*>(chunk.out);
    for (int j = 0; j < n; ++j) bits[j] = magnitude_bits(score[j]);
    if (prefix >= 0)
      count_low(bits, n, static_cast<uint32_t>(prefix), counts);
    else
      count_high(bits, n, counts);
  }
  return flags;
}

Flags score_norms(const ScoreJob& job, int64_t begin, int64_t end, double* sums) {
  const int64_t floats = ScoredChunk::floats(job.count);
  float* scratch = thread_scratch(floats + 2 * kReduceLanes * int64_t{job.count});
  ScoredChunk chunk(scratch);
  double* lanes = reinterpret_cast<double*>(scratch + floats);  // of each expert
  Flags flags = 0;
  for (int64_t first = begin; first < end; first += kReduceBlock) {
    const int64_t stop = end - first < kReduceBlock ? end : first + kReduceBlock;
    std::memset(lanes, 0, job.count * kReduceLanes * sizeof(double));
    for (int64_t pos = first; pos < stop; pos += kChunk) {
      const int n = static_cast<int>(stop - pos < kChunk ? stop - pos : kChunk);
      flags |= chunk.load_deltas(job, pos, n);
      chunk.find_scores(job, pos, n, true);
      const float* score = chunk.score;
      const uint32_t lo = job.lo;
      for (int i = 0; i < job.count; ++i) {
        float* d = chunk.deltas + i * kChunk;
        for (int j = 0; j < n; ++j) d[j] = pick(selected(score[j], lo), d[j]);
        add_products(d, d, n, lanes + i * kReduceLanes);
      }
    }
    double* block = sums + (first - begin) / kReduceBlock * job.count;
    for (int i = 0; i < job.count; ++i) block[i] = add_lanes(lanes + i * kReduceLanes);
  }
  return flags;
}

template <int N>
void merge_rows(const ScoreJob& job, const float* base, const float* score, const float* deltas,
                int n, float* __restrict__ out) {
  float weights[N > 0 ? N : 1];
  for (int i = 0; i < N; ++i) weights[i] = job.weights[i];
  for (int j = 0; j < n; ++j)
    out[j] = merge_selected(base[j], selected(score[j], job.lo), N > 0 ? N : job.count,
                            N > 0 ? weights : job.weights,
                            [&](int i) { return deltas[i * kChunk + j]; });
}

Flags merge_scored(const ScoreJob& job, int64_t begin, int64_t end) {
  ScoredChunk chunk(thread_scratch(ScoredChunk::floats(job.count)));
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    flags |= chunk.load_deltas(job, pos, n);
    chunk.find_scores(job, pos, n, true);
    const auto& [base, out, room, deltas, score] = chunk;
    switch (job.count) {
      case 1: merge_rows<1>(job, base, score, deltas, n, out); break;
      case 2: merge_rows<2>(job, base, score, deltas, n, out); break;
      case 3: merge_rows<3>(job, base, score, deltas, n, out); break;
      case 4: merge_rows<4>(job, base, score, deltas, n, out); break;
      default: merge_rows<0>(job, base, score, deltas, n, out);
    }
    if (store(out, n, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}

}  // namespace
}  // namespace mergesafe::cpu::MS_ISA
