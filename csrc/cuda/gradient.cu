// The backward pass of merge_task_vectors: one pass over the gradient and the inputs.
#include "core/gradient.h"
#include "cuda/blocks.cuh"
#include "cuda/merge.cuh"

namespace mergesafe::cuda {
namespace {

// Bit 4 r + c: is element c of row r of this thread's step kept? `first` is the index, within its
// tensor, of the step's first element; a multiple of 64 where vectors fit.
__device__ __forceinline__ uint32_t step_bits(const Expert& e, uint64_t first, int member,
                                              bool vectors) {
  if (e.kept.hi != kByWord) return 0;
  uint32_t bits = 0;
#pragma unroll 1
  for (int c = 0; c < kEach; ++c) {
    if (vectors) {
      uint32_t w[4];
      philox(first / kPhiloxGroup * kPhiloxLanes + member * kEach + c, e.key, w[0], w[1], w[2],
             w[3]);
#pragma unroll
      for (int r = 0; r < 4; ++r)
        bits |= static_cast<uint32_t>(w[r] < e.threshold) << (kEach * r + c);
    } else {
#pragma unroll 1
      for (int r = 0; r < 4; ++r) {
        const uint64_t element = first + r * kReduceLanes + member * kEach + c;
        bits |= static_cast<uint32_t>(word_of(e.key, element) < e.threshold) << (kEach * r + c);
      }
    }
  }
  return bits;
}

template <int N, Elect kElect, bool kNormalize>
struct Sums {
  // The last belongs to the scale, and is only made where it does not follow from the others.
  static constexpr int kCount = N + (kElect != Elect::kNone && kNormalize);
  double lanes[kCount][kEach] = {};

  __device__ __forceinline__ void add(const GradientChain<N, kElect, kNormalize>& chain, int c,
                                      float g, float b, const float (&x)[N],
                                      const bool (&keep)[N]) {
    float terms[N];
    const Shares s = chain(g, b, x, keep, terms);
#pragma unroll
    for (int i = 0; i < N; ++i)
      lanes[i][c] = lanes[i][c] + static_cast<double>(s.share) * static_cast<double>(terms[i]);
    if (kCount > N)
      lanes[kCount - 1][c] =
          lanes[kCount - 1][c] + static_cast<double>(g) * static_cast<double>(s.mean);
  }
};

// Four blocks a processor: enough loads in flight.
template <int N, Elect kElect, bool kNormalize>
__global__ void __launch_bounds__(kReduceThreads, 4)
    gradient_kernel(MS_PARAMETER(Batch) batch, const float* weights, double* partials) {
  const Team team(batch);
  const Job& job = batch.job(team.j);
  const Source given{job.out, job.out_dtype, job.out_dtype};
  GradientChain<N, kElect, kNormalize> chain;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    chain.rescale[i] = batch.expert(team.j, i).rescale;
    chain.weights[i] = weights[static_cast<int64_t>(batch.before + team.j) * N + i];
  }
  Sums<N, kElect, kNormalize> sums;
  uint32_t words[N];
#pragma unroll 1
  for (int64_t at = team.begin; at < team.end; at += kRows * kReduceLanes) {
    const int64_t pos = at + team.member * kEach;
    const bool whole = job.vectors && at + kRows * kReduceLanes <= team.end;
    Rows g, b, x[N];
    if (whole) {
      g.fetch(given, pos);
      b.fetch(job.first, pos);
#pragma unroll
      for (int i = 0; i < N; ++i) x[i].fetch(batch.expert(team.j, i).source, pos);
    } else {
      g.fetch_partly(given, pos, team.end);
      b.fetch_partly(job.first, pos, team.end);
#pragma unroll
      for (int i = 0; i < N; ++i) x[i].fetch_partly(batch.expert(team.j, i).source, pos, team.end);
    }
    const bool begins = (at - team.begin) % kStep == 0;
#pragma unroll
    for (int i = 0; i < N; ++i)
      words[i] = begins
                     ? step_bits(batch.expert(team.j, i), job.offset + at, team.member, job.vectors)
                     : words[i] >> (kEach * kRows);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float gs[kEach], bs[kEach], xs[N][kEach];
      g.expand(r, given, whole, gs);
      b.expand(r, job.first, whole, bs);
#pragma unroll
      for (int i = 0; i < N; ++i) x[i].expand(r, batch.expert(team.j, i).source, whole, xs[i]);
#pragma unroll
      for (int c = 0; c < kEach; ++c) {
        float row[N];
        bool keep[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
          row[i] = xs[i][c];
          keep[i] = keeps_bit(batch.expert(team.j, i), row[i] - bs[c], words[i] >> (kEach * r + c));
        }
        sums.add(chain, c, gs[c], bs[c], row, keep);
      }
    }
  }
#pragma unroll
  for (int i = 0; i <= N; ++i) {
    const double sum = i < sums.kCount ? add_team(sums.lanes[i < sums.kCount ? i : 0]) : 0.0;
    if (team.busy && team.member == 0)
      partials[static_cast<int64_t>(i) * batch.tiles + team.block] = sum;
  }
}

template <int N, Elect kElect>
void launch(const Batch& batch, const float* weights, bool normalize, double* partials,
            Stream stream) {
  const int grid = static_cast<int>((batch.tiles + kBlocksPerLaunch - 1) / kBlocksPerLaunch);
  if (normalize && kElect != Elect::kNone)
    MS_LAUNCH((gradient_kernel<N, kElect, kElect != Elect::kNone>), grid, kReduceThreads,
              stream.handle, batch, weights, partials);
  else
    MS_LAUNCH((gradient_kernel<N, kElect, false>), grid, kReduceThreads, stream.handle, batch,
              weights, partials);
}

template <int N>
void launch(const Batch& batch, const float* weights, Elect elect, bool normalize, double* partials,
            Stream stream) {
  if (elect == Elect::kSum)
    launch<N, Elect::kSum>(batch, weights, normalize, partials, stream);
  else
    launch<N, Elect::kNone>(batch, weights, normalize, partials, stream);
}

}  // namespace

void gradient_batch(const Batch& batch, const float* weights, Elect elect, bool normalize,
                    double* partials, Stream stream) {
  if (elect == Elect::kCount)
    return gradient_any(batch, weights, elect, normalize, partials, stream);
  switch (batch.count) {
    case 1: return launch<1>(batch, weights, elect, normalize, partials, stream);
    case 2: return launch<2>(batch, weights, elect, normalize, partials, stream);
    case 3: return launch<3>(batch, weights, elect, normalize, partials, stream);
    case 4: return launch<4>(batch, weights, elect, normalize, partials, stream);
    default: return gradient_any(batch, weights, elect, normalize, partials, stream);
  }
}

}  // namespace mergesafe::cuda
