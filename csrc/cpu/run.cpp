#include "cpu/run.h"

#include <new>

#include "cpu/parallel.h"

namespace mergesafe::cpu {
namespace {

// Runs body(begin, end) -> Flags over threads and joins the flags.
template <class Body>
Flags over_threads(int64_t n, int threads, Body&& body) {
  const int used = threads_for(n, threads);
  std::vector<Flags> flags(used, 0);
  parallel_for(n, used, [&](int t, int64_t begin, int64_t end) { flags[t] = body(begin, end); });
  Flags all = 0;
  for (Flags each : flags) all |= each;
  return all;
}

int64_t blocks_of(int64_t n) { return (n + kReduceBlock - 1) / kReduceBlock; }

// The same over whole rows: parallel_for() cuts at blocks of elements.
template <class Body>
Flags over_rows(int64_t n, int64_t columns, int threads, Body&& body) {
  const int64_t rows = n / columns;
  const int used = static_cast<int>(std::min<int64_t>(threads_for(n, threads), rows));
  if (used <= 1) return body(0, n);
  std::vector<Flags> flags(used, 0);
  const auto cut = [&](int64_t t) { return (rows / used * t + rows % used * t / used) * columns; };
  parallel_for(used * kReduceBlock, used,
               [&](int t, int64_t, int64_t) { flags[t] = body(cut(t), cut(t + 1)); });
  Flags all = 0;
  for (Flags each : flags) all |= each;
  return all;
}

// The same with a body(begin, end, sums) that gives `stride` sums of each block; totals are
// continued by them, block after block.
template <class Body>
Flags over_blocks(int64_t n, int threads, int64_t stride, double* totals, Body&& body) {
  std::vector<double> sums(product(blocks_of(n), stride));
  const Flags flags = over_threads(n, threads, [&](int64_t begin, int64_t end) {
    return body(begin, end, sums.data() + begin / kReduceBlock * stride);
  });
  for (int64_t block = 0; block < blocks_of(n); ++block)
    for (int64_t i = 0; i < stride; ++i) totals[i] = totals[i] + sums[block * stride + i];
  return flags;
}

// out[i] = the sum of sums[term][i], kReduceFan consecutive terms at a time until one is left.
void add_terms(std::vector<double>& sums, int64_t terms, int64_t stride, double* out) {
  while (terms > 1) {
    const int64_t groups = (terms + kReduceFan - 1) / kReduceFan;
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t first = group * kReduceFan, end = std::min(terms, first + kReduceFan);
      for (int64_t i = 0; i < stride; ++i) {
        double total = sums[first * stride + i];
        for (int64_t term = first + 1; term < end; ++term) total = total + sums[term * stride + i];
        sums[group * stride + i] = total;
      }
    }
    terms = groups;
  }
  for (int64_t i = 0; i < stride; ++i) out[i] = terms > 0 ? sums[i] : 0.0;
}

// The larger of the two; a NaN on either side stays, as it does in a sum.
double larger(double total, double term) { return total >= term || total != total ? total : term; }

}  // namespace

int64_t product(int64_t a, int64_t b) {
  int64_t both;
  constexpr int64_t kMost = INT64_MAX / sizeof(double);
  if (__builtin_mul_overflow(a, b, &both) || both > kMost) throw std::bad_alloc();
  return both;
}

Flags run_weighted_sum(const SumJob& job, int64_t n, int threads) {
  const Kernels& k = current();
  return over_threads(n, threads, [&](int64_t b, int64_t e) { return k.weighted_sum(job, b, e); });
}

Flags run_merge(const MergeJob& job, int64_t n, int threads) {
  const Kernels& k = current();
  return over_threads(n, threads,
                      [&](int64_t b, int64_t e) { return k.merge_task_vectors(job, b, e); });
}

Flags run_fused(int kernel, const FusedJob& job, int64_t n, int threads) {
  const auto run = current().fused.kernels[kernel];
  return over_threads(n, threads, [&](int64_t b, int64_t e) { return run(job, b, e); });
}

Flags run_histogram(const DeltaJob& job, const int64_t* prefixes, int64_t n, int threads,
                    int64_t* counts) {
  const Kernels& k = current();
  const int used = threads_for(n, threads);
  const int64_t bins = static_cast<int64_t>(job.count) * kHistogramBins;
  std::vector<std::vector<int64_t>> partial(used);
  std::vector<Flags> flags(used, 0);
  parallel_for(n, used, [&](int t, int64_t b, int64_t e) {
    if (t > 0) partial[t].assign(bins, 0);
    flags[t] = k.histogram(job, prefixes, b, e, t > 0 ? partial[t].data() : counts);
  });
  Flags all = flags[0];
  for (int t = 1; t < used; ++t) {
    all |= flags[t];
    for (int64_t i = 0; i < bins; ++i) counts[i] += partial[t][i];
  }
  return all;
}

Flags run_gram(const std::vector<Input>& inputs, bool zero_nonfinite, int64_t n, int threads,
               double* totals) {
  const Kernels& k = current();
  const int count = static_cast<int>(inputs.size());
  const int64_t stride = static_cast<int64_t>(count) * count;
  return over_blocks(n, threads, stride, totals, [&](int64_t b, int64_t e, double* sums) {
    return k.gram(inputs.data(), count, zero_nonfinite, b, e, sums);
  });
}

Flags run_delta_gram(const DeltaJob& job, int64_t n, int threads, double* totals) {
  const Kernels& k = current();
  const int64_t stride = static_cast<int64_t>(job.count) * job.count;
  return over_blocks(n, threads, stride, totals, [&](int64_t b, int64_t e, double* sums) {
    return k.delta_gram(job, b, e, sums);
  });
}

Flags run_delta_norms(const MergeJob& job, Norm norm, int64_t n, int threads, double* totals) {
  const Kernels& k = current();
  const int64_t stride = 2 * static_cast<int64_t>(job.count);
  std::vector<double> sums(product(blocks_of(n), stride));
  const Flags flags = over_threads(n, threads, [&](int64_t b, int64_t e) {
    return k.delta_norms(job, norm, b, e, sums.data() + b / kReduceBlock * stride);
  });
  for (int64_t block = 0; block < blocks_of(n); ++block) {
    for (int64_t i = 0; i < stride; ++i) {
      const double term = sums[block * stride + i];
      totals[i] = norm == Norm::kLinf ? larger(totals[i], term) : totals[i] + term;
    }
  }
  return flags;
}

Flags run_compare(const DeltaJob& job, bool with_base, int64_t n, int threads, double* totals,
                  int64_t* counts) {
  const Kernels& k = current();
  const int64_t width = job.count + with_base, stride = width * width;
  const int64_t counters = 2 * static_cast<int64_t>(job.count) * job.count;
  const int used = threads_for(n, threads);
  std::vector<double> sums(product(blocks_of(n), stride));
  std::vector<std::vector<int64_t>> partial(used, std::vector<int64_t>(counters, 0));
  std::vector<Flags> flags(used, 0);
  parallel_for(n, used, [&](int t, int64_t b, int64_t e) {
    flags[t] =
        k.compare(job, with_base, b, e, sums.data() + b / kReduceBlock * stride, partial[t].data());
  });
  Flags all = 0;
  for (int t = 0; t < used; ++t) {
    all |= flags[t];
    for (int64_t i = 0; i < counters; ++i) counts[i] += partial[t][i];
  }
  for (int64_t block = 0; block < blocks_of(n); ++block)
    for (int64_t i = 0; i < stride; ++i) totals[i] = totals[i] + sums[block * stride + i];
  return all;
}

Flags run_count_changes(const DeltaJob& job, float epsilon, int64_t n, int threads,
                        int64_t* counts) {
  const Kernels& k = current();
  const int used = threads_for(n, threads);
  std::vector<std::vector<int64_t>> partial(used, std::vector<int64_t>(2 * job.count, 0));
  std::vector<Flags> flags(used, 0);
  parallel_for(n, used, [&](int t, int64_t b, int64_t e) {
    flags[t] = k.count_changes(job, epsilon, b, e, partial[t].data());
  });
  Flags all = 0;
  for (int t = 0; t < used; ++t) {
    all |= flags[t];
    for (size_t i = 0; i < partial[t].size(); ++i) counts[i] += partial[t][i];
  }
  return all;
}

Flags run_rank_masks(const RankMaskJob& job, int64_t n, int threads) {
  const Kernels& k = current();
  return over_rows(n, job.columns, threads,
                   [&](int64_t b, int64_t e) { return k.rank_masks(job, b, e); });
}

Flags run_stock_rows(const StockJob& job, int64_t n, int threads) {
  const Kernels& k = current();
  return over_rows(n, job.columns, threads,
                   [&](int64_t b, int64_t e) { return k.stock_rows(job, b, e); });
}

Flags run_tile(int function, const TileJob& job, int64_t n, int threads) {
  const auto run = current().tiles.functions[function];
  return over_threads(n, threads, [&](int64_t b, int64_t e) { return run(job, b, e); });
}

Flags run_tile_scores(int function, const TileScoreJob& job, int64_t n, int threads) {
  const auto run = current().tiles.scores[function];
  const auto body = [&](int64_t b, int64_t e) { return run(job, b, e); };
  if (kTileScores[function].rows) return over_rows(n, job.columns, threads, body);
  return over_threads(n, threads, body);
}

void run_masked_copy(const MaskedCopy& copy, int64_t n, int threads) {
  const Kernels& k = current();
  over_threads(n, threads, [&](int64_t b, int64_t e) {
    k.masked_copy(copy, b, e);
    return Flags{0};
  });
}

Flags run_score_histogram(const ScoreJob& job, int64_t prefix, int64_t n, int threads,
                          int64_t* counts, int64_t* nonzero) {
  const Kernels& k = current();
  const int used = threads_for(n, threads);
  std::vector<std::vector<int64_t>> partial(used);
  std::vector<int64_t> found(used, 0);
  std::vector<Flags> flags(used, 0);
  parallel_for(n, used, [&](int t, int64_t b, int64_t e) {
    if (t > 0) partial[t].assign(kHistogramBins, 0);
    flags[t] = k.score_histogram(job, prefix, b, e, t > 0 ? partial[t].data() : counts, &found[t]);
  });
  Flags all = 0;
  for (int t = 0; t < used; ++t) {
    all |= flags[t];
    *nonzero += found[t];
    for (size_t i = 0; i < partial[t].size(); ++i) counts[i] += partial[t][i];
  }
  return all;
}

Flags run_score_norms(const ScoreJob& job, int64_t n, int threads, double* totals) {
  const Kernels& k = current();
  return over_blocks(n, threads, job.count, totals, [&](int64_t b, int64_t e, double* sums) {
    return k.score_norms(job, b, e, sums);
  });
}

Flags run_merge_scored(const ScoreJob& job, int64_t n, int threads) {
  const Kernels& k = current();
  return over_threads(n, threads, [&](int64_t b, int64_t e) { return k.merge_scored(job, b, e); });
}

void run_inner_products(const Input& grad, const std::vector<Input>& inputs, int64_t n, int threads,
                        double* out) {
  const Kernels& k = current();
  const int count = static_cast<int>(inputs.size());
  std::vector<double> sums(product(blocks_of(n), count));
  over_threads(n, threads, [&](int64_t b, int64_t e) {
    k.inner_products(grad, inputs.data(), count, b, e, sums.data() + b / kReduceBlock * count);
    return Flags{0};
  });
  add_terms(sums, blocks_of(n), count, out);
}

void run_merge_gradient(const GradientJob& job, int64_t n, int threads, double* out) {
  const Kernels& k = current();
  const int64_t stride = job.count + 1;
  std::vector<double> sums(product(blocks_of(n), stride));
  over_threads(n, threads, [&](int64_t b, int64_t e) {
    k.merge_gradient(job, b, e, sums.data() + b / kReduceBlock * stride);
    return Flags{0};
  });
  add_terms(sums, blocks_of(n), stride, out);
}

void run_add_low_rank(const Input& w, const float* a, const float* b, int64_t rank, int64_t columns,
                      float scale, int64_t begin, int64_t end, int threads, float* out) {
  const Kernels& k = current();
  const int64_t size = w.dtype == DType::kF32 ? 4 : 2;
  over_threads(end - begin, threads, [&](int64_t from, int64_t to) {
    const Input part{static_cast<const char*>(w.data) + from * size, w.dtype, w.cast};
    k.add_low_rank(part, a, b, rank, columns, scale, begin + from, begin + to, out + from);
    return Flags{0};
  });
}

void run_triad(float* a, const float* b, const float* c, float s, int64_t n, int threads) {
  const Kernels& k = current();
  over_threads(n, threads, [&](int64_t begin, int64_t end) {
    k.triad(a, b, c, s, begin, end);
    return Flags{0};
  });
}

}  // namespace mergesafe::cpu
