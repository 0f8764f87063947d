// The whole merge of one element in registers, for a fixed number N of experts.
#pragma once

#include <cstdint>

#include "core/element.h"
#include "core/job.h"
#include "core/macros.h"

namespace mergesafe {

// kRandom: masks say what is kept, else windows. kDivide: with election, divide by the weights that
// agree; without, by a divisor other than 1.
template <int N, Elect kElect, bool kRandom, bool kDivide>
struct Chain {
  float rescale[N], weight[N];
  Window kept[N];
  float scale, divisor;

  MS_FN float operator()(float b, const float (&x)[N], const uint32_t (&masks)[N]) const {
    float d[N];
    float total = 0.0f;
    for (int i = 0; i < N; ++i) {
      const float delta = x[i] - b;
      const bool keep = kRandom ? masks[i] != 0 : in_window(delta, kept[i]);
      d[i] = weighted(keep, delta, rescale[i], weight[i]);
      total = total + (kElect == Elect::kCount ? sign(d[i]) : d[i]);
    }
    float by = divisor;
    if (kElect != Elect::kNone) {
      const uint32_t flip = elected_flip(total);
      total = 0.0f;
      by = 0.0f;
      for (int i = 0; i < N; ++i) {
        const bool agreed = agrees(d[i], flip);
        total = total + pick(agreed, d[i]);
        by = by + pick(agreed, weight[i]);
      }
      by = by != 0.0f ? by : 1.0f;
    }
    return kDivide ? finish(b, total, by, scale) : changed(b, total * scale);
  }
};

}  // namespace mergesafe
