// Merges against the formula of one element, written out: float32, experts in ascending order.
#include "core/element.h"

#include <cmath>

#include "core/philox.h"
#include "cpu/run.h"
#include "data.h"

using namespace mergesafe;
using unit::Array;
using unit::Random;

namespace {

struct Merge {
  Array base;
  std::vector<Array> experts;
  std::vector<TaskVector> vectors;
  MergeJob job{};

  Merge(Array from, std::vector<Array> list) : base(std::move(from)), experts(std::move(list)) {
    for (const Array& each : experts)
      vectors.push_back({each.input(), 1.0f, 1.0f, 0, kAbsMask, false, 0, 0});
    job.base = base.input();
    job.divisor = job.scale = 1.0f;
  }

  void run(Array& out, int64_t n, int threads = 1) {
    job.vectors = vectors.data();
    job.count = static_cast<int>(vectors.size());
    job.out = out.output();
    cpu::run_merge(job, n, threads);
  }

  float read(const Array& from, int64_t at) const {
    const float value = from[at];
    return job.zero_nonfinite && !std::isfinite(value) ? 0.0f : value;
  }

  bool kept(const TaskVector& v, float delta, int64_t at) const {
    if (v.random) {
      const uint64_t e = job.offset + static_cast<uint64_t>(at);
      uint32_t w[4];
      philox(16 * (e / 64) + e % 16, v.key, w[0], w[1], w[2], w[3]);
      return w[e / 16 % 4] < v.threshold;
    }
    const uint32_t magnitude = std::isnan(delta) ? kNaNMagnitude : bits_of(std::fabs(delta));
    return v.lo <= magnitude && magnitude <= v.hi;
  }

  float expected(int64_t at) const {
    const float b = read(base, at);
    std::vector<float> d;
    float votes = 0.0f;
    for (size_t i = 0; i < vectors.size(); ++i) {
      const TaskVector& v = vectors[i];
      const float delta = read(experts[i], at) - b;
      d.push_back(kept(v, delta, at) ? delta * v.rescale * v.weight : 0.0f);
      if (job.elect == Elect::kCount)
        votes += d[i] > 0.0f ? 1.0f : d[i] < 0.0f ? -1.0f : 0.0f;
      else
        votes += d[i];
    }
    float sum = votes, by = job.divisor;
    if (job.elect != Elect::kNone) {
      sum = by = 0.0f;
      for (size_t i = 0; i < d.size(); ++i) {
        const bool agrees = votes >= 0.0f ? d[i] > 0.0f : d[i] < 0.0f;
        sum += agrees ? d[i] : 0.0f;
        by += agrees ? vectors[i].weight : 0.0f;
      }
      by = job.normalize && by != 0.0f ? by : 1.0f;
    }
    const float change = sum / by * job.scale;
    return change == 0.0f ? b : b + change;
  }

  void check(const Array& out, int64_t n) const {
    for (int64_t at = 0; at < n; ++at)
      CHECK_EQUAL(out.bits(at), unit::rounded_bits(expected(at), out.dtype));
  }
};

Merge merge_of(int experts, int64_t n, Random& random, bool awkward) {
  const auto type = [&] { return unit::kTypes[random.below(3)]; };
  const bool plain = random.below(2) == 0;
  const auto made = [&] {
    Array a = unit::array(plain ? DType::kBF16 : type(), n, random.word(), awkward);
    if (!plain && random.below(2) == 0) a.cast = type();
    return a;
  };
  std::vector<Array> list;
  for (int i = 0; i < experts; ++i) list.push_back(made());
  return Merge(made(), std::move(list));
}

void set_randomly(Merge& merge, Random& random) {
  merge.job.elect = static_cast<Elect>(random.below(3));
  merge.job.normalize = random.below(2) == 0;
  merge.job.scale = random.below(2) == 0 ? 1.0f : 0.7f;
  merge.job.divisor = random.below(2) == 0 ? 1.0f : 1.7f;
  merge.job.zero_nonfinite = random.below(3) == 0;
  merge.job.offset = random.below(2) == 0 ? 0 : static_cast<uint64_t>(random.below(1 << 20));
  const bool masks = random.below(2) == 0;
  for (TaskVector& v : merge.vectors) {
    v.weight = static_cast<float>(random.below(5)) * 0.5f - 0.5f;
    v.random = masks && random.below(2) == 0;
    v.rescale = random.below(2) == 0 ? 1.0f : 1.25f;
    v.threshold = static_cast<uint32_t>(random.word());
    v.key = random.word();
    if (random.below(2) == 0) v.lo = bits_of(0.25f);
    if (random.below(3) == 0) v.hi = bits_of(1.0f);
    if (random.below(8) == 0) v.lo = kAbsMask;  // keeps nothing
  }
}

}  // namespace

MS_CASE(merges_follow_the_formula) {
  constexpr int64_t kSizes[] = {1, 2, 63, 64, 65, 1023, 1024, 1025, 2100};
  unit::every_isa([&] {
    Random random(6);
    for (int round = 0; round < 250; ++round) {
      const int64_t n = kSizes[random.below(9)];
      Merge merge = merge_of(static_cast<int>(random.below(7)), n, random, round % 2 == 1);
      set_randomly(merge, random);
      Array out(unit::kTypes[random.below(3)], n);
      merge.run(out, n);
      merge.check(out, n);
    }
  });
}

MS_CASE(merges_do_not_depend_on_threads) {
  const int64_t n = (9 << 17) + 77;
  for (bool random : {false, true}) {
    std::vector<Array> experts;
    for (uint64_t i = 0; i < 3; ++i) experts.push_back(unit::array(DType::kBF16, n, 20 + i));
    Merge merge(unit::array(DType::kBF16, n, 19), std::move(experts));
    merge.job.elect = Elect::kSum;
    for (TaskVector& v : merge.vectors) v.random = random, v.threshold = 1u << 31;
    Array one(DType::kBF16, n), many(DType::kBF16, n);
    merge.run(one, n, 1);
    for (int threads = 2; threads <= 8; ++threads) {
      merge.run(many, n, threads);
      CHECK(many.narrow == one.narrow);
    }
  }
}

MS_CASE(flags_name_the_inputs_that_are_not_finite) {
  const int64_t n = 3000;
  unit::every_isa([&] {
    for (int bad = -1; bad < 3; ++bad) {
      Array base = unit::array(DType::kBF16, n, 30), x = unit::array(DType::kBF16, n, 31),
            y = unit::array(DType::kF16, n, 32);
      if (bad >= 0) (bad == 0 ? base : bad == 1 ? x : y).set(2999, bad == 2 ? 0x7C00u : 0x7F80u);
      Merge merge(base, {x, y});
      Array out(DType::kF32, n);
      merge.job.out = out.output(), merge.job.vectors = merge.vectors.data(), merge.job.count = 2;
      const uint64_t flags = cpu::run_merge(merge.job, n, 1);
      CHECK_EQUAL(flags, bad < 0 ? 0 : cpu::kOutputFlag | uint64_t{1} << bad);
    }
  });
}

MS_CASE(sums_follow_the_formula) {
  unit::every_isa([] {
    Random random(7);
    for (int round = 0; round < 150; ++round) {
      const int64_t n = 1 + random.below(1500);
      const int count = 1 + static_cast<int>(random.below(7));
      std::vector<Array> arrays;
      std::vector<Input> inputs;
      std::vector<float> weights;
      for (int i = 0; i < count; ++i) {
        arrays.push_back(unit::array(unit::kTypes[random.below(3)], n,
                                     round % 3 == 0 ? 1 : random.word(), true));
        weights.push_back(round % 2 == 0 ? 1.0f / static_cast<float>(count)
                                         : static_cast<float>(random.below(9)) * 0.3f);
      }
      for (const Array& each : arrays) inputs.push_back(each.input());
      Array out(unit::kTypes[random.below(3)], n);
      cpu::run_weighted_sum({inputs.data(), weights.data(), count, out.output(), false}, n, 1);
      float all = weights[0];
      for (int i = 1; i < count; ++i) all += weights[static_cast<size_t>(i)];
      const bool average =
          count > 1 && std::fabs(all - 1.0f) <= static_cast<float>(count) * 0x1p-23f;
      for (int64_t at = 0; at < n; ++at) {
        float total = arrays[0][at] * weights[0];
        bool same = average;
        for (size_t i = 1; i < arrays.size(); ++i) {
          total += arrays[i][at] * weights[i];
          same = same && bits_of(arrays[i][at]) == bits_of(arrays[0][at]);
        }
        CHECK_EQUAL(out.bits(at), unit::rounded_bits(same ? arrays[0][at] : total, out.dtype));
      }
    }
  });
}

MS_CASE(windows_hold_what_they_say) {
  const float nan = __builtin_nanf("");
  CHECK(in_window(nan, window(kNaNMagnitude, kAbsMask)));
  CHECK(in_window(nan, window(0, kNaNMagnitude)));
  CHECK(!in_window(nan, window(0, kInfBits)));
  CHECK(in_window(-__builtin_inff(), window(kInfBits, kInfBits)));
  CHECK(in_window(-0.0f, window(0, 0)));
  CHECK(!in_window(0x1p-149f, window(0, 0)));
  for (uint32_t lo : {kNaNMagnitude + 1, kAbsMask, ~0u})
    for (float value : {0.0f, 1.0f, nan}) CHECK(!in_window(value, window(lo, ~0u)));
  CHECK(in_window(1.0f, window(0, ~0u)));
  CHECK(!in_window(1.0f, window(bits_of(2.0f), bits_of(0.5f))));
}
