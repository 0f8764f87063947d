"""SCE: select the elements in which the experts vary most, calculate weights, erase minor signs.

With base b, experts x_i and ``delta_i = x_i - b``:

1. Select: of the elements whose variance over the experts is not 0, keep the
   ``trunc(select_topk * count)`` of largest variance, and all that equal the last; ``select_topk``
   of 1 keeps every element.
2. Calculate: ``w_i = mean(delta_i^2) / sum_j mean(delta_j^2)`` over the kept elements; equal
   weights where the sum is below 1e-6.
3. Erase: of the kept ``delta_i`` those stay that have the sign of ``sum_i delta_i`` (+ for 0; a
   delta of 0 never stays). ``out = b + sum w_i delta_i / max(sum w_i, 1e-6)`` over those.

Variances are compared as sums of squares in float64, rounded to float32.

Paper: Wan et al., "FuseChat: Knowledge Fusion of Chat Models", https://arxiv.org/abs/2408.07990
"""

from __future__ import annotations

from mergesafe.methods.spec import (
    Inputs,
    Merge,
    MergeMethod,
    MergeSelected,
    Parameter,
    ScoreNorms,
    ScoreThreshold,
    Settings,
    TensorContext,
)
from mergesafe.methods.statistics import NO_SCORE

#: Sums of mean squares below this give equal weights.
TINY_ENERGY = 1e-6


class Sce(MergeMethod):
    name = "sce"
    title = "SCE"
    paper = "https://arxiv.org/abs/2408.07990"
    inputs = Inputs(base="required")
    parameters = (
        Parameter(
            "select_topk", "float", "share of the varying elements that is kept, by variance",
            default=1.0, minimum=0.0, maximum=1.0, tunable=(0.0, 1.0),
        ),
        Parameter("int8_mask", "bool", "accepted, no effect", default=False, ignored=True),
    )  # fmt: skip
    use = (
        "Experts of one base without weights to choose: it finds the weights of each tensor "
        "from how much the experts changed it. With one expert a `select_topk` below 1 keeps "
        "nothing."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        share = settings.shared["select_topk"]
        lo = 0 if share >= 1.0 else NO_SCORE
        if 0.0 < share < 1.0:
            lo = yield ScoreThreshold(share)
        sums = yield ScoreNorms(lo)
        means = [total / max(1, tensor.numel) for total in sums]
        energy = sum(means)
        if energy < TINY_ENERGY:
            return MergeSelected(tuple(1.0 / len(means) for _ in means), lo)
        return MergeSelected(tuple(mean / energy for mean in means), lo)

    def check(self, settings: Settings) -> list[str]:
        if len(settings.inputs) == 1 and settings.shared["select_topk"] < 1.0:
            return [
                "sce with one expert: nothing varies, so select_topk below 1 keeps nothing and the "
                "result is the base"
            ]
        return []
