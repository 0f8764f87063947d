"""Multi-SLERP: the weighted mean direction of several models, at their weighted mean length.

With ``u_i = x_i / (|x_i| + eps)`` of the flattened tensors (of the task vectors, where there is a
base) and ``M = sum_i w_i u_i``::

    out = (sum_i w_i |x_i|) * M / |M|

With a base that mean is added to it. Two models whose directions cancel are averaged by the
weights; of more it is an error. Lengths and angles come from the Gram matrix in float64.

Source: https://goddard.blog/posts/multislerp-wow-what-a-cool-idea
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mergesafe.errors import ArgumentError
from mergesafe.methods.numbers import plain
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
    WeightedSum,
)


class Multislerp(MergeMethod):
    name = "multislerp"
    title = "Multi-SLERP"
    paper = "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea"
    inputs = Inputs(base="optional")
    parameters = (
        Parameter(
            "weight", "float", "weight of this model in the mean", scope="model",
            tunable=(0.0, 1.0), gradient=True,
        ),
        Parameter(
            "normalize_weights", "bool", "divide the weights by their sum", default=True
        ),
        Parameter(
            "eps", "float", "added to lengths; a shorter mean has no direction", default=1e-8,
            minimum=0.0,
        ),
    )  # fmt: skip
    use = (
        "Three or more models where an average would shorten the weights, with a weight for "
        "each. Without weights, [karcher](karcher.md) finds the exact mean on the sphere."
    )
    deviations = (
        "mergekit goes on from M / |M| through the tangent space there and back by the "
        "exponential map. The weighted tangent vectors `u_i - <u_i, m> m` at `m = M / |M|` add "
        "up to `M - <M, m> m = 0` but for rounding, so that the point is the same."
    )

    def unused(self, settings: Settings) -> frozenset[int]:
        weights = settings.column("weight")
        return frozenset(i for i, w in enumerate(weights) if w == 0 and len(weights) > 1)

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        if tensor.inputs == 1:
            return WeightedSum((1.0,))
        weights = settings.column("weight")
        if settings.shared["normalize_weights"]:
            total = sum(weights)
            if plain(total) == 0:
                raise ArgumentError(
                    f"tensor '{tensor.name}': the weights of multislerp sum to zero, so they "
                    "cannot be normalized; change one, or set normalize_weights: false"
                )
            weights = [weight / total for weight in weights]
        gram = yield Gram("deltas" if tensor.base else "inputs")
        shares = mean_weights(gram, weights, settings.shared["eps"])
        if shares is None:
            raise ArgumentError(
                f"tensor '{tensor.name}': the weighted directions of multislerp cancel, so their "
                "mean has none; change a weight"
            )
        if tensor.base:
            return MergeTaskVectors(tuple(shares), (Sparsify(),) * tensor.inputs)
        return WeightedSum(tuple(shares))


def mean_weights(
    gram: Sequence[Sequence[float]], weights: Sequence[Any], eps: float
) -> list[Any] | None:
    """The weights of the tensors in the mean, from their inner products.

    Two tensors whose directions cancel are averaged by the weights, more have no mean: None.
    """
    norms = [math.sqrt(max(0.0, gram[i][i])) for i in range(len(gram))]
    parts = [
        w / (norm + eps) if norm + eps else w * 0.0 for w, norm in zip(weights, norms, strict=True)
    ]
    square = sum(a * b * gram[i][j] for i, a in enumerate(parts) for j, b in enumerate(parts))
    if plain(square) <= eps * eps:
        return list(weights) if len(parts) == 2 or not any(norms) else None
    length = sum(w * norm for w, norm in zip(weights, norms, strict=True))
    return [length * part / square**0.5 for part in parts]
