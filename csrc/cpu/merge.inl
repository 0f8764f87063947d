// weighted_sum and merge_task_vectors. Included once per instruction set.

template <int N>
void sum_chunk(const float* __restrict__ x, const float* weights, int n, float* __restrict__ out) {
  float weight[N];
  for (int i = 0; i < N; ++i) weight[i] = weights[i];
  for (int j = 0; j < n; ++j) {
    float total = x[j] * weight[0];
    for (int i = 1; i < N; ++i) total = total + x[i * kChunk + j] * weight[i];
    out[j] = total;
  }
}

inline void sum_any(const float* x, const float* weights, int count, int n, float* out) {
  for (int j = 0; j < n; ++j) out[j] = x[j] * weights[0];
  for (int i = 1; i < count; ++i)
    for (int j = 0; j < n; ++j) out[j] = out[j] + x[i * kChunk + j] * weights[i];
}

Flags weighted_sum(const SumJob& job, int64_t begin, int64_t end) {
  float* x = thread_scratch(static_cast<int64_t>(job.count + 1) * kChunk);
  float* out = x + static_cast<int64_t>(job.count) * kChunk;
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    for (int i = 0; i < job.count; ++i)
      flags |= flag(i, load(job.inputs[i], pos, n, job.zero_nonfinite, x + i * kChunk));
    switch (job.count) {
      case 1: sum_chunk<1>(x, job.weights, n, out); break;
      case 2: sum_chunk<2>(x, job.weights, n, out); break;
      case 3: sum_chunk<3>(x, job.weights, n, out); break;
      case 4: sum_chunk<4>(x, job.weights, n, out); break;
      default: sum_any(x, job.weights, job.count, n, out);
    }
    if (store(out, n, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}

// out[0, n) = the Philox words of elements [first, first + n), for any alignment of first.
inline void random_words(uint64_t first, int n, uint64_t key, uint32_t* out) {
  uint32_t group[kPhiloxGroup];
  for (uint64_t at = first / kPhiloxGroup * kPhiloxGroup; at < first + n; at += kPhiloxGroup) {
    const uint64_t counter = at / kPhiloxGroup * kPhiloxLanes;
    for (int j = 0; j < kPhiloxLanes; ++j)
      philox(counter + j, key, group[j], group[j + kPhiloxLanes], group[j + 2 * kPhiloxLanes],
             group[j + 3 * kPhiloxLanes]);
    const int skip = at < first ? static_cast<int>(first - at) : 0;
    const int64_t to = static_cast<int64_t>(at + skip - first);
    const int room = n - static_cast<int>(to);
    const int take = kPhiloxGroup - skip < room ? kPhiloxGroup - skip : room;
    std::memcpy(out + to, group + skip, take * sizeof(uint32_t));
  }
}

// Turns Philox words into keep masks: below the threshold.
inline void words_to_masks(uint32_t* words, int n, uint32_t threshold) {
  for (int j = 0; j < n; ++j) words[j] = mask(words[j] < threshold);
}

// Keep masks of one expert's deltas into `masks`.
inline void keep_masks(const TaskVector& v, const float* base, const float* x, uint64_t first,
                       int n, uint32_t* masks) {
  if (v.random) {
    random_words(first, n, v.key, masks);
    words_to_masks(masks, n, v.threshold);
  } else {
    const int32_t lo = static_cast<int32_t>(v.lo), hi = static_cast<int32_t>(v.hi);
    for (int j = 0; j < n; ++j) masks[j] = mask(in_window(x[j] - base[j], lo, hi));
  }
}

// The whole chain of one chunk in registers, for a fixed number N of experts.
template <int N, Elect kElect, bool kRandom>
void merge_chunk(const MergeJob& job, const float* __restrict__ base, const float* __restrict__ x,
                 const uint32_t* __restrict__ masks, int n, float* __restrict__ out) {
  float rescale[N], weight[N];
  int32_t lo[N], hi[N];
  for (int i = 0; i < N; ++i) {
    rescale[i] = job.vectors[i].rescale;
    weight[i] = job.vectors[i].weight;
    lo[i] = static_cast<int32_t>(job.vectors[i].lo);
    hi[i] = static_cast<int32_t>(job.vectors[i].hi);
  }
  const float scale = job.scale, fixed_divisor = job.divisor;
  const bool normalize = job.normalize;
  for (int j = 0; j < n; ++j) {
    const float b = base[j];
    float d[N];
    float total = 0.0f;
    for (int i = 0; i < N; ++i) {
      const float delta = x[i * kChunk + j] - b;
      const bool keep = kRandom ? masks[i * kChunk + j] != 0 : in_window(delta, lo[i], hi[i]);
      d[i] = weighted(keep, delta, rescale[i], weight[i]);
      total = total + (kElect == Elect::kCount ? sign(d[i]) : d[i]);
    }
    float divisor = fixed_divisor;
    if (kElect != Elect::kNone) {
      const uint32_t flip = elected_flip(total);
      total = 0.0f;
      divisor = 0.0f;
      for (int i = 0; i < N; ++i) {
        const bool kept = agrees(d[i], flip);
        total = total + pick(kept, d[i]);
        divisor = divisor + pick(kept, weight[i]);
      }
      divisor = (divisor != 0.0f) & normalize ? divisor : 1.0f;
    }
    out[j] = finish(b, total, divisor, scale);
  }
}

// The same chain for any number of experts, through scratch; x and masks are overwritten.
template <Elect kElect>
void merge_any(const MergeJob& job, const float* __restrict__ base, float* __restrict__ x,
               uint32_t* __restrict__ masks, int n, float* __restrict__ out) {
  float divisor[kChunk];
  for (int j = 0; j < n; ++j) out[j] = 0.0f;
  for (int i = 0; i < job.count; ++i) {
    const TaskVector& v = job.vectors[i];
    float* d = x + i * kChunk;
    const uint32_t* keep = masks + i * kChunk;
    const float rescale = v.rescale, weight = v.weight;
    for (int j = 0; j < n; ++j) {
      d[j] = weighted(keep[j] != 0, d[j] - base[j], rescale, weight);
      out[j] = out[j] + (kElect == Elect::kCount ? sign(d[j]) : d[j]);
    }
  }
  if (kElect == Elect::kNone) {
    const float by = job.divisor, scale = job.scale;
    for (int j = 0; j < n; ++j) out[j] = finish(base[j], out[j], by, scale);
    return;
  }
  uint32_t* flip = masks;  // the keep masks have been used
  for (int j = 0; j < n; ++j) {
    flip[j] = elected_flip(out[j]);
    out[j] = 0.0f;
    divisor[j] = 0.0f;
  }
  for (int i = 0; i < job.count; ++i) {
    const float* d = x + i * kChunk;
    const float weight = job.vectors[i].weight;
    for (int j = 0; j < n; ++j) {
      const bool kept = agrees(d[j], flip[j]);
      out[j] = out[j] + pick(kept, d[j]);
      divisor[j] = divisor[j] + pick(kept, weight);
    }
  }
  const float scale = job.scale;
  const bool normalize = job.normalize;
  for (int j = 0; j < n; ++j) {
    const float by = (divisor[j] != 0.0f) & normalize ? divisor[j] : 1.0f;
    out[j] = finish(base[j], out[j], by, scale);
  }
}

template <int N, bool kRandom>
void merge_fixed(const MergeJob& job, const float* base, const float* x, const uint32_t* masks,
                 int n, float* out) {
  switch (job.elect) {
    case Elect::kNone: return merge_chunk<N, Elect::kNone, kRandom>(job, base, x, masks, n, out);
    case Elect::kSum: return merge_chunk<N, Elect::kSum, kRandom>(job, base, x, masks, n, out);
    case Elect::kCount: return merge_chunk<N, Elect::kCount, kRandom>(job, base, x, masks, n, out);
  }
}

template <bool kRandom>
void merge_dispatch(const MergeJob& job, const float* base, float* x, uint32_t* masks, int n,
                    float* out) {
  switch (job.count) {
    case 1: return merge_fixed<1, kRandom>(job, base, x, masks, n, out);
    case 2: return merge_fixed<2, kRandom>(job, base, x, masks, n, out);
    case 3: return merge_fixed<3, kRandom>(job, base, x, masks, n, out);
    case 4: return merge_fixed<4, kRandom>(job, base, x, masks, n, out);
    default: break;
  }
  switch (job.elect) {
    case Elect::kNone: return merge_any<Elect::kNone>(job, base, x, masks, n, out);
    case Elect::kSum: return merge_any<Elect::kSum>(job, base, x, masks, n, out);
    case Elect::kCount: return merge_any<Elect::kCount>(job, base, x, masks, n, out);
  }
}

Flags merge_task_vectors(const MergeJob& job, int64_t begin, int64_t end) {
  const int64_t row = kChunk;
  float* base = thread_scratch((2 + 2 * static_cast<int64_t>(job.count)) * row);
  float* out = base + row;
  float* x = out + row;
  uint32_t* masks = reinterpret_cast<uint32_t*>(x + job.count * row);
  bool random = false;
  for (int i = 0; i < job.count; ++i) random |= job.vectors[i].random;
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    for (int i = 0; i < job.count; ++i) {
      const TaskVector& v = job.vectors[i];
      flags |= flag(i + 1, load(v.input, pos, n, job.zero_nonfinite, x + i * row));
      if (random || job.count > 4)
        keep_masks(v, base, x + i * row, job.offset + pos, n, masks + i * row);
    }
    if (random)
      merge_dispatch<true>(job, base, x, masks, n, out);
    else
      merge_dispatch<false>(job, base, x, masks, n, out);
    if (store(out, n, job.out, pos)) flags |= kOutputFlag;
  }
  return flags;
}
