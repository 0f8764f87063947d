"""Arcee Fusion: only the changes that stand out in their tensor are taken over.

For a base b and one other model x, rows of the last dimension (a vector is one row)::

    p = softmax(x) + 1e-8,   q = softmax(b) + 1e-8      along each row
    importance = |x - b| * sum over the row of p log(p / q)
    threshold = median + 1.5 * (Q3 - Q1)                of the importance in the tensor
    out = x where importance >= threshold, else b       (as b + (x - b))

Quantiles are elements of the sorted importance, of number ``trunc(q * (count - 1))``, and exact
whatever the tensor's size. The divergence is found in float64 and rounded to float32 once. A row
that holds NaN is taken over as it is.

Source: mergekit, https://github.com/arcee-ai/mergekit
"""

from __future__ import annotations

from typing import Any

from mergesafe.methods.elementary import exp, log_ratio
from mergesafe.methods.numbers import float32_of, to_float32
from mergesafe.methods.spec import (
    Inputs,
    KthScore,
    Merge,
    MergeMethod,
    Settings,
    TensorContext,
    TileFunction,
    Unit,
    WeightedSum,
)

#: Added to every probability.
TINY_SHARE = 1e-8
#: Interquartile ranges above the median from which on an importance stands out.
RANGES = 1.5
#: Float32 values that :func:`importance` holds for each element besides the operands.
HOLDS = 20.0


class ArceeFusion(MergeMethod):
    name = "arcee_fusion"
    title = "Arcee Fusion"
    paper = "https://github.com/arcee-ai/mergekit"
    inputs = Inputs(base="required", most=1)
    use = (
        "Takes over from one other model only what it changed most, and keeps the rest of the base "
        "as it is. It has nothing to set."
    )
    deviations = (
        "mergekit finds quartiles and median of tensors of more than a million elements in a "
        "random sample, so that its result changes from run to run; here they are exact. mergekit "
        "computes the divergence in the models' number type, where little is left of it for small "
        "changes: its rounding errors then decide what is kept. Here it is computed in float64."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        last = tensor.numel - 1
        if last < 0:
            yield from ()
            return WeightedSum((1.0, 0.0), of="all")
        places = (last // 4, last // 2, 3 * last // 4)
        score = TileFunction(importance, unit=Unit.ROW, holds=HOLDS, compiled="arcee_importance")
        bits = yield KthScore(tuple((0, tensor.numel - place) for place in places), (score,))
        first, median, third = map(float32_of, bits)
        threshold = to_float32(median + RANGES * (third - first))
        return TileFunction(
            fused, (threshold,), unit=Unit.ROW, holds=4.0, compiled="arcee_fused", scores=(score,)
        )


def importance(tile: Any, settings: Any) -> Any:
    """Of every element of whole rows."""
    [x] = tile.inputs
    return (x - tile.base).abs() * divergence(tile, x, tile.base)


def divergence(tile: Any, x: Any, base: Any) -> Any:
    """Of each row's distributions, one column in float32."""
    p, q = shares(tile, x), shares(tile, base)
    return tile.row_sum(log_ratio(p, q).mul_(p)).float()


def shares(tile: Any, x: Any) -> Any:
    """The softmax of rows and what is added to it, in float64."""
    if not x.shape[-1]:
        return x.double()
    powers = exp(x.double() - x.amax(dim=-1, keepdim=True).double())
    total = tile.row_sum(powers)
    return powers.mul_(total.new_tensor(1.0) / total).add_(TINY_SHARE)


def fused(tile: Any, settings: tuple[float]) -> Any:
    """The base, with what reaches the threshold, or is NaN, from the other model."""
    [threshold], [x], [score] = settings, tile.inputs, tile.scores
    keep = (score < threshold).logical_not()
    return (tile.base + (x - tile.base)).where(keep, tile.base)
