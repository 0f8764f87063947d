// Exact selection of the k-th largest |delta|: sample, bracket, one pass, resolve; see
// core/select.h for the idea.
#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>

#include "core/philox.h"
#include "cpu/parallel.h"
#include "cpu/run.h"
#include "cpu/selection.h"

namespace mergesafe::cpu {
namespace {

// Up to this many elements the magnitudes are simply kept and partitioned.
constexpr int64_t kSmall = 1 << 16;
constexpr int64_t kRun = 32;  // sampled neighbours: one cache line of 16-bit elements
// Standard deviations of the sampled rank on either side, were its elements drawn one by one, and
// by what its runs differ. A miss only costs time.
constexpr double kMargin = 7.0;
constexpr double kRunMargin = 5.0;
// The bracket holds about 2 * kMargin / sqrt(sample) of the elements; room for twice that.
constexpr int64_t kCollectShare = 8;

// Buffers handed from call to call, so that a stream of tensors does not allocate. They are not
// initialised: only the part that a selection writes becomes resident memory.
class Buffer {
 public:
  explicit Buffer(int64_t size) {
    if (const Idle idle; size > 0 && idle && !idle->empty()) {
      block_ = std::move(idle->back());
      idle->pop_back();
    }
    if (block_.size < size) block_ = Block{std::unique_ptr<uint32_t[]>(new uint32_t[size]), size};
  }
  ~Buffer() {
    try {
      if (const Idle idle; block_.size > 0 && idle) idle->push_back(std::move(block_));
    } catch (const std::bad_alloc&) {
      // no memory to remember it by: it is freed
    }
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  uint32_t* data() { return block_.data.get(); }

 private:
  struct Block {
    std::unique_ptr<uint32_t[]> data;
    int64_t size = 0;
  };
  // What other calls left, unless another thread is looking: one that waited would do so for ever
  // in a process that was forked just then.
  class Idle {
   public:
    Idle() : lock_(mutex(), std::try_to_lock) {}
    explicit operator bool() const { return lock_.owns_lock(); }
    std::vector<Block>* operator->() const {
      static std::vector<Block> blocks;
      return &blocks;
    }

   private:
    static std::mutex& mutex() {
      static std::mutex instance;
      return instance;
    }
    std::unique_lock<std::mutex> lock_;
  };

  Block block_;
};

uint32_t kth_largest(uint32_t* begin, uint32_t* end, int64_t k) {
  uint32_t* place = begin + (k - 1);
  std::nth_element(begin, place, end, std::greater<uint32_t>());
  return *place;
}

void small_kth(const DeltaJob& job, int64_t n, const std::vector<RankQuery>& queries,
               uint32_t* answers) {
  Buffer buffer(n);
  int loaded = -1;
  for (size_t q = 0; q < queries.size(); ++q) {
    if (queries[q].expert != loaded) {
      loaded = queries[q].expert;
      current().magnitudes(job, loaded, 0, n, buffer.data());
    }
    answers[q] = kth_largest(buffer.data(), buffer.data() + n, queries[q].k);
  }
}

// The first element of run r of `runs`: scattered, reproducible, each in its own part of n
// elements.
int64_t position_of(int64_t r, int64_t runs, int64_t n) {
  const int64_t stride = n / runs;
  uint32_t word, unused1, unused2, unused3;
  philox(static_cast<uint64_t>(r), 0, word, unused1, unused2, unused3);
  const int64_t spread = stride > kRun ? stride - kRun : 1;
  return r * stride + static_cast<int64_t>(word) % spread;
}

// The standard deviation of the sampled number above `bound`, from how much runs differ in it.
double deviation_of(const uint32_t* values, const std::vector<int64_t>& run_ends, uint32_t bound) {
  double sum = 0.0, squares = 0.0;
  int64_t begin = 0;
  for (int64_t end : run_ends) {
    int64_t above = 0;
    for (int64_t i = begin; i < end; ++i) above += values[i] > bound;
    sum += static_cast<double>(above);
    squares += static_cast<double>(above) * static_cast<double>(above);
    begin = end;
  }
  const double runs = static_cast<double>(run_ends.size());
  return std::sqrt(std::max(0.0, squares - sum * sum / runs));
}

// `values` are the sample in runs, `sorted` has room for a copy.
Bracket bracket_of(const uint32_t* values, const std::vector<int64_t>& run_ends, uint32_t* sorted,
                   int64_t k, int64_t n) {
  const int64_t size = run_ends.back();
  std::copy(values, values + size, sorted);
  const double share = static_cast<double>(k) / static_cast<double>(n);
  const double rank = share * static_cast<double>(size);
  const auto at = [&](double r) { return static_cast<int64_t>(std::floor(r)); };
  const int64_t mid = std::min(at(rank), size - 1);
  Bracket bracket{0, 0, kAbsMask};
  bracket.mid = kth_largest(sorted, sorted + size, mid + 1);
  const double alone = kMargin * std::sqrt(rank * (1.0 - share));
  const double margin =
      std::max(alone, kRunMargin * deviation_of(values, run_ends, bracket.mid)) + 8.0;
  const int64_t hi = at(rank - margin), lo = at(rank + margin);
  if (hi >= 0) bracket.hi = kth_largest(sorted, sorted + mid + 1, hi + 1);
  if (lo < size && lo > mid) bracket.lo = kth_largest(sorted + mid, sorted + size, lo - mid + 1);
  return bracket;
}

// Collected values of one thread, in memory with room for kSlack more.
struct Part {
  uint32_t* data;
  int64_t size;
};

int64_t count_above(const std::vector<Part>& parts, uint32_t bound) {
  int64_t count = 0;
  for (const Part& part : parts) count += current().count_above(part.data, part.size, bound);
  return count;
}

// Keeps the values in [lo, hi]; returns how many are left.
int64_t narrow(std::vector<Part>& parts, uint32_t lo, uint32_t hi) {
  int64_t left = 0;
  for (Part& part : parts) {
    part.size = current().narrow(part.data, part.size, lo, hi);
    left += part.size;
  }
  return left;
}

// About 2048 of the values, evenly spread, in descending order.
std::vector<uint32_t> spread_sample(const std::vector<Part>& parts, int64_t total) {
  const int64_t step = std::max<int64_t>(1, total / 2048);
  std::vector<uint32_t> values;
  for (const Part& part : parts)
    for (int64_t i = 0; i < part.size; i += step) values.push_back(part.data[i]);
  std::sort(values.begin(), values.end(), std::greater<uint32_t>());
  return values;
}

// The k-th largest of `total` values: samples narrow them down, a few passes at most. Whatever the
// sample says, the counts decide which side to keep; without progress, or with few values left, a
// partition decides.
uint32_t select(std::vector<Part>& parts, int64_t total, int64_t k) {
  constexpr int64_t kFew = 1 << 13;
  while (total > kFew) {
    const std::vector<uint32_t> values = spread_sample(parts, total);
    const int64_t size = static_cast<int64_t>(values.size());
    const double share = static_cast<double>(k) / static_cast<double>(total);
    const int64_t rank = static_cast<int64_t>(share * static_cast<double>(size));
    const int64_t margin = static_cast<int64_t>(
        3.0 * std::sqrt(static_cast<double>(size) * share * (1.0 - share)) + 2.0);
    const uint32_t hi = values[std::max<int64_t>(0, rank - margin)];
    const uint32_t lo = values[std::min(size - 1, rank + margin)];
    const int64_t above = count_above(parts, hi);
    const int64_t within = count_above(parts, lo - 1) - above;  // lo > 0: 0 is never collected
    const int64_t before = total;
    if (k <= above) {
      total = narrow(parts, hi + 1, kAbsMask);
    } else if (k > above + within) {
      k -= above + within;
      total = narrow(parts, 0, lo - 1);
    } else {
      if (lo == hi) return lo;
      k -= above;
      total = narrow(parts, lo, hi);
    }
    if (total == before) break;
  }
  std::vector<uint32_t> rest;
  for (const Part& part : parts) rest.insert(rest.end(), part.data, part.data + part.size);
  return kth_largest(rest.data(), rest.data() + rest.size(), k);
}

// The k-th largest of the collected values and `copies` copies of `repeated`.
uint32_t resolve(std::vector<Part>& parts, uint32_t repeated, int64_t copies, int64_t k) {
  int64_t total = 0;
  for (const Part& part : parts) total += part.size;
  if (copies == 0) return select(parts, total, k);
  const int64_t larger = count_above(parts, repeated);
  if (k <= larger) return select(parts, narrow(parts, repeated + 1, kAbsMask), k);
  if (k <= larger + copies) return repeated;
  return select(parts, narrow(parts, 0, repeated - 1), k - larger - copies);
}

// True and the answer when the bracket held it.
bool answer_of(const Bracket& b, const BracketCounts& c, std::vector<Part>& parts, int64_t k,
               uint32_t* answer) {
  int64_t collected = 0;
  for (const Part& part : parts) {
    if (part.size < 0) return false;
    collected += part.size;
  }
  k -= c.above;
  if (k <= 0) return false;
  if (k <= c.at_hi) return *answer = b.hi, true;
  k -= c.at_hi;
  const int64_t copies = b.mid == b.hi || b.mid == b.lo ? 0 : c.at_mid;
  if (k <= collected + copies) return *answer = resolve(parts, b.mid, copies, k), true;
  k -= collected + copies;
  if (b.lo != b.hi && k <= c.at_lo) return *answer = b.lo, true;
  return false;
}

// body(from, to) for ranges of queries that cover [0, count).
template <class Body>
void over_queries(int count, int threads, Body&& body) {
  parallel_for(count * kReduceBlock, std::min(threads, count), [&](int, int64_t b, int64_t e) {
    body(static_cast<int>(b / kReduceBlock), static_cast<int>(e / kReduceBlock));
  });
}

void histogram_kth(const DeltaJob& job, int64_t n, const RankQuery& query, int threads,
                   uint32_t* answer) {
  const DeltaJob one{job.base, job.experts + query.expert, 1, job.zero_nonfinite};
  std::vector<int64_t> bins(kHistogramBins, 0);
  run_histogram(one, nullptr, n, threads, bins.data());
  int64_t k = query.k;
  int64_t high = kHistogramBins - 1;
  while (k > bins[high]) k -= bins[high--];
  std::fill(bins.begin(), bins.end(), 0);
  run_histogram(one, &high, n, threads, bins.data());
  int64_t low = (1 << kLowBits) - 1;
  while (k > bins[low]) k -= bins[low--];
  *answer = static_cast<uint32_t>(high << kLowBits | low);
}

}  // namespace

Selection::Selection(int64_t n, std::vector<RankQuery> queries, int64_t sample, uint32_t* storage,
                     int64_t size, int threads)
    : n_(n), queries_(std::move(queries)), wanted_(sample), storage_(storage), threads_(threads) {
  const int64_t count = static_cast<int64_t>(queries_.size());
  share_ = size / std::max<int64_t>(1, count);
  if (sample > (share_ - kSlack) / 2 || share_ < 2 * kSlack * threads)
    throw std::length_error("the storage of a selection is too small for its sample");
}

void Selection::sample(const DeltaJob& job, int64_t begin, int64_t count) {
  const int64_t taken = run_ends_.empty() ? 0 : run_ends_.back();
  if (ready_ || count > wanted_ - taken) throw std::length_error("the sample is complete");
  if (count == 0) return;  // no run: brackets are made from at least one value
  for (size_t q = 0; q < queries_.size(); ++q)
    current().magnitudes(job, queries_[q].expert, begin, begin + count,
                         share_of(static_cast<int>(q)) + taken);
  run_ends_.push_back(taken + count);
}

void Selection::set_brackets() {
  const int count = static_cast<int>(queries_.size());
  brackets_.assign(count, Bracket{0, 0, kAbsMask});
  if (!run_ends_.empty()) {
    over_queries(count, threads_, [&](int from, int to) {
      for (int q = from; q < to; ++q)
        brackets_[q] = bracket_of(share_of(q), run_ends_, share_of(q) + wanted_, queries_[q].k, n_);
    });
  }
  counts_.resize(static_cast<size_t>(count) * threads_);
  collected_.clear();  // of a call that found no memory
  const int64_t room = share_ / threads_;
  for (int t = 0; t < threads_; ++t)
    for (int q = 0; q < count; ++q)
      collected_.push_back({share_of(q) + t * room, room - kSlack, 0});
  ready_ = true;
}

// Numbers of threads: small pieces need fewer than there are, and take the emptiest rooms first.
std::vector<int> Selection::emptiest_rooms() const {
  const int queries = static_cast<int>(queries_.size());
  std::vector<int> rooms(threads_);
  for (int t = 0; t < threads_; ++t) rooms[t] = t;
  const auto filled = [&](int t) {
    int64_t most = 0;
    for (int q = 0; q < queries; ++q)
      most = std::max(most, collected_[static_cast<size_t>(t) * queries + q].size);
    return most;
  };
  std::stable_sort(rooms.begin(), rooms.end(), [&](int a, int b) { return filled(a) < filled(b); });
  return rooms;
}

Flags Selection::add(const DeltaJob& job, int64_t count) {
  if (!ready_) set_brackets();
  const int threads = std::min(threads_, threads_for(count, threads_));
  std::vector<Flags> flags(threads, 0);
  const std::vector<int> rooms = emptiest_rooms();
  parallel_for(count, threads, [&](int t, int64_t begin, int64_t end) {
    flags[t] = bracketed(job, begin, end, rooms[t]);
  });
  Flags all = 0;
  for (Flags each : flags) all |= each;
  return all;
}

Flags Selection::add_alone(const DeltaJob& job, int64_t count, int thread) {
  if (!ready_) throw std::logic_error("the sample is not complete");
  return bracketed(job, 0, count, thread);
}

Flags Selection::bracketed(const DeltaJob& job, int64_t begin, int64_t end, int room) {
  const int queries = static_cast<int>(queries_.size());
  const size_t first = static_cast<size_t>(room) * queries;
  return current().bracket(job, queries_.data(), brackets_.data(), queries, begin, end,
                           counts_.data() + first, collected_.data() + first);
}

std::vector<uint32_t> Selection::least() {
  if (!ready_) set_brackets();
  std::vector<uint32_t> bits;
  for (const Bracket& bracket : brackets_) bits.push_back(bracket.lo);
  return bits;
}

std::vector<int> Selection::finish(uint32_t* answers) {
  const int count = static_cast<int>(queries_.size());
  if (!ready_) set_brackets();
  std::vector<char> missed(count, 0);
  over_queries(count, threads_, [&](int from, int to) {
    for (int q = from; q < to; ++q) {
      BracketCounts total;
      std::vector<Part> parts;
      for (int t = 0; t < threads_; ++t) {
        const size_t at = static_cast<size_t>(t) * count + q;
        total.above += counts_[at].above;
        total.at_hi += counts_[at].at_hi;
        total.at_mid += counts_[at].at_mid;
        total.at_lo += counts_[at].at_lo;
        parts.push_back({collected_[at].data, collected_[at].size});
      }
      missed[q] = !answer_of(brackets_[q], total, parts, queries_[q].k, &answers[q]);
    }
  });
  std::vector<int> without;
  for (int q = 0; q < count; ++q)
    if (missed[q]) without.push_back(q);
  return without;
}

Flags run_kth_magnitude(const DeltaJob& job, int64_t n, const std::vector<RankQuery>& queries,
                        int threads, uint32_t* answers) {
  const int64_t count = static_cast<int64_t>(queries.size());
  threads = threads_for(n, threads);
  if (n <= kSmall) {
    // One pass that only looks for NaN and infinity.
    std::vector<Bracket> brackets(queries.size(), Bracket{0, 0, kAbsMask});
    std::vector<BracketCounts> counts(queries.size());
    std::vector<Collected> collected(queries.size(), Collected{nullptr, 0, -1});
    const Flags flags =
        current().bracket(job, queries.data(), brackets.data(), static_cast<int>(count), 0, n,
                          counts.data(), collected.data());
    small_kth(job, n, queries, answers);
    return flags;
  }
  const int64_t runs = std::clamp<int64_t>(n / 256, 8192, 32768) / kRun;
  const int64_t room = n / threads / kCollectShare + 4096 + kSlack;
  const int64_t share = std::max(room * threads, 2 * runs * kRun + kSlack);
  Buffer storage(product(share, count));
  Selection selection(n, queries, runs * kRun, storage.data(), share * count, threads);
  for (int64_t r = 0; r < runs; ++r) selection.sample(job, position_of(r, runs, n), kRun);
  const Flags flags = selection.add(job, n);
  for (int q : selection.finish(answers)) histogram_kth(job, n, queries[q], threads, &answers[q]);
  return flags;
}

}  // namespace mergesafe::cpu
