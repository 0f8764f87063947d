"""Linear: the weighted average of models ("model soups").

``out = sum_i w_i x_i``, divided by ``sum_i w_i`` when ``normalize`` (default).
Paper: Wortsman et al., https://arxiv.org/abs/2203.05482

This file is the shortest complete merge method: copy it to add one, then name it in registry.py.
"""

from __future__ import annotations

from mergesafe.errors import ArgumentError
from mergesafe.methods.numbers import plain
from mergesafe.methods.spec import (
    Merge,
    MergeMethod,
    Parameter,
    Settings,
    TensorContext,
    WeightedSum,
)

#: A sum this small beside its terms is what rounding left of zero (0.1 + 0.2 - 0.3 is 5.5e-17).
CANCELLED = 1e-8


class Linear(MergeMethod):
    name = "linear"
    title = "Linear"
    paper = "https://arxiv.org/abs/2203.05482"
    parameters = (
        Parameter(
            "weight", "float", "weight of this model in the sum", scope="input",
            tunable=(0.0, 1.0), gradient=True,
        ),
        Parameter("normalize", "bool", "divide by the sum of the weights", default=True),
    )  # fmt: skip

    def unused(self, settings: Settings) -> frozenset[int]:
        return frozenset(i for i, w in enumerate(settings.column("weight")) if w == 0)

    def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
        yield from ()  # needs no statistics
        weights = settings.column("weight")
        if settings.shared["normalize"]:
            total = sum(weights)
            if abs(total) <= CANCELLED * sum(map(abs, weights)):
                numbers = [plain(w) for w in weights]
                raise ArgumentError(
                    f"tensor '{tensor.name}': the weights {numbers} sum to zero, so linear cannot "
                    "normalize them; change a weight or set normalize: false"
                )
            weights = [w / total for w in weights]
        return WeightedSum(tuple(weights))
