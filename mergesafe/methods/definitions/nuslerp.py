"""NuSLERP: spherical interpolation of two models, or of their task vectors where there is a base.

With ``t = w_2 / (w_1 + w_2)`` (1/2 where the sum is below 1e-6) and ``theta`` the angle between the
two::

    out = sin((1 - t) theta) / sin(theta) * x_1 + sin(t theta) / sin(theta) * x_2

With a base the same is made of the task vectors and added to it. ``nuslerp_flatten`` (default)
takes one angle for the tensor. Without it there is an angle for each row (the last dimension), or
with ``nuslerp_row_wise`` for each column (the first dimension). What is parallel is interpolated
linearly. Angles come from float64 sums.

Without ``nuslerp_flatten`` they are found by torch's arc cosine, which may round otherwise
elsewhere: plan and manifest then say ``numerics``.

Paper: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985,
https://doi.org/10.1145/325334.325242; the rules for weights and rows are mergekit's.
"""

from __future__ import annotations

import math
from typing import Any

from mergesafe.methods.numbers import plain, sin
from mergesafe.methods.operations import elements
from mergesafe.methods.spec import (
    Gram,
    Inputs,
    Merge,
    MergeMethod,
    MergeTaskVectors,
    Parameter,
    Settings,
    Sparsify,
    TensorContext,
    TileFunction,
    Unit,
    WeightedSum,
)

#: Weights whose sum is below this share equally.
TINY_SUM = 1e-6
#: 1 - cos^2 at or below this counts as parallel.
PARALLEL = 1e-16
#: Shorter vectors are divided by this length.
TINY_NORM = 1e-7


class Nuslerp(MergeMethod):
    name = "nuslerp"
    title = "NuSLERP"
    paper = "https://doi.org/10.1145/325334.325242"
    inputs = Inputs(base="optional", least=2, most=2)
    parameters = (
        Parameter(
            "weight", "float", "share of this model, relative to the other's", scope="model",
            tunable=(0.0, 1.0), gradient=True,
        ),
        Parameter("nuslerp_flatten", "bool", "one angle for the whole tensor", default=True),
        Parameter(
            "nuslerp_row_wise", "bool", "without nuslerp_flatten: an angle for each column "
            "(first dimension) in place of each row (last dimension)", default=False,
        ),
    )  # fmt: skip
    use = (
        "Two fine-tunes: with `base_model` their task vectors are interpolated, which "
        "[slerp](slerp.md), where the base is one of the two models, cannot do. Weights are "
        "relative, so that [tuning](../tuning.md) finds one number from two."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        one, two = settings.column("weight")
        total = one + two
        t = 0.5 if abs(plain(total)) < TINY_SUM else two / total
        if settings.shared["nuslerp_flatten"] or not tensor.shape:
            gram = yield Gram("deltas" if tensor.base else "inputs")
            weights = slerp_weights(gram[0][0], gram[0][1], gram[1][1], t)
            if tensor.base:
                return MergeTaskVectors(weights, (Sparsify(), Sparsify()))
            return WeightedSum(weights)
        if settings.shared["nuslerp_row_wise"]:
            # both in float64, squared and added up by halves along columns
            operations = elements(tensor.numel, 1, 80.0)
            return TileFunction(
                by_column, t, Unit.MATRIX, 24.0, exact="numerics", operations=operations
            )
        return TileFunction(by_row, t, Unit.ROW, 24.0, exact="numerics")


def slerp_weights(aa: float, ab: float, bb: float, t: Any) -> tuple[Any, Any]:
    """Weights of a and b from their inner products <a,a>, <a,b>, <b,b>, in float64."""
    lengths = max(math.sqrt(max(0.0, aa)), TINY_NORM) * max(math.sqrt(max(0.0, bb)), TINY_NORM)
    cosine = min(1.0, max(-1.0, ab / lengths))
    if 1.0 - cosine * cosine <= PARALLEL:
        return 1.0 - t, t
    theta = math.acos(cosine)
    whole = math.sin(theta)
    return sin((1.0 - t) * theta) / whole, sin(t * theta) / whole


def by_row(tile: Any, t: Any) -> Any:
    """Each row of the last dimension by its own angle."""
    one, two = tile.inputs if tile.base is None else tile.deltas
    made = _between(one, two, t, tile.row_sum)
    return made if tile.base is None else tile.base + made


def by_column(tile: Any, t: Any) -> Any:
    """Each vector along the first dimension by its own angle."""
    one, two = tile.inputs if tile.base is None else tile.deltas
    made = _between(one.transpose(0, -1), two.transpose(0, -1), t, tile.row_sum).transpose(0, -1)
    return made if tile.base is None else tile.base + made


def _between(one: Any, two: Any, t: Any, row_sum: Any) -> Any:
    import torch

    wide = one.double(), two.double()
    norms = [row_sum(x * x).sqrt().clamp(min=TINY_NORM) for x in wide]
    cosine = (row_sum(wide[0] * wide[1]) / (norms[0] * norms[1])).clamp(-1.0, 1.0)
    parallel = 1.0 - cosine * cosine <= PARALLEL
    theta = torch.where(parallel, torch.ones_like(cosine), cosine.clamp(-1.0, 1.0).acos())
    whole = theta.sin()
    first = torch.where(
        parallel, (1.0 - t) * torch.ones_like(theta), ((1.0 - t) * theta).sin() / whole
    )
    second = torch.where(parallel, t * torch.ones_like(theta), (t * theta).sin() / whole)
    return first.float() * one + second.float() * two
