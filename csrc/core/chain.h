// The merge of an element, once: for fixed and any numbers of experts, on processors and devices.
//
//   d_i   = weight_i * (rescale_i * (x_i - base)) where kept, else +0      weighted() of element.h
//   total = the sum of the d_i, or of their signs                          vote()
//   total, by = sums of the d_i and weight_i that agree with its sign      agree()
//   out   = base + scale * (total / by)                                    merged()
//
// Sums run over experts in ascending order from +0. Without election the second step is left out,
// total is the sum of all d_i, and by a divisor that is given. merge_element() is all of it for one
// element; loops over many elements side by side, whose sums lie in rows, take the steps.
#pragma once

#include <cstdint>

#include "core/element.h"
#include "core/job.h"
#include "core/macros.h"

namespace mergesafe {

// What all elements of a merge share, of which a kernel may be made for one way to elect and
// divide. divide: with election by the weights that agree; without, by a divisor other than 1.
template <Elect kElect, bool kDivide>
struct FixedRule {
  float scale, divisor;
  static constexpr Elect elect = kElect;
  static constexpr bool divide = kDivide;
};

struct AnyRule {
  float scale, divisor;
  Elect elect;
  bool divide;
};

template <class Rule>
MS_FN float vote(const Rule& rule, float total, float d) {
  return total + (rule.elect == Elect::kCount ? sign(d) : d);
}

// What agrees with the sign that `flip` stands for (element.h).
MS_FN void agree(float d, float weight, uint32_t flip, float& total, float& by) {
  const bool agreed = agrees(d, flip);
  total = total + pick(agreed, d);
  by = by + pick(agreed, weight);
}

template <class Rule>
MS_FN float merged(const Rule& rule, float base, float total, float by) {
  if (!rule.divide) return changed(base, total * rule.scale);
  if (rule.elect != Elect::kNone) by = by != 0.0f ? by : 1.0f;
  return finish(base, total, by, rule.scale);
}

// experts.count(), constexpr where the loops are to be unrolled; experts.weight(i);
// experts.first(i) is d_i, and experts.again(i) the same a second time, kept from the first or made
// anew.
template <class Rule, class Experts>
MS_FN float merge_element(const Rule& rule, float base, Experts&& experts) {
  float total = 0.0f, by = rule.divisor;
  for (int i = 0; i < experts.count(); ++i) total = vote(rule, total, experts.first(i));
  if (rule.elect != Elect::kNone) {
    const uint32_t flip = elected_flip(total);
    total = 0.0f;
    by = 0.0f;
    for (int i = 0; i < experts.count(); ++i)
      agree(experts.again(i), experts.weight(i), flip, total, by);
  }
  return merged(rule, base, total, by);
}

// One element in registers, for a fixed number N of experts. kRandom: masks say what is kept, else
// windows.
template <int N, Elect kElect, bool kRandom, bool kDivide>
struct Chain {
  float rescale[N], weights[N];
  Window kept[N];
  FixedRule<kElect, kDivide> rule;

  MS_FN float operator()(float b, const float (&x)[N], const uint32_t (&masks)[N]) const {
    return merge_element(rule, b, Registers{*this, b, x, masks, {}});
  }

 private:
  struct Registers {
    const Chain& chain;
    float base;
    const float (&x)[N];
    const uint32_t (&masks)[N];
    float d[N];

    static constexpr int count() { return N; }
    MS_FN float weight(int i) const { return chain.weights[i]; }
    MS_FN float first(int i) {
      const float delta = x[i] - base;
      const bool keep = kRandom ? masks[i] != 0 : in_window(delta, chain.kept[i]);
      return d[i] = weighted(keep, delta, chain.rescale[i], chain.weights[i]);
    }
    MS_FN float again(int i) const { return d[i]; }
  };
};

}  // namespace mergesafe
