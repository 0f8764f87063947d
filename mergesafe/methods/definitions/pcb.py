"""PCB-Merging: changes weighted by how much they matter to their task and agree with the others.

For task vectors ``tau_t`` of N experts, in each tensor, with ``lo_t`` and ``hi_t`` the magnitudes
that a share ``clip`` lies below and above::

    c_t    = |tau_t| clamped to [lo_t, hi_t]
    a_t    = (c_t - lo_t) / (hi_t - lo_t)                   0 where all magnitudes are equal
    beta_t = exp(N a_t^2) * tanh(tau_t * sum_s tau_s)       within the task, and across tasks
    q_t    = the beta_t that a share density lies above, or 0 where that is negative
    s_t    = max(beta_t - q_t, 0) / (max beta_t - q_t)      from 0 to 1
    out = base + lambda * sum_t weight_t s_t sign(tau_t) c_t / max(sum_t s_t, 1e-12)

Clamping takes the elements of number ``trunc(clip n)`` and ``trunc((1 - clip) n - 1)`` of the n
sorted magnitudes, the density that of number ``trunc((1 - density) n)`` of the sorted scores. All
are exact. Scores are computed in float64 and rounded to float32.

Paper: Du et al., "Parameter Competition Balancing for Model Merging",
https://arxiv.org/abs/2410.02396
"""

from __future__ import annotations

from typing import Any

from mergesafe.methods.elementary import exp, tanh
from mergesafe.methods.numbers import float32_of
from mergesafe.methods.spec import (
    Inputs,
    KthMagnitude,
    KthScore,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
    TileFunction,
    WeightedSum,
)

#: Sums of shares that are smaller divide by this instead.
LEAST_SHARE = 1e-12
#: Float32 values that :func:`score` holds for each element besides the operands.
HOLDS = 16.0


class Pcb(MergeMethod):
    name = "pcb"
    title = "PCB-Merging"
    paper = "https://arxiv.org/abs/2410.02396"
    inputs = Inputs(base="required")
    parameters = (
        Parameter(
            "weight", "float", "weight of this expert's task vector", scope="model", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
        Parameter(
            "density", "float", "share of each tensor in which an expert takes part", default=0.05,
            minimum=0.0, maximum=1.0, tunable=(0.01, 0.5),
        ),
        Parameter(
            "clip", "float", "share of magnitudes clamped at either end", default=0.01,
            minimum=0.0, maximum=0.5,
        ),
        Parameter(
            "lambda", "float", "factor on the merged task vector", default=1.2,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip
    use = (
        "Several experts of which each should win where it changed most and the others do not "
        "oppose it. It keeps few elements, as [ties](ties.md) with a low density does."
    )
    deviations = (
        "The authors' code ranks the elements of the whole model as one vector, here each tensor "
        "is ranked by itself; it clamps a share of 0.0001 at either end (`clip: 0.0001`). A "
        "change that opposes the sum of all, whose score is negative, never takes part here; in "
        "the authors' code it does where fewer than `density` of the scores are positive. Where "
        "all scores or magnitudes of a tensor are equal, that code divides 0 by 0; here nothing "
        "takes part."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        n, count = tensor.numel, tensor.inputs
        density, clip = settings.shared["density"], settings.shared["clip"]
        if not n or not density:
            yield from ()
            return WeightedSum((1.0, *[0.0] * count), of="all")
        low = min(n - 1, int(clip * n))
        high = max(low, int((1.0 - clip) * n - 1.0))
        ends = tuple((t, n - place) for t in range(count) for place in (low, high))
        bounds = [*map(float32_of, (yield KthMagnitude(ends)))]
        clamps = [(bounds[2 * t], bounds[2 * t + 1]) for t in range(count)]
        scores = tuple(
            TileFunction(score, (float(t), *clamps[t]), holds=HOLDS, compiled="pcb_score")
            for t in range(count)
        )
        least = n - min(n - 1, int((1.0 - density) * n))
        bits = yield KthScore(tuple((t, k) for t in range(count) for k in (least, 1)), scores)
        found = [*map(float32_of, bits)]
        numbers: list[Any] = [settings.shared["lambda"]]
        for t, weight in enumerate(settings.column("weight")):
            numbers += [*clamps[t], found[2 * t], found[2 * t + 1], weight]
        return TileFunction(
            balanced, tuple(numbers), holds=8.0, compiled="pcb_balanced", scores=scores,
            floors=tuple(found[::2]),
        )  # fmt: skip


def score(tile: Any, settings: tuple[float, float, float]) -> Any:
    """How much the change of one expert counts: its number, and the bounds of its magnitudes.

    Times ``exp(-N)``, which changes no share and keeps the exponential below 1; 0 where negative.
    """
    number, low, high = settings
    tau = tile.inputs[int(number)] - tile.base
    total = tau.double().zero_()
    for x in tile.inputs:
        total.add_((x - tile.base).double())
    across = tanh(total.mul_(tau.double()))
    size = tau.abs_().clamp_(low, high).double().sub_(low)
    share = size.div_(size.new_tensor(high - low)) if high > low else size.zero_()
    within = exp(share.square_().sub_(1.0).mul_(float(len(tile.inputs))))
    return within.mul_(across).clamp_(min=0.0).float()


def balanced(tile: Any, settings: tuple[Any, ...]) -> Any:
    """The merged tile: lambda, then bounds, score of the last that takes part, largest, weight."""
    factor, *numbers = settings
    merged: Any = 0.0
    shares: Any = 0.0
    for t, x in enumerate(tile.inputs):
        low, high, least, most, weight = numbers[5 * t : 5 * t + 5]
        share = (tile.scores[t] - least).clamp_(min=0.0)
        share = share.div_(share.new_tensor(most - least)) if most > least else share.zero_()
        tau = x - tile.base
        clamped = tau.abs().clamp_(low, high).copysign_(tau).mul_(tau != 0)
        merged = merged + weight * (share * clamped)
        shares = shares + share
    change = factor * (merged / shares.clamp(min=LEAST_SHARE))
    return (tile.base + change).where(change != 0, tile.base)
