"""CART: task vectors from the average of the experts, of which each keeps its leading directions.

With the average ``A = mean(W_1, ..., W_N)`` of N weights of shape [m, n] and
``k = max(1, trunc(rank * min(m, n)))``::

    out = A + lambda * sum_i( the first k singular triples of W_i - A )

At a ``rank`` of 1 the task vectors add up to zero, and the average comes out. Tensors that are no
matrices of layers (embeddings, heads, norms, biases) are averaged. No base is read.

Paper: Choi et al., "Revisiting Weight Averaging for Model Merging",
https://arxiv.org/abs/2412.12153
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from mergesafe.methods.matrices import is_layer_matrix, mean_input, singular_triples
from mergesafe.methods.operations import elements, product, svd
from mergesafe.methods.spec import (
    Dense,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
)


class Cart(MergeMethod):
    name = "cart"
    title = "CART"
    paper = "https://arxiv.org/abs/2412.12153"
    use = (
        "Three or more experts whose average loses what each of them can do, or whose base is not "
        "known. Of two experts the average comes out, because their task vectors from it cancel."
    )
    deviations = (
        "None that is known. `rank` and `lambda` are those of the released configurations, which "
        "are for vision models."
    )
    inputs = Inputs(least=2)
    exact = "numerics"
    parameters = (
        Parameter(
            "rank", "float", "share of the singular triples of each task vector that is kept",
            default=0.08, minimum=0.0, maximum=1.0, tunable=(0.0, 1.0),
        ),
        Parameter(
            "lambda", "float", "factor on the sum of the task vectors", default=1.0,
            tunable=(0.0, 2.0), gradient=True,
        ),
    )  # fmt: skip

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()
        rank, scale = settings.shared["rank"], settings.shared["lambda"]
        if is_layer_matrix(tensor) and tensor.inputs > 2:
            m, n = tensor.shape
            each = svd(m, n) + product(m, int(rank * min(m, n)), n) + elements(m, n, 16.0)
            return Dense(
                centred, (scale,), holds=10.0, prepare=parts(rank),
                operations=each * tensor.inputs,
            )  # fmt: skip
        return mean_input(tensor)


def centred(tile: Any, settings: tuple[Any]) -> Any:
    """The merged matrix."""
    average, total = tile.prepared
    return (average + settings[0] * total).float()


@lru_cache(maxsize=64)
def parts(rank: float) -> Callable[[Any], tuple[Any, Any]]:
    """What finds the average and the sum of the task vectors' leading directions, in float64.

    The same function for the same rank, so that tuning keeps what it found.
    """

    def average_and_directions(tile: Any) -> tuple[Any, Any]:
        average = tile.inputs[0].double()
        for x in tile.inputs[1:]:
            average = average + x
        average = average / len(tile.inputs)
        most = max(1, int(rank * min(average.shape)))
        total = 0.0
        for x in tile.inputs:
            u, s, vh = singular_triples((x - average).float(), most)
            total = total + ((u * s) @ vh).double()
        return average, total

    return average_and_directions
