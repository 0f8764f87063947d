// Exact k-th largest |delta| without a sort and without a round trip to the host.
//
// A query is an expert of a job and a rank. A sample brackets the answer: lo, mid, hi. A round
// counts what lies above hi and sorts the members of [lo, hi] into bins that know their least and
// largest value; then the bin with the answer becomes the bracket. A bin of one value ends the
// search, as it mostly does in the first round for differences of 16-bit values, which tie; else
// every round narrows the bracket by the number of bins. A bracket that missed is left for the side
// where the answer must lie. So a fixed number of rounds suffices, and queries that are done cost
// their later rounds nothing but the launch.
#include "core/philox.h"
#include "core/select.h"
#include "cuda/launch.h"
#include "cuda/run.h"
#include "cuda/tiles.cuh"

namespace mergesafe::cuda {
namespace {

constexpr int kSampleThreads = 1024;
constexpr int kSamplesEach = 16;
constexpr int kSamples = kSampleThreads * kSamplesEach;
constexpr int kRun = 8;  // sampled neighbours
constexpr int kRuns = kSamples / kRun;
constexpr int kTogether = 4;  // queries of a block
// Standard deviations of the sampled rank on either side, as on the CPU: neighbours are alike.
constexpr double kMargin = 7.0;
constexpr uint32_t kNothing = 0xFFFFFFFFu;  // no magnitude

// The first round may do no more than rule out a side; then 31 bits at 9 bits a round.
constexpr int kRounds = 5;
static_assert(kBins == 1 << 9, "rounds are counted for nine bits each");

// --- the sample -------------------------------------------------------------------------------

__device__ __forceinline__ uint32_t magnitude_at(const Batch& batch, int j, int i, int64_t pos) {
  return magnitude_bits(load_one(batch.expert(j, i).source, pos) -
                        load_one(batch.job(j).first, pos));
}

struct SampleMemory {
  uint32_t counts[256];
  uint32_t prefix, rank;
};

// The value of the given rank (0: the largest) among the block's; kNothing does not count.
// Eight bits at a time from the top.
__device__ inline uint32_t sampled(const uint32_t (&values)[kSamplesEach], uint32_t rank,
                                   SampleMemory& memory) {
  uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) memory.counts[threadIdx.x] = 0;
    __syncthreads();
    const uint32_t upper = shift == 24 ? 0u : ~0u << (shift + 8);
#pragma unroll
    for (int s = 0; s < kSamplesEach; ++s)
      if (values[s] != kNothing && (values[s] & upper) == prefix)
        atomicAdd(&memory.counts[values[s] >> shift & 0xFFu], 1u);
    __syncthreads();
    if (threadIdx.x == 0) {
      uint32_t bin = 255, left = rank;
      while (bin > 0 && left >= memory.counts[bin]) left -= memory.counts[bin--];
      memory.prefix = prefix | bin << shift;
      memory.rank = left;
    }
    __syncthreads();
    prefix = memory.prefix;
    rank = memory.rank;
  }
  return prefix;
}

// Block (j, i): answers the query if the tensor is no larger than a sample, else brackets it.
__global__ void __launch_bounds__(kSampleThreads)
    sample_kernel(MS_PARAMETER(Batch) batch, RankState* states, uint32_t* answers) {
  __shared__ SampleMemory memory;
  const int j = static_cast<int>(blockIdx.x), i = static_cast<int>(blockIdx.y);
  const int64_t n = batch.job(j).n, k = static_cast<int64_t>(batch.expert(j, i).key);
  const int64_t query = static_cast<int64_t>(batch.before + j) * batch.count + i;
  const bool whole = n <= kSamples;
  uint32_t values[kSamplesEach];
#pragma unroll
  for (int s = 0; s < kSamplesEach; ++s) {
    const int64_t at = static_cast<int64_t>(s) * kSampleThreads + threadIdx.x;
    int64_t pos = at;
    if (!whole) {
      const int64_t run = at / kRun, stride = n / kRuns;
      uint32_t word, unused1, unused2, unused3;
      philox(static_cast<uint64_t>(run), 0, word, unused1, unused2, unused3);
      const int64_t spread = stride > kRun ? stride - kRun : 1;
      pos = run * stride + static_cast<int64_t>(word) % spread + at % kRun;
    }
    values[s] = pos < n ? magnitude_at(batch, j, i, pos) : kNothing;
  }
  if (whole) {
    const uint32_t answer = sampled(values, static_cast<uint32_t>(k - 1), memory);
    if (threadIdx.x == 0) {
      answers[query] = answer;
      states[query] = {1u, kNothing, 0u, 0u, k, 0};
    }
    return;
  }
  const double share = static_cast<double>(k) / static_cast<double>(n);
  const double rank = share * kSamples;
  const double margin = kMargin * sqrt(rank * (1.0 - share)) + 8.0;
  const int64_t high = static_cast<int64_t>(floor(rank - margin));
  const int64_t middle = rank < kSamples ? static_cast<int64_t>(rank) : kSamples - 1;
  const int64_t low = static_cast<int64_t>(floor(rank + margin));
  const uint32_t mid = sampled(values, static_cast<uint32_t>(middle), memory);
  const uint32_t hi = high < 0 ? kAbsMask : sampled(values, static_cast<uint32_t>(high), memory);
  const uint32_t lo = low >= kSamples ? 0u : sampled(values, static_cast<uint32_t>(low), memory);
  if (threadIdx.x == 0) states[query] = {lo, mid, hi, 1u, k, 0};
}

// --- a round ----------------------------------------------------------------------------------

// Right shift that puts the values of a bracket into the bins.
__device__ __forceinline__ int shift_of(uint32_t lo, uint32_t hi) {
  int shift = 0;
  while ((hi - lo) >> shift >= kBins) ++shift;
  return shift;
}

struct RoundMemory {
  uint32_t counts[kTogether][kBins], least[kTogether][kBins], largest[kTogether][kBins];
  unsigned long long above[kTogether];
};

struct Watch {
  uint32_t lo, mid, hi;
  int shift;
  bool open;
  uint32_t above, at_mid;
};

__device__ __forceinline__ void take(Watch& w, uint32_t value, RoundMemory& memory, int q) {
  w.above += value > w.hi;
  if ((value < w.lo) | (value > w.hi)) return;
  if (value == w.mid) {  // values that tie would queue for one counter
    ++w.at_mid;
    return;
  }
  const uint32_t bin = (value - w.lo) >> w.shift;
  atomicAdd(&memory.counts[q][bin], 1u);
  atomicMin(&memory.least[q][bin], value);
  atomicMax(&memory.largest[q][bin], value);
}

__device__ inline void clear(RoundMemory& memory) {
  for (int at = threadIdx.x; at < kTogether * kBins; at += kThreads) {
    memory.counts[at / kBins][at % kBins] = 0;
    memory.least[at / kBins][at % kBins] = kNothing;
    memory.largest[at / kBins][at % kBins] = 0;
  }
  if (threadIdx.x < kTogether) memory.above[threadIdx.x] = 0;
}

// Adds the block's counts of query q to those of the device.
__device__ inline void flush(RoundMemory& memory, int q, RankState& state, RankBins& bins) {
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) {
    if (memory.counts[q][bin] == 0) continue;
    atomicAdd(&bins.counts[bin], static_cast<unsigned long long>(memory.counts[q][bin]));
    atomicMin(&bins.least[bin], memory.least[q][bin]);
    atomicMax(&bins.largest[bin], memory.largest[q][bin]);
  }
  if (threadIdx.x == 0 && memory.above[q] != 0) atomicAdd(&state.above, memory.above[q]);
}

// The tiles [from, to) of job j for queries first to first + kTogether - 1.
__device__ inline void scan(const Batch& batch, int j, int first, uint32_t from, uint32_t to,
                            RoundMemory& memory, RankState* states, RankBins* bins) {
  const Job& job = batch.job(j);
  const int64_t row = static_cast<int64_t>(batch.before + j) * batch.count + first;
  Watch watch[kTogether];
  bool any = false;
#pragma unroll
  for (int q = 0; q < kTogether; ++q) {
    Watch& w = watch[q];
    w = {1u, kNothing, 0u, 0, false, 0u, 0u};
    if (first + q >= batch.count || states[row + q].open == 0) continue;
    const RankState& s = states[row + q];
    w = {s.lo, s.mid, s.hi, shift_of(s.lo, s.hi), true, 0u, 0u};
    any = true;
  }
  if (!any) return;
  clear(memory);
  __syncthreads();
  for (uint32_t tile = from; tile < to; ++tile) {
    const int64_t start = static_cast<int64_t>(tile - batch.start(j)) * kTile;
#pragma unroll 1
    for (int v = 0; v < kVectors; ++v) {
      const int64_t pos = start + place(v);
      if (job.vectors && pos + kVector <= job.n) {
        Raw raw[kTogether];
        const Raw raw_base = fetch(job.first, pos);
#pragma unroll
        for (int q = 0; q < kTogether; ++q)
          if (watch[q].open) raw[q] = fetch(batch.expert(j, first + q).source, pos);
        float b[kVector], x[kVector];
        expand(raw_base, job.first, b);
#pragma unroll
        for (int q = 0; q < kTogether; ++q) {
          if (!watch[q].open) continue;
          expand(raw[q], batch.expert(j, first + q).source, x);
#pragma unroll
          for (int k = 0; k < kVector; ++k) take(watch[q], magnitude_bits(x[k] - b[k]), memory, q);
        }
      } else {
        for (int64_t p = pos; p < pos + kVector && p < job.n; ++p)
#pragma unroll
          for (int q = 0; q < kTogether; ++q)
            if (watch[q].open) take(watch[q], magnitude_at(batch, j, first + q, p), memory, q);
      }
    }
  }
  // One thread of a warp for all: many at one counter would queue.
  const bool leads = threadIdx.x % 32 == 0;
#pragma unroll
  for (int q = 0; q < kTogether; ++q) {
    const Watch& w = watch[q];
    if (!w.open) continue;
    const uint32_t above = __reduce_add_sync(0xFFFFFFFFu, w.above);
    const uint32_t at_mid = __reduce_add_sync(0xFFFFFFFFu, w.at_mid);
    if (leads && above != 0) atomicAdd(&memory.above[q], static_cast<unsigned long long>(above));
    if (!leads || at_mid == 0) continue;
    const uint32_t bin = (w.mid - w.lo) >> w.shift;
    atomicAdd(&memory.counts[q][bin], at_mid);
    atomicMin(&memory.least[q][bin], w.mid);
    atomicMax(&memory.largest[q][bin], w.mid);
  }
  __syncthreads();
#pragma unroll
  for (int q = 0; q < kTogether; ++q)
    if (watch[q].open) flush(memory, q, states[row + q], bins[row + q]);
  __syncthreads();
}

// Every block takes a contiguous share of the tiles, so that it flushes seldom.
__global__ void __launch_bounds__(kThreads)
    round_kernel(MS_PARAMETER(Batch) batch, RankState* states, RankBins* bins) {
  __shared__ RoundMemory memory;
  const uint64_t tiles = batch.tiles;
  const uint32_t begin = static_cast<uint32_t>(tiles * blockIdx.x / gridDim.x);
  const uint32_t end = static_cast<uint32_t>(tiles * (blockIdx.x + 1) / gridDim.x);
  for (uint32_t from = begin; from < end;) {
    const int j = batch.find(from);
    const uint32_t to = batch.ends()[j] < end ? batch.ends()[j] : end;
    scan(batch, j, static_cast<int>(blockIdx.y) * kTogether, from, to, memory, states, bins);
    from = to;
  }
}

// Block (j, i): the bracket of the next round, or the answer; clears the bins.
__global__ void __launch_bounds__(kBins)
    resolve_kernel(MS_PARAMETER(Batch) batch, RankState* states, RankBins* all_bins,
                   uint32_t* answers) {
  __shared__ unsigned long long sums[kBins + 1];
  const int64_t query =
      static_cast<int64_t>(batch.before + static_cast<int>(blockIdx.x)) * batch.count + blockIdx.y;
  RankState& state = states[query];
  RankBins& bins = all_bins[query];
  if (state.open == 0) return;
  const int bin = static_cast<int>(threadIdx.x);
  const unsigned long long above = state.above;
  const unsigned long long k = static_cast<unsigned long long>(state.k);
  const uint32_t lo = state.lo, hi = state.hi;
  const uint32_t least = bins.least[bin], largest = bins.largest[bin];
  const unsigned long long count = bins.counts[bin];
  sums[bin] = count;
  if (bin == 0) sums[kBins] = 0;
  bins.counts[bin] = 0;
  bins.least[bin] = kNothing;
  bins.largest[bin] = 0;
  __syncthreads();
  for (int step = 1; step < kBins; step *= 2) {  // sums[bin] = members of this bin and above
    const unsigned long long more = bin + step < kBins ? sums[bin + step] : 0;
    __syncthreads();
    sums[bin] += more;
    __syncthreads();
  }
  if (above >= k) {  // beyond the bracket's upper end
    if (bin == 0) state = {hi + 1u, kNothing, kNaNMagnitude, 1u, state.k, 0};
  } else if (above + sums[0] < k) {  // below its lower end
    if (bin == 0) state = {0u, kNothing, lo - 1u, 1u, state.k, 0};
  } else if (above + sums[bin] >= k && above + sums[bin + 1] < k) {
    if (least == largest) {
      answers[query] = least;
      state.open = 0;
    } else {
      state = {least, kNothing, largest, 1u, state.k, 0};
    }
  }
}

__global__ void __launch_bounds__(kBins) empty_bins_kernel(RankBins* bins) {
  RankBins& mine = bins[blockIdx.x];
  mine.counts[threadIdx.x] = 0;
  mine.least[threadIdx.x] = kNothing;
  mine.largest[threadIdx.x] = 0;
}

}  // namespace

void rank_batch(const Batch& batch, RankState* states, RankBins* bins, uint32_t* answers,
                Stream stream) {
  const int queries = batch.jobs * batch.count;
  MS_LAUNCH(empty_bins_kernel, queries, kBins, stream.handle,
            bins + static_cast<int64_t>(batch.before) * batch.count);
  MS_LAUNCH(sample_kernel, dim3(batch.jobs, batch.count), kSampleThreads, stream.handle, batch,
            states, answers);
  bool large = false;
  for (int j = 0; j < batch.jobs; ++j) large = large || batch.job(j).n > kSamples;
  if (!large) return;
  const dim3 scan(grid_for(batch.tiles), (batch.count + kTogether - 1) / kTogether);
  for (int round = 0; round < kRounds; ++round) {
    MS_LAUNCH(round_kernel, scan, kThreads, stream.handle, batch, states, bins);
    MS_LAUNCH(resolve_kernel, dim3(batch.jobs, batch.count), kBins, stream.handle, batch, states,
              bins, answers);
  }
}

}  // namespace mergesafe::cuda
