// Magnitudes, the bracket pass of the exact selection, radix histograms. Once per instruction set.

inline void magnitude_chunk(const float* base, const float* x, int n, uint32_t* out) {
  for (int j = 0; j < n; ++j) out[j] = magnitude_bits(x[j] - base[j]);
}

void magnitudes(const DeltaJob& job, int expert, int64_t begin, int64_t end, uint32_t* out) {
  float* base = thread_scratch(2 * kChunk);
  float* x = base + kChunk;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    load(job.base, pos, n, job.zero_nonfinite, base);
    load(job.experts[expert], pos, n, job.zero_nonfinite, x);
    magnitude_chunk(base, x, n, out + (pos - begin));
  }
}

inline void count_chunk(const uint32_t* m, int n, const Bracket& b, BracketCounts& counts) {
  const int32_t hi = static_cast<int32_t>(b.hi), mid = static_cast<int32_t>(b.mid),
                lo = static_cast<int32_t>(b.lo);
  int32_t above = 0, at_hi = 0, at_mid = 0, at_lo = 0;
  for (int j = 0; j < n; ++j) {
    const int32_t value = static_cast<int32_t>(m[j]);
    above += value > hi;
    at_hi += value == hi;
    at_mid += value == mid;
    at_lo += value == lo;
  }
  counts.above += above;
  counts.at_hi += at_hi;
  counts.at_mid += at_mid;
  counts.at_lo += at_lo;
}

// Appends the members strictly inside the bracket, other than mid, to out; returns how many.
// Writes up to 16 values past the last one kept.
#if defined(__AVX512F__)
inline int collect_chunk(const uint32_t* m, int n, const Bracket& b, uint32_t* out) {
  const __m512i lo = _mm512_set1_epi32(static_cast<int>(b.lo));
  const __m512i mid = _mm512_set1_epi32(static_cast<int>(b.mid));
  const __m512i hi = _mm512_set1_epi32(static_cast<int>(b.hi));
  int size = 0;
  for (int j = 0; j < n; j += 16) {
    const __mmask16 valid = static_cast<__mmask16>(n - j < 16 ? (1u << (n - j)) - 1u : 0xFFFFu);
    const __m512i v = _mm512_maskz_loadu_epi32(valid, m + j);
    __mmask16 in = _mm512_mask_cmpgt_epu32_mask(valid, v, lo);
    in = _mm512_mask_cmplt_epu32_mask(in, v, hi);
    in = _mm512_mask_cmpneq_epu32_mask(in, v, mid);
    // Compress in a register, then store all lanes: compressing to memory is slow on some CPUs.
    _mm512_storeu_si512(out + size, _mm512_maskz_compress_epi32(in, v));
    size += __builtin_popcount(in);
  }
  return size;
}
#else
inline int collect_chunk(const uint32_t* m, int n, const Bracket& b, uint32_t* out) {
  int size = 0;
  for (int j = 0; j < n; ++j) {
    out[size] = m[j];
    size += (m[j] > b.lo) & (m[j] < b.hi) & (m[j] != b.mid);
  }
  return size;
}
#endif

Flags bracket(const DeltaJob& job, const RankQuery* queries, const Bracket* brackets, int count,
              int64_t begin, int64_t end, BracketCounts* counts, Collected* collected) {
  float* base = thread_scratch(3 * kChunk);
  float* x = base + kChunk;
  uint32_t* m = reinterpret_cast<uint32_t*>(x + kChunk);
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    int loaded = -1;
    for (int q = 0; q < count; ++q) {
      const int expert = queries[q].expert;
      if (expert != loaded) {
        flags |= flag(expert + 1, load(job.experts[expert], pos, n, job.zero_nonfinite, x));
        magnitude_chunk(base, x, n, m);
        loaded = expert;
      }
      count_chunk(m, n, brackets[q], counts[q]);
      Collected& c = collected[q];
      if (c.size < 0) continue;
      if (c.size + n > c.capacity)
        c.size = -1;
      else
        c.size += collect_chunk(m, n, brackets[q], c.data + c.size);
    }
  }
  return flags;
}

Flags histogram(const DeltaJob& job, const int64_t* prefixes, int64_t begin, int64_t end,
                int64_t* counts) {
  float* base = thread_scratch(3 * kChunk);
  float* x = base + kChunk;
  uint32_t* m = reinterpret_cast<uint32_t*>(x + kChunk);
  Flags flags = 0;
  for (int64_t pos = begin; pos < end; pos += kChunk) {
    const int n = static_cast<int>(end - pos < kChunk ? end - pos : kChunk);
    flags |= flag(0, load(job.base, pos, n, job.zero_nonfinite, base));
    for (int i = 0; i < job.count; ++i) {
      flags |= flag(i + 1, load(job.experts[i], pos, n, job.zero_nonfinite, x));
      magnitude_chunk(base, x, n, m);
      int64_t* bins = counts + static_cast<int64_t>(i) * kHistogramBins;
      if (prefixes == nullptr) {
        for (int j = 0; j < n; ++j) ++bins[m[j] >> kLowBits];
      } else {
        const uint32_t prefix = static_cast<uint32_t>(prefixes[i]);
        for (int j = 0; j < n; ++j)
          bins[m[j] & ((1u << kLowBits) - 1u)] += (m[j] >> kLowBits) == prefix;
      }
    }
  }
  return flags;
}
