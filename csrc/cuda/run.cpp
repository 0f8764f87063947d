#include "cuda/run.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "checks.h"
#include "core/philox.h"
#include "core/reduce.h"
#include "core/select.h"
#include "cuda/launch.h"

namespace mergesafe::cuda {
namespace {

constexpr int64_t kTiles = INT32_MAX;  // at most, of a batch
static_assert(JobList::kMostElements / kReduceBlock < kTiles, "one job must fit a batch");

Source source_of(uint64_t address, int dtype) {
  const auto code = static_cast<uint8_t>(dtype);
  return {reinterpret_cast<const void*>(address), code, code};
}

bool on_16_bytes(uint64_t address) { return address % 16 == 0; }

int64_t tiles_of(int64_t n, int64_t tile) { return (n + tile - 1) / tile; }

Expert expert_of(const JobList& list, size_t at) {
  Expert expert{};
  expert.source = source_of(list.inputs[at], list.dtypes[at]);
  expert.rescale = 1.0f;
  expert.kept = window(0, kAbsMask);
  if (!list.key.empty()) expert.key = list.key[at];
  if (list.lo.empty()) return expert;
  expert.rescale = list.rescale[at];
  expert.threshold = list.threshold[at];
  expert.kept = list.random[at] ? Window{0, kByWord} : window(list.lo[at], list.hi[at]);
  return expert;
}

// The jobs from `begin` on, as many as fit; `begin` moves behind them.
struct Packed {
  std::unique_ptr<Batch> batch = std::make_unique<Batch>();
  Kind kind{false, true};
};

bool is_plain(const Source& s) {
  constexpr auto code = static_cast<uint8_t>(DType::kBF16);
  return s.dtype == code && s.cast == code;
}

Packed pack(const JobList& list, int tile, int& begin) {
  Packed packed;
  Batch& batch = *packed.batch;
  const int most = std::min(list.jobs() - begin, Batch::capacity(list.count));
  std::vector<uint32_t> ends;
  std::vector<Job> jobs;
  std::vector<Expert> experts;
  int64_t tiles = 0;
  for (int j = begin; j < begin + most; ++j) {
    const int64_t more = tiles_of(list.n[j], tile);
    if (j > begin && tiles + more > kTiles) break;
    tiles += more;
    ends.push_back(static_cast<uint32_t>(tiles));
    Job job{};
    job.first = source_of(list.first[j], list.first_dtype[j]);
    job.out = reinterpret_cast<void*>(list.out[j]);
    job.out_dtype = static_cast<uint8_t>(list.out_dtype[j]);
    job.n = list.n[j];
    job.offset = list.offset[j];
    job.vectors = on_16_bytes(list.first[j]) && on_16_bytes(list.out[j]);
    for (int i = 0; i < list.count; ++i) {
      const size_t at = static_cast<size_t>(j) * list.count + i;
      experts.push_back(expert_of(list, at));
      job.vectors = job.vectors && on_16_bytes(list.inputs[at]);
      job.random = job.random || experts.back().kept.hi == kByWord;
      packed.kind.plain = packed.kind.plain && is_plain(experts.back().source);
    }
    job.vectors = job.vectors && (!job.random || job.offset % kPhiloxGroup == 0);
    packed.kind.random = packed.kind.random || job.random;
    packed.kind.plain = packed.kind.plain && is_plain(job.first) &&
                        is_plain({nullptr, job.out_dtype, job.out_dtype});
    jobs.push_back(job);
  }
  batch.jobs = static_cast<int32_t>(jobs.size());
  batch.count = list.count;
  batch.before = begin;
  batch.tiles = static_cast<uint32_t>(tiles);
  batch.experts_at = static_cast<int32_t>(sizeof(Job) * jobs.size());
  unsigned char* to = batch.bytes;
  std::memcpy(to, jobs.data(), sizeof(Job) * jobs.size());
  std::memcpy(to + batch.experts_at, experts.data(), sizeof(Expert) * experts.size());
  std::memcpy(to + batch.experts_at + sizeof(Expert) * experts.size(), ends.data(),
              sizeof(uint32_t) * ends.size());
  begin += batch.jobs;
  return packed;
}

// body(packed) for all jobs of a list, in batches, on the stream's device.
template <class Body>
void over_batches(const JobList& list, int tile, Stream stream, Body&& body) {
  list.validate();
  OnDevice device(stream.device);
  for (int begin = 0; begin < list.jobs();) {
    const Packed packed = pack(list, tile, begin);
    body(packed);
  }
}

int64_t most_blocks(const JobList& list) {
  int64_t blocks = 0;
  for (int64_t n : list.n) blocks += tiles_of(n, kReduceBlock);
  return blocks;
}

}  // namespace

void JobList::validate() const {
  const auto expect = [](const char* list, size_t given, size_t wanted) {
    if (given != wanted)
      throw std::invalid_argument("the jobs' list '" + std::string(list) + "' has " +
                                  std::to_string(given) + " values; expected " +
                                  std::to_string(wanted));
  };
  if (count < 1 || count > kMaxExperts)
    throw std::invalid_argument("jobs have " + std::to_string(count) + " experts; expected 1 to " +
                                std::to_string(kMaxExperts));
  const size_t jobs = n.size(), all = jobs * static_cast<size_t>(count);
  expect("first", first.size(), jobs), expect("first_dtype", first_dtype.size(), jobs);
  expect("out", out.size(), jobs), expect("out_dtype", out_dtype.size(), jobs);
  expect("offset", offset.size(), jobs);
  expect("inputs", inputs.size(), all), expect("dtypes", dtypes.size(), all);
  // What survives is said of every expert or of none; keys are also the ranks that are asked for.
  const size_t masks = lo.empty() ? 0 : all;
  expect("lo", lo.size(), masks), expect("hi", hi.size(), masks);
  expect("threshold", threshold.size(), masks), expect("rescale", rescale.size(), masks);
  expect("random", random.size(), masks);
  expect("key", key.size(), lo.empty() && key.empty() ? 0 : all);
}

void JobList::check_arrays() const {
  int64_t elements = 0;
  for (size_t j = 0, at = 0; j < n.size(); ++j) {
    if (n[j] < 0 || n[j] > kMostElements - elements)
      throw std::invalid_argument("a job has " + std::to_string(n[j]) +
                                  " elements; expected 0 or more, and at most " +
                                  std::to_string(kMostElements) + " in all jobs");
    elements += n[j];
    offset_of(offset[j], n[j]);
    expect_memory("the first array of a job", first[j], n[j], size_of(dtype_of(first_dtype[j])));
    expect_memory("the output of a job", out[j], n[j], size_of(dtype_of(out_dtype[j])));
    for (int i = 0; i < count; ++i, ++at)
      expect_memory("an input of a job", inputs[at], n[j], size_of(dtype_of(dtypes[at])));
  }
}

void run_sums(const JobList& jobs, const float* weights, Stream stream) {
  over_batches(jobs, kTile, stream, [&](const Packed& packed) {
    if (packed.batch->tiles > 0) sum_batch(*packed.batch, weights, stream);
  });
}

void run_merges(const JobList& jobs, const MergeCall& call, Stream stream) {
  over_batches(jobs, kTile, stream, [&](const Packed& packed) {
    const Batch& batch = *packed.batch;
    if (batch.tiles == 0) return;
    if (batch.count > 4 || call.elect == Elect::kCount)
      merge_any(batch, call, stream);
    else if (call.elect == Elect::kSum)
      merge_sum(batch, call, packed.kind, stream);
    else
      merge_none(batch, call, packed.kind, stream);
  });
}

void run_fused(int kernel, const JobList& jobs, const float* coefficients, Stream stream) {
  over_batches(jobs, kTile, stream, [&](const Packed& packed) {
    if (packed.batch->tiles > 0) fused_batch(kernel, *packed.batch, coefficients, stream);
  });
}

int64_t reduction_workspace(const JobList& jobs, int sums) { return 2 * most_blocks(jobs) * sums; }

void run_inner_products(const JobList& jobs, double* workspace, double* totals, Stream stream) {
  double* const scratch = workspace + most_blocks(jobs) * jobs.count;
  over_batches(jobs, kReduceBlock, stream, [&](const Packed& packed) {
    const Batch& batch = *packed.batch;
    if (batch.tiles > 0) dots_batch(batch, false, workspace, stream);
    tree_totals(batch, batch.count, workspace, scratch, totals, stream);
  });
}

void run_merge_gradients(const JobList& jobs, const MergeCall& call, double* workspace,
                         double* totals, Stream stream) {
  double* const scratch = workspace + most_blocks(jobs) * (jobs.count + 1);
  over_batches(jobs, kReduceBlock, stream, [&](const Packed& packed) {
    const Batch& batch = *packed.batch;
    if (batch.tiles > 0)
      gradient_batch(batch, call.weights, call.elect, call.normalize, workspace, stream);
    tree_totals(batch, batch.count + 1, workspace, scratch, totals, stream);
  });
}

void run_gram(const JobList& jobs, double* workspace, double* totals, Stream stream) {
  over_batches(jobs, kReduceBlock, stream, [&](const Packed& packed) {
    const Batch& batch = *packed.batch;
    if (batch.tiles == 0) return;
    dots_batch(batch, true, workspace, stream);
    serial_totals(batch, batch.count * batch.count, batch.count, false, workspace, totals, stream);
  });
}

void run_norms(const JobList& jobs, Norm norm, double* workspace, double* totals, Stream stream) {
  over_batches(jobs, kReduceBlock, stream, [&](const Packed& packed) {
    const Batch& batch = *packed.batch;
    if (batch.tiles == 0) return;
    norms_batch(batch, norm, workspace, stream);
    serial_totals(batch, 2 * batch.count, 0, norm == Norm::kLinf, workspace, totals, stream);
  });
}

int64_t rank_workspace(const JobList& jobs) {
  return static_cast<int64_t>(sizeof(RankState) + sizeof(RankBins)) * jobs.jobs() * jobs.count;
}

void run_ranks(const JobList& jobs, void* workspace, uint32_t* answers, Stream stream) {
  RankBins* const bins = static_cast<RankBins*>(workspace);
  RankState* const states =
      reinterpret_cast<RankState*>(bins + static_cast<int64_t>(jobs.jobs()) * jobs.count);
  over_batches(jobs, kTile, stream, [&](const Packed& packed) {
    rank_batch(*packed.batch, states, bins, answers, stream);
  });
}

void run_histogram(const JobList& jobs, const int64_t* prefixes, unsigned long long* counts,
                   Stream stream) {
  over_batches(jobs, kTile, stream, [&](const Packed& packed) {
    if (packed.batch->tiles > 0) histogram_batch(*packed.batch, prefixes, counts, stream);
  });
}

void run_changes(const JobList& jobs, float epsilon, unsigned long long* counts, Stream stream) {
  over_batches(jobs, kTile, stream, [&](const Packed& packed) {
    if (packed.batch->tiles > 0) changes_batch(*packed.batch, epsilon, counts, stream);
  });
}

}  // namespace mergesafe::cuda
