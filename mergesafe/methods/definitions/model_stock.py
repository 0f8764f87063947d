"""Model Stock: between the base and the average of its experts, where their angles put it.

With ``c`` the mean cosine of the task vectors, two by two, and N of them::

    t = N c / (1 + (N - 1) c)        out = t * mean of the x_i + (1 - t) * base

One ratio a tensor, or one a row (the last dimension) with ``filter_wise``. Where the denominator is
below 1e-6 in magnitude the base is kept.

Paper: Jang et al., "Model Stock: All we need is just a few fine-tuned models",
https://arxiv.org/abs/2403.19522
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from mergesafe.methods.spec import (
    Gram,
    Inputs,
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
    TileFunction,
    Unit,
    WeightedSum,
)

#: Products of norms below this count as this.
TINY_PRODUCT = 1e-6
#: Denominators below this have no finite ratio.
SINGULAR = 1e-6


class ModelStock(MergeMethod):
    name = "model_stock"
    title = "Model Stock"
    paper = "https://arxiv.org/abs/2403.19522"
    inputs = Inputs(base="required", least=2)
    parameters = (
        Parameter("filter_wise", "bool", "one ratio for each row of a tensor", default=False),
    )
    use = (
        "Two or more fine-tunes of one base on the same task: how far to go from the base "
        "follows from the angles between them, so there is nothing to choose."
    )
    evidence = (
        "A study of six methods on Llama 3 and Qwen3 models of 3 to 8 billion parameters "
        "([arXiv 2511.21437](https://arxiv.org/abs/2511.21437)) found no reliable gain over the "
        "base."
    )
    deviations = (
        "Cosines come from float64 sums in a fixed order; mergekit takes them from sums in the "
        "tensors' dtype."
    )

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        if settings.shared["filter_wise"]:
            holds = 3.0 * tensor.inputs + 6.0
            return TileFunction(by_rows, unit=Unit.ROW, holds=holds, compiled="stock_rows")
        gram = yield Gram(of="deltas")
        t = ratio(gram)
        return WeightedSum((1.0 - t, *[t / tensor.inputs] * tensor.inputs), of="all")


def ratio(gram: Sequence[Sequence[float]]) -> float:
    """How far the average of the experts is gone towards, from the task vectors' products."""
    count = len(gram)
    cosines = []
    for i, j in combinations(range(count), 2):
        product = max(TINY_PRODUCT, math.sqrt(gram[i][i]) * math.sqrt(gram[j][j]))
        cosines.append(min(1.0, max(-1.0, gram[i][j] / product)))
    cosine = sum(cosines) / len(cosines)
    denominator = 1.0 + (count - 1) * cosine
    return 0.0 if abs(denominator) < SINGULAR else count * cosine / denominator


def by_rows(tile: Any, settings: Any) -> Any:
    """The same for every row of a tile; sums in float64 in a fixed order.

    csrc/core/stock.h has the same operations in the same order. Averages divide by tensors, because
    on GPUs torch multiplies by the reciprocal of a number.
    """
    deltas, count = tile.deltas, len(tile.inputs)
    norms = [tile.row_sum(d * d).sqrt() for d in deltas]
    cosines = []
    for i, j in combinations(range(count), 2):
        product = (norms[i] * norms[j]).clamp(min=TINY_PRODUCT)
        cosines.append((tile.row_sum(deltas[i] * deltas[j]) / product).clamp(-1.0, 1.0))
    cosine: Any = sum(cosines[1:], cosines[0])
    cosine = cosine / cosine.new_tensor(float(len(cosines)))
    denominator = 1.0 + (count - 1) * cosine
    singular = denominator.abs() < SINGULAR
    t = (count * cosine / denominator.masked_fill(singular, 1.0)).masked_fill(singular, 0.0)
    mean = tile.inputs[0]
    for x in tile.inputs[1:]:
        mean = mean + x
    mean = mean / mean.new_tensor(float(count))
    return t.float() * mean + (1.0 - t).float() * tile.base
